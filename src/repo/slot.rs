//! Slots: names of layer files. The name is a hint for people; `point.json` states which layer belongs to
//! which disk.

use std::fmt;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock;
use crate::error::{Error, Result};
use crate::types::text::Text;
use crate::types::{DiskName, LayerId};

/// LIMIT: longest slot in bytes; leaves room for `.<layer_id>.sums` in a 255-byte name.
const SLOT_BYTES_MAX: usize = 128;
/// LIMIT: bytes of the disk's name in a slot.
const DISK_BYTES_MAX: usize = 32;
/// Suffix of a committed layer.
pub const LAYER_SUFFIX: &str = ".qcow2";
/// Suffix of a layer being written.
pub const OPEN_SUFFIX: &str = ".open";
/// Suffix of a layer's sums.
pub const SUMS_SUFFIX: &str = ".sums";

/// `vda-20261120T020000Z-7f3a9c`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slot(String);

impl Slot {
    /// A new slot for `disk`; the digits come from the layer's id.
    #[must_use]
    pub fn new(disk: &DiskName, at: Timestamp, layer: LayerId) -> Self {
        let disk: String = disk.as_str().chars().take(DISK_BYTES_MAX).collect();
        let [a, b, c, ..] = layer.to_bytes();
        Self(format!(
            "{disk}-{}-{a:02x}{b:02x}{c:02x}",
            clock::slot_time(at)
        ))
    }

    /// Checks a slot read from a file.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a plain file name of the allowed characters.
    pub fn parse(text: &str) -> Result<Self> {
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if text.is_empty()
            || text.len() > SLOT_BYTES_MAX
            || !plain
            || text.starts_with('.')
            || text.contains("..")
        {
            return Err(Error::invalid(format!(
                "\"{}\" is not the name of a layer slot",
                text.escape_debug()
            )));
        }
        Ok(Self(text.to_owned()))
    }

    /// The slot of a layer file's name, as in a QCOW2 backing file name.
    ///
    /// # Errors
    /// `InvalidInput` when it is not `<slot>.qcow2`.
    pub fn of_file(name: &str) -> Result<Self> {
        let slot = name.strip_suffix(LAYER_SUFFIX).ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not the file name of a layer",
                name.escape_debug()
            ))
        })?;
        Self::parse(slot)
    }

    /// The slot that a file in `layers/` belongs to: of a layer, of its sums, or of either while it is being
    /// written.
    #[must_use]
    pub fn of_any_file(name: &str) -> Option<Self> {
        let made = name.strip_suffix(OPEN_SUFFIX);
        let name = made.unwrap_or(name);
        let of_sums = |name: &str| {
            let (slot, _id) = name.strip_suffix(SUMS_SUFFIX)?.rsplit_once('.')?;
            Self::parse(slot).ok()
        };
        let of_layer = || match made {
            Some(slot) => Self::parse(slot).ok(),
            None => Self::of_file(name).ok(),
        };
        let of_build = || made.and_then(split_build).map(|(slot, _)| slot);
        of_sums(name).or_else(of_build).or_else(of_layer)
    }

    /// The layer that a file builds which is to replace the one in its slot; `None` for other files.
    #[must_use]
    pub fn layer_of_build(name: &str) -> Option<LayerId> {
        let name = name.strip_suffix(OPEN_SUFFIX)?;
        split_build(name).map(|(_, layer)| layer)
    }

    /// The layer to which a file of sums belongs, also while it is being written; `None` for other files.
    #[must_use]
    pub fn layer_of_sums(name: &str) -> Option<LayerId> {
        let name = name.strip_suffix(OPEN_SUFFIX).unwrap_or(name);
        let (_slot, id) = name.strip_suffix(SUMS_SUFFIX)?.rsplit_once('.')?;
        id.parse().ok()
    }

    /// The disk's name as the slot spells it, at most its first 32 characters: a hint for people.
    #[must_use]
    pub fn disk_hint(&self) -> Option<DiskName> {
        let name = self.0.rsplitn(3, '-').nth(2)?;
        DiskName::new(name).ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `<slot>.qcow2`.
    #[must_use]
    pub fn layer_file(&self) -> String {
        format!("{}{LAYER_SUFFIX}", self.0)
    }

    /// `<slot>.open`.
    #[must_use]
    pub fn open_file(&self) -> String {
        format!("{}{OPEN_SUFFIX}", self.0)
    }

    /// `<slot>.<layer_id>.open`: a layer that is built to replace the one in the slot.
    #[must_use]
    pub fn build_file(&self, layer: LayerId) -> String {
        format!("{}.{layer}{OPEN_SUFFIX}", self.0)
    }

    /// `<slot>.<layer_id>.sums`.
    #[must_use]
    pub fn sums_file(&self, layer: LayerId) -> String {
        format!("{}.{layer}{SUMS_SUFFIX}", self.0)
    }
}

/// Slot and layer of `<slot>.<layer_id>`.
fn split_build(name: &str) -> Option<(Slot, LayerId)> {
    let (slot, layer) = name.rsplit_once('.')?;
    Some((Slot::parse(slot).ok()?, layer.parse().ok()?))
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Text::deserialize(deserializer)?.0)
            .map_err(|e| D::Error::custom(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskName, LayerId, Slot, Timestamp};

    #[test]
    fn each_file_of_a_layer_tells_its_slot() {
        let slot = Slot::parse("vda.x-20261120T020000Z-7f3a9c").unwrap();
        let layer = LayerId::random();
        let sums = slot.sums_file(layer);
        for name in [
            &slot.layer_file(),
            &slot.open_file(),
            &slot.build_file(layer),
            &sums,
            &format!("{sums}.open"),
        ] {
            assert_eq!(Slot::of_any_file(name).as_ref(), Some(&slot), "{name}");
            let is_build = *name == slot.build_file(layer);
            assert_eq!(
                Slot::layer_of_build(name),
                is_build.then_some(layer),
                "{name}"
            );
            let is_sums = name.contains(".sums");
            assert_eq!(
                Slot::layer_of_sums(name),
                is_sums.then_some(layer),
                "{name}"
            );
        }
        for name in ["x", ".open", "x.qcow2.y", "x.sums", "..open", ""] {
            assert_eq!(Slot::of_any_file(name), None, "{name}");
        }
    }

    #[test]
    fn slots_are_short_plain_names() {
        let disk = DiskName::new("x".repeat(128)).unwrap();
        let layer = LayerId::from_bytes([0x7f, 0x3a, 0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let slot = Slot::new(&disk, Timestamp::UNIX_EPOCH, layer);
        assert_eq!(
            slot.as_str(),
            format!("{}-19700101T000000Z-7f3a9c", "x".repeat(32))
        );
        assert_eq!(Slot::of_file(&slot.layer_file()).unwrap(), slot);
        for bad in ["", "a/b", "../a", ".hidden", "a..b", "a b"] {
            assert!(Slot::parse(bad).is_err(), "{bad}");
        }
        assert!(Slot::of_file("/etc/shadow").is_err());
    }
}
