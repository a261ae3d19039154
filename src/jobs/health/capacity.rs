//! How full a repository is, and how soon it is full.

use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::Result;
use crate::repo::{JobResult, Repository};
use crate::store;

/// Days of the history that count.
const DAYS: u64 = 30;
const DAY_SECONDS: u64 = 86_400;
/// Below this share of free bytes a repository is low (a tenth).
const LOW_SHARE: u64 = 10;

/// Room in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
    /// Whether less than a tenth is free.
    pub is_low: bool,
}

impl Space {
    /// Judges what a store has.
    #[must_use]
    pub const fn of(space: &store::Space) -> Self {
        Self {
            free_bytes: space.free_bytes,
            total_bytes: space.total_bytes,
            is_low: space.free_bytes < space.total_bytes / LOW_SHARE,
        }
    }
}

/// What backups have stored lately, by the job history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Bytes that committed sessions of the last 30 days have stored; what was forgotten since is not subtracted.
    pub stored_bytes: u64,
    /// Days in which they did so: 30, or since the first of them.
    pub days: u64,
}

impl Growth {
    /// Adds up the history of the last 30 days.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(repository: &Repository, now: Timestamp) -> Result<Self> {
        let since = now
            .checked_sub(SignedDuration::from_hours(
                24 * i64::try_from(DAYS).unwrap_or(0),
            ))
            .unwrap_or(Timestamp::MIN);
        let (mut stored_bytes, mut first, mut is_older) = (0_u64, now, false);
        repository.jobs(|job| {
            // Jobs are ordered by their end, but for late ones.
            if job.ended_at < since {
                is_older = true;
                return ControlFlow::Break(());
            }
            if job.result == JobResult::Committed {
                first = first.min(job.ended_at);
                let stored = job.disks.iter().map(|disk| disk.stored_bytes);
                stored_bytes = stored.fold(stored_bytes, u64::saturating_add);
            }
            ControlFlow::Continue(())
        })?;
        let age = u64::try_from(now.duration_since(first).as_secs()).unwrap_or(0);
        let days = match is_older {
            true => DAYS,
            false => age.div_ceil(DAY_SECONDS).clamp(1, DAYS),
        };
        Ok(Self { stored_bytes, days })
    }

    /// Days until `free_bytes` are used up at this pace, if nothing is forgotten; `None` when nothing was stored.
    #[must_use]
    pub const fn days_until(&self, free_bytes: u64) -> Option<u64> {
        free_bytes
            .saturating_mul(self.days)
            .checked_div(self.stored_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Growth, Space};
    use crate::store;

    #[test]
    fn days_and_the_warning_are_counted() {
        let growth = |stored_bytes, days| Growth { stored_bytes, days };
        assert_eq!(growth(0, 30).days_until(1 << 40), None);
        assert_eq!(growth(300, 30).days_until(1000), Some(100));
        assert_eq!(growth(300, 1).days_until(1000), Some(3));
        assert_eq!(growth(300, 30).days_until(0), Some(0));
        for (free_bytes, is_low) in [(10, false), (9, true), (0, true)] {
            let total_bytes = 100;
            let space = store::Space {
                free_bytes,
                total_bytes,
            };
            assert_eq!(Space::of(&space).is_low, is_low, "{free_bytes}");
        }
    }
}
