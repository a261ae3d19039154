//! The header of an image: raw, decoded and checked.
//!
//! # On-disk layout
//! QEMU `docs/interop/qcow2.rst`; all big-endian.
//!
//! | byte | field | byte | field |
//! |---|---|---|---|
//! | 0 | magic `QFI\xfb` | 60 | nb_snapshots |
//! | 4 | version (2, 3) | 64 | snapshots_offset |
//! | 8 | backing_file_offset | 72 | incompatible_features (v3) |
//! | 16 | backing_file_size | 80 | compatible_features |
//! | 20 | cluster_bits | 88 | autoclear_features |
//! | 24 | size | 96 | refcount_order |
//! | 32 | crypt_method | 100 | header_length |
//! | 36 | l1_size | 104 | compression_type |
//! | 40 | l1_table_offset | `header_length` | extensions: type, length, data padded to 8 |
//! | 48 | refcount_table_offset | | |
//! | 56 | refcount_table_clusters | | |
//!
//! The whole header with extensions and backing name lies in the first cluster.
//!
//! # Why
//! Internal snapshots and bitmaps are ignored: they do not affect the content of the active image.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::extension::{Extension, Extensions};
use super::feature::{self, Autoclear, Compatible, Incompatible};
use super::field;
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{usize_from_u32, usize_from_u64};
use crate::types::{ClusterBits, HostOffset, LayerId};

/// The first four bytes: `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// Bytes of the shortest version 3 header.
pub const V3_BYTES_MIN: u32 = 104;
/// Bytes of the written header: up to and including the compression type, padded to 8.
pub const WRITTEN_BYTES: usize = 112;
/// LIMIT: bytes of the L1 table (QEMU, `QCOW_MAX_L1_SIZE`).
pub const L1_BYTES_MAX: u64 = 32 << 20;
/// LIMIT: bytes of the refcount table (QEMU, `QCOW_MAX_REFTABLE_SIZE`).
pub const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// LIMIT: bytes of the backing file's name (specification).
pub const BACKING_NAME_BYTES_MAX: u32 = 1023;

/// The fixed part in native integers; only magic and version are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the specification")]
pub struct RawHeader {
    pub version: u32,
    pub backing_file_offset: u64,
    pub backing_file_size: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub crypt_method: u32,
    pub l1_size: u32,
    pub l1_table_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u32,
    pub nb_snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible_features: u64,
    pub compatible_features: u64,
    pub autoclear_features: u64,
    pub refcount_order: u32,
    pub header_length: u32,
    pub compression_type: u8,
}

