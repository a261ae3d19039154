//! A half of an md mirror: whether it is current.
//!
//! # Why
//! A half that dropped out of a mirror keeps its old filesystem, and with metadata at its end (0.90, 1.0) it
//! looks like any other partition. Its content is older than the guest's view, so it must not be presented as
//! current.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use crate::block::run::RunMap;
use crate::guest::md::Superblock;

/// A device with a superblock.
pub(super) struct Half {
    /// Its position among the volumes.
    pub(super) volume: usize,
    pub(super) path: String,
    pub(super) map: Arc<RunMap<usize>>,
    pub(super) depth: u32,
    pub(super) superblock: Superblock,
}

/// Which halves of a mirror are usable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The half that is read.
    pub(super) carrier: Option<usize>,
    /// For each half: why it is not current, or `None`.
    pub(super) stale: Vec<Option<String>>,
}

/// A half with its counter of events, for people.
pub(super) fn named(half: &Half) -> String {
    format!("{} (events {})", half.path, half.superblock.events)
}

/// Why a half is not current, according to the others and itself.
fn fault(half: &Half, halves: &[Half]) -> Option<String> {
    let own = &half.superblock;
    if !own.is_complete {
        return Some("its superblock records that it does not hold all data".to_owned());
    }
    let others = || halves.iter().filter(|other| other.path != half.path);
    // A difference of one event is an array that was in use when it was captured (Linux, super_1_validate).
    let newer = others()
        .filter(|other| other.superblock.events > own.events.saturating_add(1))
        .max_by_key(|other| other.superblock.events);
    if let Some(newer) = newer {
        let (events, newer) = (own.events, named(newer));
        return Some(format!(
            "it has missed writes: its events are {events}, {newer} is newer"
        ));
    }
    let doubter = others().find(|other| {
        other.superblock.events >= own.events && !other.superblock.trusts(own.number)
    });
    if let Some(doubter) = doubter {
        return Some(format!("{} has it as failed or removed", named(doubter)));
    }
    let twin = others().find(|other| {
        other.superblock.number == own.number && other.superblock.events == own.events
    });
    twin.map(|twin| format!("{} is a copy of it, and neither is newer", named(twin)))
}

/// Decides which halves of one mirror are current, and which of them is read.
pub(super) fn judge(halves: &[Half]) -> Verdict {
    let stale: Vec<Option<String>> = halves.iter().map(|half| fault(half, halves)).collect();
    let mut carrier: Option<usize> = None;
    for (n, (half, fault)) in halves.iter().zip(&stale).enumerate() {
        let best = carrier.and_then(|at| halves.get(at));
        let is_better = best.is_none_or(|best| half.superblock.events > best.superblock.events);
        if fault.is_none() && is_better {
            carrier = Some(n);
        }
    }
    Verdict { carrier, stale }
}
