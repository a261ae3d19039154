//! Feature bits of the header, the supported ones, and the image's own table of their names.
//!
//! Source: QEMU `docs/interop/qcow2.rst`, "Header" (bytes 72 to 95) and "Feature name table".

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use bitflags::bitflags;

use super::field;

bitflags! {
    /// Incompatible features (header bytes 72 to 79): an unknown one forbids opening.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Incompatible: u64 {
        /// Refcounts may be wrong; harmless to readers.
        const DIRTY = 1 << 0;
        /// A writer found the metadata inconsistent.
        const CORRUPT = 1 << 1;
        /// Guest data lies in another file.
        const EXTERNAL_DATA = 1 << 2;
        /// The compression type is not zlib.
        const COMPRESSION_TYPE = 1 << 3;
        /// L2 entries have 128 bits and describe 32 subclusters.
        const EXTENDED_L2 = 1 << 4;
        const _ = !0;
    }
}

impl Incompatible {
    /// The features that this reader knows; `CORRUPT` is known and refused.
    pub const SUPPORTED: Self = Self::DIRTY
        .union(Self::CORRUPT)
        .union(Self::EXTERNAL_DATA)
        .union(Self::COMPRESSION_TYPE)
        .union(Self::EXTENDED_L2);
}

bitflags! {
    /// Compatible features (header bytes 80 to 87): unknown ones are ignored.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Compatible: u64 {
        /// Refcounts may be written late; see [`Incompatible::DIRTY`].
        const LAZY_REFCOUNTS = 1 << 0;
        const _ = !0;
    }
}

bitflags! {
    /// Auto-clear features (header bytes 88 to 95): unknown ones are ignored by readers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Autoclear: u64 {
        /// The bitmaps extension is consistent.
        const BITMAPS = 1 << 0;
        /// The external data file is a valid raw image by itself.
        const RAW_EXTERNAL_DATA = 1 << 1;
        const _ = !0;
    }
}

/// Bytes of one entry of the feature name table.
const ENTRY_BYTES: usize = 48;

/// Type byte of incompatible features in the table.
const TYPE_INCOMPATIBLE: u8 = 0;

/// The name that the image's own table gives to an incompatible feature bit.
pub(super) fn name_in_table(table: &[u8], bit: u32) -> Option<String> {
    let entry = table.chunks_exact(ENTRY_BYTES).find(|entry| {
        entry.first() == Some(&TYPE_INCOMPATIBLE)
            && field::u8_at(entry, 1).is_some_and(|b| u32::from(b) == bit)
    })?;
    let name = entry.get(2..)?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    let text = String::from_utf8_lossy(name.get(..end)?);
    Some(text.escape_debug().to_string())
}

/// The feature name table of restorefs's layers: the features of the specification with QEMU's names.
pub(super) fn name_table() -> Vec<u8> {
    const NAMES: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut table = Vec::new();
    for (kind, bit, name) in NAMES {
        let mut entry = [0; ENTRY_BYTES];
        field::set(&mut entry, 0, &[kind, bit]);
        field::set(&mut entry, 2, name.as_bytes());
        table.extend_from_slice(&entry);
    }
    table
}
