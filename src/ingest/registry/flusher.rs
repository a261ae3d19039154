//! The flusher: makes written data durable in the background when clients do not flush. A commit
//! then has little left to do, and a crash costs little of what was sent.
//!
//! # Why
//! An agent that sends a disk for hours and never flushes would have to send all of it again after
//! a crash, and its commit would wait until all of it reaches the disk.
//!
//! # Concurrency
//! The flusher uses the flush that any client may request at any time; writers continue beside it.

use std::collections::HashMap;
use std::time::Duration;

use super::Registry;
use crate::ingest::disk::{DiskStats, DiskWriter};
use crate::ingest::session::{Session, SessionState};
use crate::types::LayerId;

/// How long a disk must have no writes before it is flushed.
const QUIET: Duration = Duration::from_secs(5);
/// LIMIT: bytes that were written and not flushed.
const UNFLUSHED_BYTES_MAX: u64 = 1 << 30;
/// How long the flusher leaves a disk alone after a failed flush.
const REST: Duration = Duration::from_secs(30);

/// What the flusher has observed of a disk.
#[derive(Debug, Clone, Copy)]
struct Seen {
    stats: DiskStats,
    /// The time since which the observed state has held.
    since: Duration,
    /// The time of a failed flush.
    failed: Option<Duration>,
}

/// Flushes disks of open sessions in the background.
#[derive(Debug, Default)]
pub struct Flusher {
    seen: HashMap<LayerId, Seen>,
}

impl Flusher {
    /// Looks at all disks of all open sessions, and flushes those that are due. The caller calls
    /// this about once a second. Returns whether there is an open session.
    pub fn round(&mut self, sessions: &Registry) -> bool {
        let now = sessions.engine().owner.clock().monotonic();
        let mut next = HashMap::new();
        let all = sessions.all();
        for session in all.iter().filter(|s| s.state() == SessionState::Open) {
            for (_, disk) in session.files() {
                let id = disk.meta().layer_id;
                let seen = self.look(session, &disk, now);
                next.insert(id, seen);
            }
        }
        self.seen = next;
        !all.is_empty()
    }

    fn look(&self, session: &Session, disk: &DiskWriter, now: Duration) -> Seen {
        let stats = disk.stats();
        let fresh = Seen {
            stats,
            since: now,
            failed: None,
        };
        let mut seen = self
            .seen
            .get(&disk.meta().layer_id)
            .copied()
            .unwrap_or(fresh);
        if seen.stats != stats {
            seen.stats = stats;
            seen.since = now;
        }
        let rests = seen.failed.is_some_and(|at| now.saturating_sub(at) < REST);
        let is_quiet = now.saturating_sub(seen.since) >= QUIET && disk.has_unflushed();
        let is_much = disk.unflushed_bytes() >= UNFLUSHED_BYTES_MAX;
        if rests || disk.is_unsure() || !(is_quiet || is_much) {
            return seen;
        }
        match session.note_error(disk.flush()) {
            Ok(()) => seen.failed = None,
            Err(e) => {
                tracing::warn!(vm = %session.vm(), session = %session.name(), disk = %disk.meta().name, error = %e.report(),
                    "a disk could not be flushed in the background");
                seen.failed = Some(now);
            }
        }
        seen
    }
}
