//! The physical volumes that a scan has found so far.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Known;
use super::device::ScannedDevice;
use super::physical::{Choice, Physical};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::lvm::{Groups, Label, Version, load_texts};
use crate::guest::remark::Remarks;

/// LIMIT: bytes of all groups' texts together (our limit; a group of a thousand volumes on ten devices has 10
/// MiB of them).
const TEXT_BYTES_MAX: usize = 64 << 20;

/// The physical volumes found so far, and the groups that their texts describe.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) groups: Groups,
    pub(super) found: Vec<Physical>,
    /// Bytes of text parsed so far.
    text_bytes: usize,
}

impl Inventory {
    /// Adds a device with a label.
    pub(super) fn add(
        &mut self,
        volume: usize,
        device: &ScannedDevice,
        label: &Label,
        reader: &Arc<dyn ReadAt>,
        notes: &mut Remarks,
    ) {
        let mut found = Physical {
            volume,
            path: device.path.clone(),
            id: label.id.clone(),
            map: Arc::clone(&device.map),
            depth: device.depth,
            is_left_over: device.is_left_over,
            version: None,
            damage: None,
        };
        // A physical volume inside a logical volume is not a device for the machine that owns that volume
        // (lvm.conf: scan_lvs), so it does not count as a copy.
        let is_inner = self
            .found
            .iter()
            .any(|other| other.id == found.id && other.depth < found.depth);
        for text in load_texts(reader, label) {
            if is_inner {
                break;
            }
            let added = text.and_then(|text| text.map(|text| self.text(&text)).transpose());
            match added {
                Ok(version) => found.version = found.version.max(version),
                Err(error) => {
                    let report = error.report();
                    notes.push(format!("{}: LVM metadata: {report}", found.path));
                    found.damage = Some(report);
                }
            }
        }
        self.found.push(found);
    }

    /// Adds the text of a group; returns its version.
    fn text(&mut self, text: &[u8]) -> Result<Version> {
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        if self.text_bytes > TEXT_BYTES_MAX {
            let what = format!("more than {TEXT_BYTES_MAX} bytes of LVM metadata");
            return Err(Error::new(ErrorKind::LimitExceeded, what));
        }
        self.groups.add(text)
    }

    /// The role of a physical volume in its group.
    pub(super) fn role(
        &self,
        found: &Physical,
        choice: Option<&Choice>,
        owners: &BTreeMap<&str, &str>,
    ) -> Known {
        match choice {
            Some(Choice::One(path)) if *path != found.path => {
                return Known::Member(format!("LVM; it is a copy of {path}, which is used"));
            }
            Some(Choice::Undecided(why)) => return Known::Member(format!("LVM; {why}")),
            _ => {}
        }
        if let Some(group) = owners.get(found.id.as_str()) {
            return Known::Member(format!("LVM group {group}"));
        }
        let own = found
            .version
            .as_ref()
            .and_then(|version| self.groups.get(&version.group));
        match (own, &found.damage) {
            (Some(group), _) => {
                let name = &group.name;
                Known::Member(format!(
                    "LVM; it was in the group {name}, which has removed it"
                ))
            }
            (None, Some(damage)) => Known::Damaged(damage.clone()),
            (None, None) => Known::Member("LVM; in no group".to_owned()),
        }
    }
}
