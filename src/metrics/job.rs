//! Jobs that have ended.

use prometheus::{IntCounter, Registry};

use super::Family;
use super::family::Registered;

static ENDED: Family = Family::counter(
    "restorefs_jobs_total",
    &["kind", "result"],
    "Jobs that have ended since the process began, by what they did and how they ended.",
);

pub(super) const FAMILIES: &[&Family] = &[&ENDED];

/// The kinds; the last one is for those that this list does not name.
const KINDS: [&str; 10] = [
    "backup",
    "forget",
    "merge",
    "verify",
    "restore",
    "repair",
    "copy",
    "rebuild-catalog",
    "empty-trash",
    "other",
];

const RESULTS: [&str; 6] = [
    "committed",
    "aborted",
    "expired",
    "failed",
    "completed",
    "cancelled",
];

pub(super) struct Series {
    ended: Vec<IntCounter>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        let pairs: Vec<[&str; 2]> = KINDS
            .iter()
            .flat_map(|kind| RESULTS.map(|result| [*kind, result]))
            .collect();
        let values: Vec<&[&str]> = pairs.iter().map(<[&str; 2]>::as_slice).collect();
        Ok(Self {
            ended: ENDED.counters(registry, &values)?,
        })
    }
}

/// Counts a job that has ended: its kind, and its result as in the history.
pub fn note_end(kind: &str, result: &str) {
    let kind = KINDS.iter().position(|known| *known == kind);
    let kind = kind.unwrap_or(KINDS.len() - 1);
    let Some(result) = RESULTS.iter().position(|known| *known == result) else {
        return;
    };
    let series = super::series();
    if let Some(counter) = series.and_then(|s| s.job.ended.get(kind * RESULTS.len() + result)) {
        counter.inc();
    }
}

/// Whether a kind has series of its own.
#[must_use]
pub fn is_known(kind: &str) -> bool {
    KINDS.contains(&kind) && kind != "other"
}

/// Whether a result has series.
#[must_use]
pub fn is_known_result(result: &str) -> bool {
    RESULTS.contains(&result)
}
