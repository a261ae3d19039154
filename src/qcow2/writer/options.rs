//! Options of a new layer: size, backing file, compression; and the constants of all layers.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::qcow2::header::{CompressionType, L1_BYTES_MAX};
use crate::types::{ClusterBits, LayerId};

/// Bytes of a cluster of every layer.
pub const CLUSTER_BYTES: u64 = ClusterBits::LAYER.size_bytes();

/// Guest clusters that one L2 table maps.
pub const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;

/// LIMIT: virtual size in bytes, as much as the largest L1 table (QEMU: 32 MiB) can map: 2 PiB.
pub const SIZE_BYTES_MAX: u64 = L1_BYTES_MAX / 8 * L2_ENTRIES * CLUSTER_BYTES;

/// Compression of a layer's clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// No compression.
    #[default]
    None,
    /// Raw deflate; readable by every QEMU.
    Zlib,
    /// Zstandard; readable by QEMU 5.1 and later.
    Zstd,
}

impl Compression {
    /// Whether clusters stay uncompressed.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The method; `None` without compression.
    #[must_use]
    pub const fn kind(self) -> Option<CompressionType> {
        match self {
            Self::None => None,
            Self::Zlib => Some(CompressionType::Zlib),
            Self::Zstd => Some(CompressionType::Zstd),
        }
    }
}

impl FromStr for Compression {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "zlib" => Ok(Self::Zlib),
            "zstd" => Ok(Self::Zstd),
            other => Err(Error::invalid(format!(
                "unknown compression \"{}\"; there are none, zlib, zstd",
                other.escape_debug()
            ))),
        }
    }
}

/// Options of a new layer.
#[derive(Debug, Clone)]
pub struct LayerOptions {
    /// Virtual size in bytes, a multiple of 512, at most [`SIZE_BYTES_MAX`].
    pub size_bytes: u64,
    /// Name of the backing file, which is QCOW2; `None` for a full layer.
    pub backing: Option<String>,
    /// The layer's id.
    pub layer_id: LayerId,
    /// Compression of its compressed clusters.
    pub compression: Compression,
}

/// Refuses a size that is invalid for a layer.
pub(super) fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes.is_multiple_of(512) && size_bytes <= SIZE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a disk's size is a multiple of 512 of at most {SIZE_BYTES_MAX}, not {size_bytes}"
    )))
}
