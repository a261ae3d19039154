//! LVM2: physical volumes, groups, and the location of the bytes of logical volumes.
//!
//! # Invariants
//! - Everything here is a plan: a logical volume becomes a run map, and later reads do not use this module.
//! - The newest text (highest seqno) of a group counts, wherever it is.
//!
//! # Why
//! The crates that read LVM provide a reader; restorefs needs the location of the bytes.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod config;
mod group;
mod label;
mod map;
mod raid;
mod segment;
mod store;
#[cfg(test)]
mod tests;
mod thin;

pub(crate) use group::{Group, Logical};
pub(crate) use label::{Label, load_label, load_texts};
pub(crate) use map::{Budget, Devices, Resolver};

use std::collections::BTreeMap;

/// Version of the text on a physical volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// The group's identifier.
    pub(crate) group: String,
    /// Number of writes of the text.
    pub(crate) seqno: u64,
}

/// The newest text of each group, by the group's identifier, and the faults of others.
#[derive(Default)]
pub(crate) struct Groups {
    by_id: BTreeMap<String, Group>,
}

impl Groups {
    /// Adds a text; a newer one replaces the present text of its group. Returns its version.
    ///
    /// # Errors
    /// As [`Group::parse`].
    pub(crate) fn add(&mut self, text: &[u8]) -> crate::error::Result<Version> {
        let group = Group::parse(text)?;
        let version = Version {
            group: group.id.clone(),
            seqno: group.seqno,
        };
        match self.by_id.get(&version.group) {
            Some(known) if known.seqno >= group.seqno => {}
            _ => {
                self.by_id.insert(version.group.clone(), group);
            }
        }
        Ok(version)
    }

    /// The newest text of a group.
    pub(crate) fn get(&self, id: &str) -> Option<&Group> {
        self.by_id.get(id)
    }

    /// All groups in the order of their identifiers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_id.values()
    }
}