impl RawHeader {
    /// Reads the fixed part from the first bytes of a file.
    ///
    /// # Errors
    /// `Corrupt` when there are too few bytes, or they do not begin with the magic; `Unsupported` for another
    /// version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let short = || {
            Error::corrupt(
                "the file is too short for a QCOW2 header",
                format!("at least {V3_BYTES_MIN} bytes"),
                bytes.len(),
            )
        };
        let magic = field::u32_at(bytes, 0).ok_or_else(short)?;
        if magic != MAGIC {
            return Err(Error::corrupt(
                "this is no QCOW2 image",
                format!("magic {MAGIC:08x}"),
                format!("{magic:08x}"),
            )
            .at_offset(0));
        }
        let u32_at = |at| field::u32_at(bytes, at).ok_or_else(short);
        let u64_at = |at| field::u64_at(bytes, at).ok_or_else(short);
        let version = u32_at(4)?;
        let mut raw = Self {
            version,
            backing_file_offset: u64_at(8)?,
            backing_file_size: u32_at(16)?,
            cluster_bits: u32_at(20)?,
            size: u64_at(24)?,
            crypt_method: u32_at(32)?,
            l1_size: u32_at(36)?,
            l1_table_offset: u64_at(40)?,
            refcount_table_offset: u64_at(48)?,
            refcount_table_clusters: u32_at(56)?,
            nb_snapshots: u32_at(60)?,
            snapshots_offset: u64_at(64)?,
            incompatible_features: 0,
            compatible_features: 0,
            autoclear_features: 0,
            refcount_order: 4,
            header_length: 72,
            compression_type: 0,
        };
        match version {
            2 => return Ok(raw),
            3 => {}
            _ => {
                return Err(Error::unsupported(format!(
                    "QCOW2 version {version} is not supported"
                ))
                .at_offset(4)
                .advise("versions 2 and 3 are"));
            }
        }
        raw.incompatible_features = u64_at(72)?;
        raw.compatible_features = u64_at(80)?;
        raw.autoclear_features = u64_at(88)?;
        raw.refcount_order = u32_at(96)?;
        raw.header_length = u32_at(100)?;
        if raw.header_length > V3_BYTES_MIN {
            raw.compression_type = field::u8_at(bytes, 104).ok_or_else(short)?;
        }
        Ok(raw)
    }

    /// Encodes the fixed part of a version 3 header.
    #[must_use]
    pub fn encode(&self) -> [u8; WRITTEN_BYTES] {
        let mut bytes = [0; WRITTEN_BYTES];
        let mut put = |at: usize, value: &[u8]| {
            // All positions lie within the array.
            field::set(&mut bytes, at, value);
        };
        put(0, &MAGIC.to_be_bytes());
        put(4, &self.version.to_be_bytes());
        put(8, &self.backing_file_offset.to_be_bytes());
        put(16, &self.backing_file_size.to_be_bytes());
        put(20, &self.cluster_bits.to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(32, &self.crypt_method.to_be_bytes());
        put(36, &self.l1_size.to_be_bytes());
        put(40, &self.l1_table_offset.to_be_bytes());
        put(48, &self.refcount_table_offset.to_be_bytes());
        put(56, &self.refcount_table_clusters.to_be_bytes());
        put(60, &self.nb_snapshots.to_be_bytes());
        put(64, &self.snapshots_offset.to_be_bytes());
        put(72, &self.incompatible_features.to_be_bytes());
        put(80, &self.compatible_features.to_be_bytes());
        put(88, &self.autoclear_features.to_be_bytes());
        put(96, &self.refcount_order.to_be_bytes());
        put(100, &self.header_length.to_be_bytes());
        put(104, &[self.compression_type]);
        bytes
    }
}

/// Compression method of compressed clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate with a window of 4 KiB (type 0).
    Zlib,
    /// A Zstandard frame (type 1).
    Zstd,
}

/// The decoded header, with every field checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Cluster size.
    pub cluster_bits: ClusterBits,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Offset of the active L1 table, aligned.
    pub l1_offset: HostOffset,
    /// Offset of the refcount table, aligned.
    pub refcount_table_offset: HostOffset,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Width of a refcount: 2^`refcount_order` bits, 0 to 6.
    pub refcount_order: u32,
    /// Number of internal snapshots; ignored.
    pub snapshots: u32,
    /// Incompatible feature bits, all supported.
    pub incompatible: Incompatible,
    /// Compatible feature bits.
    pub compatible: Compatible,
    /// Auto-clear feature bits.
    pub autoclear: Autoclear,
    /// Compression of compressed clusters.
    pub compression: CompressionType,
    /// Name of the backing file, verbatim.
    pub backing_name: Option<Vec<u8>>,
    /// Format of the backing file, from the extension.
    pub backing_format: Option<String>,
    /// Name of the external data file, from the extension.
    pub data_file_name: Option<Vec<u8>>,
    /// The layer's id, from restorefs's own extension.
    pub layer_id: Option<LayerId>,
    /// All other extensions, in order.
    pub unknown_extensions: Vec<Extension>,
}

