//! `state/<point_id>.json`: facts about a point that change after its commit: tags, checks, found volumes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::copied::{PlainCopy, PointCopy};
use super::plain::{each, plain};
use super::{Sidecar, Unknown, member};
use crate::repo::slot::Slot;
use crate::types::{DiskName, PointId};

/// The facts about a point that can change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Schema number, 1.
    pub schema: u32,
    /// The point.
    pub point_id: PointId,
    /// Labels for people.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Whether somebody keeps the point by hand: retention does not forget it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// The damage that verifying has found; absent while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// Copies of the point at other repositories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<PointCopy>,
    /// Volumes found by probing; `null` until probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Value>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl State {
    /// Records a copy, in place of what is known of the one at the same repository.
    pub fn note_copy(&mut self, copy: &PointCopy) {
        let known = self.copies.iter_mut();
        match known
            .into_iter()
            .find(|known| known.repository_id == copy.repository_id)
        {
            Some(known) => known.clone_from(copy),
            None => self.copies.push(copy.clone()),
        }
    }
}

/// What is damaged of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// When it was found.
    pub found_at: Timestamp,
    /// Faults that are not ranges of a disk: a file that is missing, a table, a sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Damaged ranges of its disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<DiskDamage>,
    /// Faults and ranges that are left out here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Damage {
    /// Whether another look has found the same damage.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.faults, &self.ranges, self.left_out)
            == (&other.faults, &other.ranges, other.left_out)
    }
}

/// A range of a disk whose content is not what was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDamage {
    /// The disk.
    pub disk: DiskName,
    /// Byte offset in the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// The slot of the layer in which the content lies.
    pub layer: Slot,
    /// Byte offset in the layer's file, where the content lies in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_offset: Option<u64>,
    /// What is wrong.
    pub fault: String,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Sidecar for State {
    const WHAT: &'static str = "state of the point";
    const SCHEMA: u32 = 1;

    fn parse_plain(object: &[u8]) -> Option<Self> {
        member::check(object, Self::WHAT).ok()?;
        let plain = serde_json::from_slice::<PlainState>(object).ok()?;
        Some(Self::from(plain)).filter(|state| state.schema <= Self::SCHEMA)
    }
}

// The names in the volumes are compared beforehand, as in any sidecar.
plain!(PlainState of State {
    schema: u32,
    point_id: PointId,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    kept: bool,
    #[serde(default)]
    damage: Option<Damage>,
    #[serde(default, deserialize_with = "each::<PlainCopy, _, _>")]
    copies: Vec<PointCopy>,
    #[serde(default)]
    volumes: Option<Value>,
});
