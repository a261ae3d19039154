//! What sessions receive, and their commits.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, Registry};

use super::family::Registered;
use super::label::labelled;
use super::{Family, REQUEST_SECONDS};
use crate::error::ErrorKind;

static WRITE_SECONDS: Family = Family::histogram(
    "restorefs_ingest_write_duration_seconds",
    &[],
    "Time to take one write into a session: hashed, compared with the parent, and written or dropped.",
);
static WRITTEN: Family = Family::counter(
    "restorefs_ingest_written_bytes_total",
    &[],
    "Bytes that sessions have received, before equal and zero ones were dropped.",
);
static COMMIT_SECONDS: Family = Family::histogram(
    "restorefs_commit_duration_seconds",
    &[],
    "Time of a commit, whatever its result.",
);
static COMMITS: Family = Family::counter(
    "restorefs_commits_total",
    &["result"],
    "Commits of sessions: committed, refused (the request or the session's state does not allow it; the session goes on), failed.",
);

pub(super) const FAMILIES: &[&Family] = &[&WRITE_SECONDS, &WRITTEN, &COMMIT_SECONDS, &COMMITS];

/// Upper bounds in seconds of a commit.
const COMMIT_BOUNDS: [f64; 11] = [
    0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0,
];

labelled! {
    /// The result of a commit.
    enum Commit {
        Committed = "committed",
        Refused = "refused",
        Failed = "failed",
    }
}

pub(super) struct Series {
    write_seconds: Histogram,
    written: IntCounter,
    commit_seconds: Histogram,
    commits: Vec<IntCounter>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            write_seconds: WRITE_SECONDS.single_histogram(registry, &REQUEST_SECONDS)?,
            written: WRITTEN.single_counter(registry)?,
            commit_seconds: COMMIT_SECONDS.single_histogram(registry, &COMMIT_BOUNDS)?,
            commits: COMMITS.counters(registry, Commit::LABELS)?,
        })
    }
}

/// Counts a write of `bytes` that began at `began` and has ended now.
pub fn note_write(bytes: u64, began: Instant) {
    if let Some(series) = super::series() {
        series.ingest.written.inc_by(bytes);
        let seconds = began.elapsed().as_secs_f64();
        series.ingest.write_seconds.observe(seconds);
    }
}

/// Counts a commit that began at `began` and has ended now; `failure` is the kind of its error.
pub fn note_commit(failure: Option<ErrorKind>, began: Instant) {
    let Some(series) = super::series() else {
        return;
    };
    let seconds = began.elapsed().as_secs_f64();
    series.ingest.commit_seconds.observe(seconds);
    let result = failure.map_or(Commit::Committed, of_failure);
    if let Some(counter) = series.ingest.commits.get(result as usize) {
        counter.inc();
    }
}

/// Whether the request was wrong, or restorefs and its storage have failed.
const fn of_failure(kind: ErrorKind) -> Commit {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidInput
        | ErrorKind::NameTooLong
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::Unsupported
        | ErrorKind::Busy
        | ErrorKind::ReadOnly
        | ErrorKind::PermissionDenied
        | ErrorKind::NotPermitted
        | ErrorKind::TooLarge
        | ErrorKind::NoData
        | ErrorKind::Cancelled
        | ErrorKind::PolicyNotMet => Commit::Refused,
        ErrorKind::Corrupt
        | ErrorKind::Io
        | ErrorKind::Locked
        | ErrorKind::NoRepository
        | ErrorKind::NoSpace
        | ErrorKind::Stale
        | ErrorKind::LimitExceeded
        | ErrorKind::Disconnected
        | ErrorKind::TimedOut => Commit::Failed,
    }
}
