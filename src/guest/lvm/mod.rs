//! LVM2: physical volumes, groups, and where the bytes of logical volumes lie.
//!
//! # Invariants
//! - Everything here is a plan: a logical volume becomes a run map, and nothing is read through this module later.
//! - The newest text (highest seqno) of a group counts, wherever it was found.
//!
//! # Why
//! The crates that read LVM give a reader; what is needed is where the bytes are.
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
pub(crate) use map::{Budget, Resolver};

use std::collections::BTreeMap;

/// The newest text of each group, by the group's identifier, and what was wrong with others.
#[derive(Default)]
pub(crate) struct Groups {
    by_id: BTreeMap<String, Group>,
}

impl Groups {
    /// Takes a text; one that is newer than what is known of its group replaces it. Answers the group's identifier.
    ///
    /// # Errors
    /// As [`Group::parse`].
    pub(crate) fn add(&mut self, text: &[u8]) -> crate::error::Result<String> {
        let group = Group::parse(text)?;
        let id = group.id.clone();
        match self.by_id.get(&id) {
            Some(known) if known.seqno >= group.seqno => {}
            _ => {
                self.by_id.insert(id.clone(), group);
            }
        }
        Ok(id)
    }

    /// All groups in the order of their identifiers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_id.values()
    }
}
