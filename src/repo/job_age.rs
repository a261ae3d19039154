//! How long the job history is kept: whole months, by the repository's own setting.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::Owner;
use super::job::histories;
use super::layout;
use crate::clock;
use crate::error::Result;

/// Months that are kept where `restorefs.json` names no number.
const MONTHS_DEFAULT: u32 = 24;
/// LIMIT: months of the calendar; more of them is for ever.
const MONTHS_MAX: u32 = 12 * 1_000;

/// The oldest month that is kept; `None` when all are.
fn oldest_kept(now: Timestamp, months: u32) -> Option<String> {
    if months == 0 || months > MONTHS_MAX {
        return None;
    }
    let span = Span::new().try_months(i64::from(months) - 1).ok()?;
    // The first day of the month: no month is too short for it.
    let first = now.to_zoned(TimeZone::UTC).first_of_month().ok()?;
    let oldest = first.checked_sub(span).ok()?;
    Some(clock::month(oldest.timestamp()))
}

impl Owner {
    /// Deletes the months of the job history that are older than the repository keeps them, the present one never. Does
    /// so once in a month of the calendar; a failure is logged.
    pub fn prune_jobs(&self) {
        // Nothing goes while the repository is copied.
        let Ok(_change) = self.holds.enter() else {
            return;
        };
        let now = self.clock().now();
        let month = clock::month(now);
        if *self.pruned.lock() == month {
            return;
        }
        match self.prune_jobs_before(now) {
            Ok(()) => *self.pruned.lock() = month,
            Err(e) => {
                tracing::warn!(error = %e.report(), "old months of the job history could not be deleted");
            }
        }
    }

    fn prune_jobs_before(&self, now: Timestamp) -> Result<()> {
        let format = self.repository().format_now()?;
        let months = format.defaults.job_months.unwrap_or(MONTHS_DEFAULT);
        let Some(oldest) = oldest_kept(now, months) else {
            return Ok(());
        };
        for name in histories(self.repository())? {
            if name.as_str() < oldest.as_str() {
                self.repository()
                    .store()
                    .delete(&layout::jobs()?.join(&name)?)?;
                tracing::info!(file = name, "an old month of the job history is deleted");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Timestamp, oldest_kept};
    use crate::clock::{Clock, ManualClock};
    use crate::repo::job::{append, histories};
    use crate::repo::{Job, Owner, Repository, layout};
    use crate::store::{Key, MemoryStore, PutMode, Store};
    use crate::task::TaskKind;

    #[test]
    fn months_are_those_of_the_calendar() {
        let oldest = |now: &str, months| {
            let now: Timestamp = now.parse().unwrap();
            oldest_kept(now, months).unwrap_or_default()
        };
        assert_eq!(oldest("2026-11-30T23:59:59Z", 24), "2024-12");
        assert_eq!(oldest("2026-12-01T00:00:00Z", 24), "2025-01");
        assert_eq!(oldest("2026-03-31T12:00:00Z", 2), "2026-02");
        assert_eq!(oldest("2026-03-31T12:00:00Z", 1), "2026-03");
        for months in [0, 12_001, u32::MAX] {
            assert_eq!(oldest("2026-03-31T12:00:00Z", months), "", "all stay");
        }
        assert_eq!(oldest("0001-03-31T12:00:00Z", 12_000), "-999-04");
    }

    /// A repository whose history has a line in each of 30 months up to the present one, and files that are not ours.
    fn with_history(clock: &Arc<ManualClock>) -> (MemoryStore, Arc<Repository>) {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        let day = 86_400;
        clock.step(-day * 913);
        for _ in 0..=913 {
            let now = clock.now();
            let job = Job::of_failure(TaskKind::Backup, None, "x", now, now);
            append(&repository, &job).unwrap();
            clock.step(day);
        }
        clock.step(-day);
        for other in ["0000-1.jsonl", "abcd-ef.jsonl", "2020-01.jsonl.bak"] {
            let key = layout::jobs().unwrap().join(other).unwrap();
            Store::put(&store, &key, b"{}\n", PutMode::Create).unwrap();
        }
        (store, Arc::new(repository))
    }

    fn months(repository: &Repository) -> (usize, String) {
        let names = histories(repository).unwrap();
        (names.len(), names.last().unwrap().clone())
    }

    #[test]
    fn old_months_go_at_opening_and_when_a_month_has_passed() {
        // 2026-11-20.
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = with_history(&clock);
        assert_eq!(months(&repository), (31, "2024-05.jsonl".to_owned()));
        let owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        assert_eq!(months(&repository), (24, "2024-12.jsonl".to_owned()));
        owner.prune_jobs();
        clock.advance(86_400 * 20);
        owner.prune_jobs();
        assert_eq!(months(&repository), (23, "2025-01.jsonl".to_owned()));
        let listed = Store::list(&store, &layout::jobs().unwrap()).unwrap();
        let others = listed.iter().filter(|entry| !entry.name.starts_with("202"));
        assert_eq!(others.count(), 2, "{listed:?}");
        drop(owner);
        // A clock that was far ahead deletes nothing of the present month.
        clock.step(-86_400 * 20);
        Owner::open(repository, clock, "test").unwrap();
    }

    #[test]
    fn the_repository_says_how_many_months_are_kept() {
        for (kept, left) in [(0, 31), (1, 1), (3, 3), (100, 31), (u32::MAX, 31)] {
            let clock = Arc::new(ManualClock::at(1_795_226_400));
            let (store, repository) = with_history(&clock);
            let key = Key::parse("restorefs.json").unwrap();
            let text = String::from_utf8(Store::get(&store, &key, 1 << 20).unwrap()).unwrap();
            // Changed by hand: without its hash.
            let end = text.find(",\n  \"blake3\"").unwrap();
            let text = text[..end].replace(
                "\"defaults\": {}",
                &format!("\"defaults\": {{\"job_months\": {kept}}}"),
            ) + "\n}\n";
            assert!(text.contains("job_months"), "{text}");
            Store::put(&store, &key, text.as_bytes(), PutMode::Replace).unwrap();
            let _owner = Owner::open(Arc::clone(&repository), clock, "test").unwrap();
            assert_eq!(months(&repository).0, left, "{kept}");
        }
    }
}