impl Header {
    /// Decodes the header from the first cluster of an image, or from a whole shorter file.
    ///
    /// # Errors
    /// `Corrupt` naming field, offset, expected and found value; `Unsupported` naming the feature.
    pub fn parse(cluster: &[u8]) -> Result<Self> {
        let raw = RawHeader::parse(cluster)?;
        let cluster_bits = ClusterBits::new(raw.cluster_bits)
            .ok_or_else(|| wrong("cluster_bits", "9 to 21", raw.cluster_bits, 20))?;
        let cluster = cluster
            .get(..usize_from_u64(cluster_bits.size_bytes()))
            .unwrap_or(cluster);
        check_header_length(&raw, cluster_bits)?;
        let extensions = Extensions::parse(cluster, raw.header_length, raw.backing_file_offset)?;
        check_features(&raw, extensions.feature_names.as_deref())?;
        if raw.crypt_method != 0 {
            return Err(Error::unsupported(format!(
                "the image is encrypted (crypt_method {})",
                raw.crypt_method
            ))
            .at_offset(32)
            .advise("decrypt it with qemu-img convert"));
        }
        let incompatible = Incompatible::from_bits_retain(raw.incompatible_features);
        if incompatible.contains(Incompatible::EXTENDED_L2) && raw.cluster_bits < 14 {
            return Err(wrong(
                "cluster_bits with extended L2 entries",
                "at least 14",
                raw.cluster_bits,
                20,
            ));
        }
        check_tables(&raw, cluster_bits, incompatible)?;
        Ok(Self {
            version: raw.version,
            cluster_bits,
            size_bytes: raw.size,
            l1_entries: raw.l1_size,
            l1_offset: HostOffset(raw.l1_table_offset),
            refcount_table_offset: HostOffset(raw.refcount_table_offset),
            refcount_table_clusters: raw.refcount_table_clusters,
            refcount_order: raw.refcount_order,
            snapshots: raw.nb_snapshots,
            incompatible,
            compatible: Compatible::from_bits_retain(raw.compatible_features),
            autoclear: Autoclear::from_bits_retain(raw.autoclear_features),
            compression: parse_compression(&raw, incompatible)?,
            backing_name: parse_backing_name(cluster, &raw)?,
            backing_format: extensions.backing_format,
            data_file_name: extensions.data_file,
            layer_id: extensions.layer_id,
            unknown_extensions: extensions.unknown,
        })
    }

    /// Whether L2 entries have 128 bits and describe subclusters.
    #[must_use]
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTENDED_L2)
    }

    /// Whether guest data lie in another file.
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTERNAL_DATA)
    }

    /// Entries of one L2 table, which fills one cluster.
    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        let shift = if self.has_extended_l2() { 4 } else { 3 };
        self.cluster_bits.size_bytes() >> shift
    }
}

fn wrong(
    field: &'static str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
    offset: u64,
) -> Error {
    Error::corrupt(
        format!("the QCOW2 header field {field} is wrong"),
        expected,
        found,
    )
    .at_offset(offset)
}

fn check_header_length(raw: &RawHeader, cluster_bits: ClusterBits) -> Result<()> {
    let length = raw.header_length;
    let is_good = raw.version == 2
        || (length >= V3_BYTES_MIN
            && length.is_multiple_of(8)
            && u64::from(length) <= cluster_bits.size_bytes());
    if is_good {
        return Ok(());
    }
    Err(wrong(
        "header_length",
        "a multiple of 8 from 104 to the cluster size",
        length,
        100,
    ))
}

fn check_features(raw: &RawHeader, names: Option<&[u8]>) -> Result<()> {
    let found = Incompatible::from_bits_retain(raw.incompatible_features);
    let unknown = found.difference(Incompatible::SUPPORTED).bits();
    if unknown != 0 {
        let named: Vec<String> = (0..u64::BITS)
            .filter(|bit| unknown.checked_shr(*bit).is_some_and(|b| b & 1 == 1))
            .map(
                |bit| match names.and_then(|table| feature::name_in_table(table, bit)) {
                    Some(name) => format!("bit {bit} ({name})"),
                    None => format!("bit {bit}"),
                },
            )
            .collect();
        return Err(Error::unsupported(format!(
            "the image needs unknown incompatible features: {}",
            named.join(", ")
        ))
        .at_offset(72));
    }
    if found.contains(Incompatible::CORRUPT) {
        return Err(
            Error::new(ErrorKind::Corrupt, "the image is marked as corrupt")
                .at_offset(72)
                .advise("repair a copy of it with qemu-img check -r all"),
        );
    }
    Ok(())
}

