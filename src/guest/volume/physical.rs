//! Chooses among several copies of an LVM physical volume.
//!
//! # Why
//! A disk of a cloned or restored machine is easily attached beside its original. LVM itself activates no
//! group with such copies, because it cannot know which one is meant. But an old copy can be recognised: its
//! text was written less often.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::block::run::RunMap;
use crate::guest::lvm::{Devices, Version};
use crate::guest::remark::Remarks;

/// A physical volume on a device.
pub(super) struct Physical {
    /// Its position among the volumes.
    pub(super) volume: usize,
    pub(super) path: String,
    pub(super) id: String,
    pub(super) map: Arc<RunMap<usize>>,
    /// Number of tables and groups below it.
    pub(super) depth: u32,
    /// Whether only a left-over partition table lists it.
    pub(super) is_left_over: bool,
    /// Version of the text on it.
    pub(super) version: Option<Version>,
    /// Why its text cannot be read.
    pub(super) damage: Option<String>,
}

/// The choice among physical volumes with one identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one at this path.
    One(String),
    /// None, and why.
    Undecided(String),
}

/// What was chosen so far, by identifier.
#[derive(Default)]
pub(super) struct Chosen {
    pub(super) choices: BTreeMap<String, Choice>,
    /// Location of the bytes, or why there are none.
    pub(super) devices: Devices,
}

/// Chooses among copies; there is at least one.
fn choose(copies: &[&Physical]) -> Choice {
    let newest = copies.iter().max_by_key(|copy| seqno(copy));
    let Some(newest) = newest else {
        return Choice::Undecided("it is not there".to_owned());
    };
    let rivals = copies.iter().filter(|copy| copy.path != newest.path);
    let is_newer = |other: &Physical| match (&newest.version, &other.version) {
        (Some(own), Some(other)) => own.group == other.group && own.seqno > other.seqno,
        _ => false,
    };
    if rivals.clone().all(|other| is_newer(other)) {
        return Choice::One(newest.path.clone());
    }
    let paths: Vec<String> = copies
        .iter()
        .map(|copy| match seqno(copy) {
            Some(seqno) => format!("{} (seqno {seqno})", copy.path),
            None => format!("{} (without a text)", copy.path),
        })
        .collect();
    Choice::Undecided(format!(
        "PV {} is there more than once, and none is newer than the others: {}",
        newest.id,
        paths.join(", ")
    ))
}

fn seqno(physical: &Physical) -> Option<u64> {
    physical.version.as_ref().map(|version| version.seqno)
}

impl Chosen {
    /// Chooses for each identifier without a choice. Copies found later within volumes change no choice.
    pub(super) fn settle(&mut self, found: &[Physical], notes: &mut Remarks) {
        let ids: BTreeSet<&str> = found.iter().map(|found| found.id.as_str()).collect();
        for id in ids {
            if self.choices.contains_key(id) {
                continue;
            }
            let all: Vec<&Physical> = found.iter().filter(|found| found.id == id).collect();
            let rank = |found: &Physical| (found.is_left_over, found.depth);
            let first = all.iter().map(|found| rank(found)).min();
            let copies: Vec<&Physical> = all
                .into_iter()
                .filter(|found| Some(rank(found)) == first)
                .collect();
            let choice = choose(&copies);
            let device = match &choice {
                Choice::One(path) => match copies.iter().find(|copy| copy.path == *path) {
                    Some(copy) => Ok(Arc::clone(&copy.map)),
                    None => continue,
                },
                Choice::Undecided(why) => Err(why.clone()),
            };
            match &choice {
                Choice::One(used) => {
                    for copy in copies.iter().filter(|copy| copy.path != *used) {
                        let path = &copy.path;
                        notes.push(format!(
                            "{path}: LVM device {id} is there a second time, with an older text; {used} is used"
                        ));
                    }
                }
                Choice::Undecided(why) => notes.push(format!("LVM: {why}; none is used")),
            }
            self.devices.insert(id.to_owned(), device);
            self.choices.insert(id.to_owned(), choice);
        }
    }

    /// Whether a physical volume is the chosen copy.
    pub(super) fn is_used(&self, found: &Physical) -> bool {
        matches!(self.choices.get(&found.id), Some(Choice::One(path)) if *path == found.path)
    }
}
