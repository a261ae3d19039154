//! The end of the job history: what is appended after a position.

use std::collections::HashSet;

use super::job::{Job, histories, parse_line};
use super::layout;
use super::repository::Repository;
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::types::JobId;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes that are read at once; the rest comes with the next look.
const LOOK_BYTES_MAX: u64 = 4 << 20;

/// A position in the history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobTail {
    /// The file; empty before the first one.
    name: String,
    /// The bytes of it that were read.
    read_bytes: u64,
    /// Jobs that were seen while they waited for the next owner of the lock.
    late: HashSet<JobId>,
}

impl Repository {
    /// The end of the history as it is now.
    ///
    /// # Errors
    /// `Io`.
    pub fn jobs_end(&self) -> Result<JobTail> {
        let mut tail = JobTail {
            late: self.late_ids()?,
            ..JobTail::default()
        };
        if let Some(name) = histories(self)?.into_iter().next() {
            let file = self.store().open(&layout::jobs()?.join(&name)?)?;
            tail.read_bytes = file.size_bytes();
            tail.name = name;
        }
        Ok(tail)
    }

    /// The jobs that were appended after a position, the oldest first; the position moves. A line whose end is not
    /// written yet comes with a later look, and so does what is more than one look reads.
    ///
    /// # Errors
    /// `Io`.
    pub fn jobs_after(&self, tail: &mut JobTail) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut names = histories(self)?;
        names.reverse();
        for name in names {
            if name < tail.name {
                continue;
            }
            if name > tail.name {
                (tail.name, tail.read_bytes) = (name, 0);
            }
            let key = layout::jobs()?.join(&tail.name)?;
            let file = match self.store().open(&key) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            let more = file.size_bytes().saturating_sub(tail.read_bytes);
            let mut bytes = vec![0; usize_from_u64(more.min(LOOK_BYTES_MAX))];
            file.read_at(tail.read_bytes, &mut bytes)
                .map_err(|e| e.at_path(key.as_str()))?;
            let is_more = more > LOOK_BYTES_MAX;
            let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => end,
                // No line is so long: what has no end is no job, and is passed over.
                None if is_more => {
                    tail.read_bytes += LOOK_BYTES_MAX;
                    break;
                }
                None => continue,
            };
            let whole = bytes.get(..=end).unwrap_or_default();
            tail.read_bytes += u64_from_usize(whole.len());
            let lines = whole.split(|byte| *byte == b'\n');
            let lines = lines.filter_map(|line| parse_line(key.as_str(), line));
            // What was seen while it waited is not new.
            jobs.extend(lines.filter(|job| !tail.late.contains(&job.job_id)));
            if is_more {
                // The rest of this file comes before the next month.
                break;
            }
        }
        for job in self.late_jobs_but(&tail.late)?.into_iter().rev() {
            let is_written = jobs.iter().any(|written| written.job_id == job.job_id);
            if tail.late.insert(job.job_id) && !is_written {
                jobs.push(job);
            }
        }
        Ok(jobs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::LOOK_BYTES_MAX;
    use crate::clock::{Clock, ManualClock};
    use crate::repo::job::append;
    use crate::repo::{Job, Repository};
    use crate::store::{Key, MemoryStore, Stage, Store};
    use crate::task::TaskKind;
    use crate::types::width::{u64_from_usize, usize_from_u64};

    /// Looks end in the middle of a line, and in one that is longer than a look; the last one reads over the month's end.
    #[test]
    fn what_is_more_than_one_look_reads_comes_before_the_next_month() {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let clock = ManualClock::at(1_795_226_400);
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        let mut tail = repository.jobs_end().unwrap();
        let now = clock.now();
        let mut lines = Vec::new();
        let mut count = 0;
        while u64_from_usize(lines.len()) < LOOK_BYTES_MAX * 2 + 1_000 {
            let reason = format!("{count} {}", "x".repeat(500));
            let job = Job::of_failure(TaskKind::Backup, None, &reason, now, now);
            lines.extend(job.encode().unwrap());
            count += 1;
            if count == 1_000 {
                lines.resize(lines.len() + usize_from_u64(LOOK_BYTES_MAX), b'x');
                lines.push(b'\n');
            }
        }
        let key = Key::parse("jobs/2026-11.jsonl").unwrap();
        Store::append(&store, &key, &lines).unwrap();
        clock.advance(86_400 * 20);
        let now = clock.now();
        append(
            &repository,
            &Job::of_failure(TaskKind::Backup, None, "last", now, now),
        )
        .unwrap();
        let mut found = Vec::new();
        let mut looks = 0;
        loop {
            let jobs = repository.jobs_after(&mut tail).unwrap();
            looks += 1;
            if jobs.is_empty() && looks > 4 {
                break;
            }
            found.extend(jobs.into_iter().map(|job| job.reason.unwrap()));
        }
        let last = found.pop().unwrap();
        assert_eq!((found.len(), last.as_str()), (count, "last"));
        let of = |reason: &String| reason.split(' ').next().unwrap().parse::<usize>().unwrap();
        assert!(found.iter().map(of).eq(0..count));
    }

    /// A late job is read once: what becomes of its file afterwards is not seen.
    #[test]
    fn a_job_that_waits_is_read_once() {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let clock = ManualClock::at(1_795_226_400);
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        let now = clock.now();
        let late = || {
            let job = Job::of_failure(TaskKind::Restore, None, "late", now, now);
            repository.keep_late(&job).unwrap();
            job.job_id
        };
        let before = late();
        let mut tail = repository.jobs_end().unwrap();
        let after = late();
        let ids = |tail: &mut _| -> Vec<_> {
            let jobs = repository.jobs_after(tail).unwrap();
            jobs.into_iter().map(|job| job.job_id).collect()
        };
        assert_eq!(ids(&mut tail), [after]);
        assert_eq!(ids(&mut tail), []);
        let of = |known: &[_]| {
            let known = known.iter().copied().collect();
            repository.late_jobs_but(&known).unwrap().len()
        };
        assert_eq!((of(&[]), of(&[before]), of(&[before, after])), (2, 1, 0));
    }

    #[test]
    fn what_is_appended_comes_once_over_months_and_never_half_a_line() {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let clock = ManualClock::at(1_795_226_400);
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        let mut begin = repository.jobs_end().unwrap();
        let add = |reason: &str| {
            let now = clock.now();
            let job = Job::of_failure(TaskKind::Backup, None, reason, now, now);
            append(&repository, &job).unwrap();
        };
        let reasons = |tail: &mut _| -> Vec<String> {
            let jobs = repository.jobs_after(tail).unwrap();
            jobs.into_iter().map(|job| job.reason.unwrap()).collect()
        };
        assert!(reasons(&mut begin).is_empty());
        add("1");
        let mut second = repository.jobs_end().unwrap();
        add("2");
        assert_eq!(reasons(&mut begin), ["1", "2"]);
        assert_eq!(reasons(&mut second), ["2"]);
        let key = Key::parse("jobs/2026-11.jsonl").unwrap();
        let file = Stage::open(&store, &key).unwrap();
        let whole = file.size_bytes();
        add("3");
        let size = file.size_bytes();
        let mut full = vec![0; usize::try_from(size).unwrap()];
        file.read_at(0, &mut full).unwrap();
        for cut in whole..size {
            file.set_size(cut).unwrap();
            assert!(reasons(&mut begin).is_empty(), "cut at {cut}");
        }
        file.write_at(0, &full).unwrap();
        clock.advance(86_400 * 20);
        add("4");
        assert_eq!(reasons(&mut begin), ["3", "4"]);
        assert_eq!(reasons(&mut begin), Vec::<String>::new());
        add("5");
        assert_eq!(reasons(&mut second), ["3", "4", "5"]);
        // What waits for the next owner is seen once, also when that one has written it.
        let now = clock.now();
        let job = Job::of_failure(TaskKind::Restore, None, "late", now, now);
        repository.keep_late(&job).unwrap();
        assert_eq!(reasons(&mut second), ["late"]);
        append(&repository, &job).unwrap();
        assert_eq!(reasons(&mut second), Vec::<String>::new());
        assert_eq!(reasons(&mut begin), ["5", "late"]);
    }
}