fn check_tables(
    raw: &RawHeader,
    cluster_bits: ClusterBits,
    incompatible: Incompatible,
) -> Result<()> {
    let aligned = |field, offset: u64, may_be_absent: bool, at| {
        if cluster_bits.within(offset) == 0 && (offset != 0 || may_be_absent) {
            Ok(())
        } else {
            Err(wrong(
                field,
                format!("a multiple of {}", cluster_bits.size_bytes()),
                offset,
                at,
            ))
        }
    };
    let l1_bytes = u64::from(raw.l1_size).saturating_mul(8);
    if l1_bytes > L1_BYTES_MAX {
        return Err(wrong("l1_size", "at most 4194304", raw.l1_size, 36));
    }
    aligned("l1_table_offset", raw.l1_table_offset, raw.l1_size == 0, 40)?;
    let clusters = cluster_bits.clusters_for(raw.size);
    let shift = if incompatible.contains(Incompatible::EXTENDED_L2) {
        4
    } else {
        3
    };
    let needed = clusters.div_ceil((cluster_bits.size_bytes() >> shift).max(1));
    if u64::from(raw.l1_size) < needed {
        return Err(wrong(
            "l1_size",
            format!("at least {needed} for a size of {}", raw.size),
            raw.l1_size,
            36,
        ));
    }
    aligned(
        "refcount_table_offset",
        raw.refcount_table_offset,
        false,
        48,
    )?;
    let table_bytes =
        u64::from(raw.refcount_table_clusters).saturating_mul(cluster_bits.size_bytes());
    if table_bytes > REFCOUNT_TABLE_BYTES_MAX || raw.refcount_table_clusters == 0 {
        return Err(wrong(
            "refcount_table_clusters",
            format!("1 to {REFCOUNT_TABLE_BYTES_MAX} bytes"),
            raw.refcount_table_clusters,
            56,
        ));
    }
    if raw.refcount_order > 6 {
        return Err(wrong("refcount_order", "0 to 6", raw.refcount_order, 96));
    }
    Ok(())
}

fn parse_compression(raw: &RawHeader, incompatible: Incompatible) -> Result<CompressionType> {
    let compression = match raw.compression_type {
        0 => CompressionType::Zlib,
        1 => CompressionType::Zstd,
        other => {
            return Err(
                Error::unsupported(format!("compression type {other} is not supported"))
                    .at_offset(104)
                    .advise("zlib (0) and zstd (1) are"),
            );
        }
    };
    let has_bit = incompatible.contains(Incompatible::COMPRESSION_TYPE);
    if has_bit == (compression == CompressionType::Zlib) {
        return Err(wrong(
            "compression_type",
            "zlib (0) without and zstd (1) with the feature bit 3",
            raw.compression_type,
            104,
        ));
    }
    Ok(compression)
}

fn parse_backing_name(cluster: &[u8], raw: &RawHeader) -> Result<Option<Vec<u8>>> {
    if raw.backing_file_offset == 0 {
        return Ok(None);
    }
    if raw.backing_file_size == 0 || raw.backing_file_size > BACKING_NAME_BYTES_MAX {
        return Err(wrong(
            "backing_file_size",
            format!("1 to {BACKING_NAME_BYTES_MAX}"),
            raw.backing_file_size,
            16,
        ));
    }
    let start = usize_from_u64(raw.backing_file_offset);
    start
        .checked_add(usize_from_u32(raw.backing_file_size))
        .and_then(|end| cluster.get(start..end))
        .map(|name| Some(name.to_vec()))
        .ok_or_else(|| {
            wrong(
                "backing_file_offset",
                "a place within the first cluster",
                raw.backing_file_offset,
                8,
            )
        })
}
