//! Header extensions, which lie between the fixed header and the backing file's name.
//!
//! # On-disk layout
//! QEMU `docs/interop/qcow2.rst`, "Header extensions": type and length, 32 bits each, then data padded to a
//! multiple of 8. Type 0 ends the list. Restorefs's own extension contains the 16 bytes of a layer's id.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::field;
use crate::error::{Error, ErrorKind, Result};
use crate::types::LayerId;
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};

/// Header extension: end of the list.
pub const EXTENSION_END: u32 = 0;
/// Header extension: format of the backing file.
pub const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Header extension: feature name table.
pub const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
/// Header extension: name of the external data file.
pub const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Restorefs's own header extension: the layer's id, 16 bytes ("RFS1").
pub const EXTENSION_LAYER_ID: u32 = 0x5246_5331;

/// A header extension that this reader does not interpret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Type.
    pub kind: u32,
    /// Data without padding.
    pub data: Vec<u8>,
}

/// The decoded extensions.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<Vec<u8>>,
    pub(super) layer_id: Option<LayerId>,
    pub(super) feature_names: Option<Vec<u8>>,
    pub(super) unknown: Vec<Extension>,
}

impl Extensions {
    /// LIMIT: all extensions lie in the first cluster, so they take at most 2 MiB.
    ///
    /// They begin after the header, and end where the backing name begins (0: there is none), or at the end of
    /// the cluster.
    pub(super) fn parse(
        cluster: &[u8],
        header_length: u32,
        backing_file_offset: u64,
    ) -> Result<Self> {
        let mut found = Self::default();
        let mut at = usize_from_u32(header_length);
        let end = match usize_from_u64(backing_file_offset) {
            0 => cluster.len(),
            name => name.min(cluster.len()),
        };
        let area = cluster.get(..end).unwrap_or(cluster);
        while let Some(kind) = field::u32_at(area, at) {
            if kind == EXTENSION_END {
                break;
            }
            let place = u64_from_usize(at);
            let too_long = || {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the header extension {kind:#010x} passes the end of the header"),
                )
                .at_offset(place)
            };
            let start = at.checked_add(8).ok_or_else(too_long)?;
            let length =
                usize_from_u32(field::u32_at(area, at.saturating_add(4)).ok_or_else(too_long)?);
            let data = start
                .checked_add(length)
                .and_then(|end| area.get(start..end))
                .ok_or_else(too_long)?;
            found.take(kind, data, place)?;
            at = length
                .checked_next_multiple_of(8)
                .and_then(|padded| start.checked_add(padded))
                .ok_or_else(too_long)?;
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8], place: u64) -> Result<()> {
        match kind {
            EXTENSION_BACKING_FORMAT => {
                let text = String::from_utf8(data.to_vec()).map_err(|_| {
                    Error::new(ErrorKind::Corrupt, "the backing format is not text")
                        .at_offset(place)
                })?;
                self.backing_format = Some(text);
            }
            EXTENSION_DATA_FILE => self.data_file = Some(data.to_vec()),
            EXTENSION_FEATURE_NAMES => self.feature_names = Some(data.to_vec()),
            EXTENSION_LAYER_ID => {
                let bytes = data.try_into().map_err(|_| {
                    Error::corrupt("the layer id has a wrong length", 16, data.len())
                        .at_offset(place)
                })?;
                self.layer_id = Some(LayerId::from_bytes(bytes));
            }
            _ => self.unknown.push(Extension {
                kind,
                data: data.to_vec(),
            }),
        }
        Ok(())
    }
}
