//! Selects the superblock that the kernel would read, and handles features that do not matter for reading.
//!
//! # Why
//! Linux reads only the first copy. The crate uses the newest of all; but after a new mkfs over an old
//! filesystem, or on a volume that has grown, another copy may belong to an earlier filesystem. So the other
//! copies are used only when the first one is damaged. The crate also refuses simple quotas, which add items
//! to the extent tree and a tree of their own; neither is read here.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use fs_btrfs::superblock::{ChecksumType, SUPER_OFFSETS, Superblock};
use fs_core::BlockRead;

use super::failure::{guard, translate};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le16, le64};
use crate::guest::device::{VolumeBytes, device_error};
use crate::types::width::u64_from_usize;

/// Bytes of a superblock, and of the checksum before the covered bytes.
const BYTES: usize = 4096;
const CHECKSUM_BYTES: usize = 32;
/// Incompatible features, and the checksum type.
const INCOMPAT_AT: usize = 188;
const CHECKSUM_TYPE_AT: usize = 196;
const SIMPLE_QUOTA: u64 = 1 << 16;
/// Names of the incompatible features that are refused (Linux, include/uapi/linux/btrfs.h).
const INCOMPAT: [(u64, &str); 5] = [
    (1 << 7, "raid56"),
    (1 << 12, "zoned"),
    (1 << 13, "extent-tree-v2"),
    (1 << 14, "raid-stripe-tree"),
    (1 << 17, "remap-tree"),
];

/// Names the features that the crate reports as unknown.
fn name_features(block: &[u8], error: fs_btrfs::Error) -> Error {
    let bits = le64(block, INCOMPAT_AT).unwrap_or(0);
    let names: Vec<&str> = INCOMPAT
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    match error {
        fs_btrfs::Error::UnsupportedFeature(_) if !names.is_empty() => {
            Error::unsupported(format!("the btrfs filesystem uses: {}", names.join(", ")))
        }
        other => translate(other),
    }
}

/// Clears the bit of simple quotas in a block with a right checksum.
fn without_simple_quota(block: &mut [u8]) -> Option<()> {
    let bits = le64(block, INCOMPAT_AT)? & !SIMPLE_QUOTA;
    let kind = ChecksumType::from_raw(le16(block, CHECKSUM_TYPE_AT)?).ok()?;
    block
        .get_mut(INCOMPAT_AT..)?
        .first_chunk_mut()
        .map(|field| *field = bits.to_le_bytes())?;
    let digest = kind.digest(block.get(CHECKSUM_BYTES..)?);
    let field = block.get_mut(..CHECKSUM_BYTES)?;
    field.copy_from_slice(digest.get(..CHECKSUM_BYTES)?);
    Some(())
}

fn parse(block: &mut [u8], offset: u64) -> Result<Superblock> {
    guard(|| match Superblock::parse_at(block, offset) {
        Err(fs_btrfs::Error::UnsupportedFeature(_))
            if le64(block, INCOMPAT_AT).unwrap_or(0) & SIMPLE_QUOTA != 0 =>
        {
            without_simple_quota(block);
            Superblock::parse_at(block, offset).map_err(|error| name_features(block, error))
        }
        parsed => parsed.map_err(|error| name_features(block, error)),
    })
}

/// Reads the superblock of a device, with a remark if there is one.
///
/// # Errors
/// `Unsupported` naming the feature; `Corrupt` when no copy is valid; `Io`.
pub(super) fn load(device: &VolumeBytes) -> Result<(Superblock, Option<String>)> {
    let mut first = None;
    for offset in SUPER_OFFSETS {
        if offset.saturating_add(u64_from_usize(BYTES)) > device.size_bytes() {
            continue;
        }
        let mut block = vec![0; BYTES];
        guard(|| {
            device
                .read_at(offset, &mut block)
                .map_err(|error| device_error(&error.to_string()))
        })?;
        match (parse(&mut block, offset), first.take()) {
            (Ok(superblock), None) => return Ok((superblock, None)),
            (Ok(superblock), Some(error)) => {
                let error: Error = error;
                let report = error.report();
                let note = format!(
                    "the superblock is damaged, so the kernel does not mount it; its copy at {offset} was used: {report}"
                );
                return Ok((superblock, Some(note)));
            }
            (Err(error), None) if error.kind() != ErrorKind::Corrupt => return Err(error),
            (Err(error), before) => first = before.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::corrupt("btrfs: the superblock", "one", "none")))
}
