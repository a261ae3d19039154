//! The job history: one line of JSON for each job that has ended.
//!
//! # On-disk layout
//! `jobs/YYYY-MM.jsonl`, by the month in which the job ended (UTC); `src/FORMATS.md` has the fields.
//!
//! # Invariants
//! A line is appended to a committed object, durably, and never changed. Readers skip a part of a line that a
//! crash left; the next append begins on a new line.
//!
//! # Why
//! The history is a record for people, not the state of the repository: a job whose line cannot be written
//! has been done all the same. Such a failure is logged, and fails no operation.

use std::collections::HashSet;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::Unknown;
use super::sidecar::arriving::Arriving;
use super::sidecar::session::Session;
use crate::block::ReadAt;
use crate::clock;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics;
use crate::task::{TaskKind, TaskReport, TaskState};
use crate::types::width::usize_from_u64;
use crate::types::{DiskName, JobId, PointName, SessionId, VmName};

/// Spelling of [`Job::kind`] for a session that wrote a restore point.
pub const INGEST: &str = "ingest";
/// Spelling of [`Job::kind`] for a kind of task.
#[must_use]
pub const fn kind_of(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Backup => INGEST,
        other => other.as_str(),
    }
}

/// Counts a job that has ended in the metrics of the process, under the name of its task's kind.
pub(super) fn count(job: &Job) {
    let kind = match job.kind.as_str() {
        INGEST => TaskKind::Backup.as_str(),
        other => other,
    };
    metrics::job::note_end(kind, job.result.as_str());
}

/// Suffix of the history files' names.
const SUFFIX: &str = ".jsonl";
/// LIMIT: longest line in bytes (a job with 256 disks has about 60 KB).
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes per read; files are read from the end backwards.
const CHUNK_BYTES: u64 = 256 << 10;
/// LIMIT: characters kept of a reason.
const REASON_CHARS_MAX: usize = 2_000;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobResult {
    /// It made a restore point.
    Committed,
    /// It was aborted on request.
    Aborted,
    /// It was idle past its ttl.
    Expired,
    /// It failed.
    Failed,
    /// It did what the request asked for.
    Completed,
    /// It was stopped on request before its end.
    Cancelled,
}

impl JobResult {
    /// The spelling in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub job_id: JobId,
    /// The kind: [`INGEST`], or a kind of task.
    pub kind: String,
    /// The VM, where the job has one.
    pub vm: Option<VmName>,
    /// The session.
    pub session: Option<PointName>,
    /// Identity of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The restore point that the session made.
    pub point: Option<PointName>,
    /// How it ended.
    pub result: JobResult,
    /// Why, where the result alone does not tell.
    pub reason: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Bytes received by disk, since the process that ended the session began or resumed it.
    #[serde(default)]
    pub disks: Vec<JobDisk>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The bytes of one disk in a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDisk {
    /// Name.
    pub name: DiskName,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes that equalled the parent's.
    pub equal_bytes: u64,
    /// Bytes that were zero.
    pub zero_bytes: u64,
    /// Bytes written to the layer.
    pub stored_bytes: u64,
    /// The door through which the bytes came; `null` for a disk that was not written, or that the command
    /// copied itself.
    pub door: Option<String>,
}

/// The reason why a session ends without a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The result.
    pub result: JobResult,
    /// The reason, for people.
    pub reason: Option<String>,
}

impl Ending {
    /// For a copy with which nobody has gone on.
    #[must_use]
    pub fn expired_copy() -> Self {
        Self {
            result: JobResult::Expired,
            reason: Some("nobody has gone on with the copy for its ttl".to_owned()),
        }
    }

    /// An end on request.
    #[must_use]
    pub const fn aborted() -> Self {
        Self {
            result: JobResult::Aborted,
            reason: None,
        }
    }

    /// An end because of an error.
    #[must_use]
    pub fn failed(reason: impl Into<String>) -> Self {
        Self {
            result: JobResult::Failed,
            reason: Some(reason.into()),
        }
    }
}

/// A reason, cut to the limit of the history.
#[must_use]
pub fn short(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

impl Job {
    /// The job of work that failed before its session or task began.
    #[must_use]
    pub fn of_failure(
        kind: TaskKind,
        vm: Option<&VmName>,
        reason: &str,
        began_at: Timestamp,
        ended_at: Timestamp,
    ) -> Self {
        Self {
            schema: 1,
            job_id: JobId::random(),
            kind: kind_of(kind).to_owned(),
            vm: vm.cloned(),
            session: None,
            session_id: None,
            point: None,
            result: JobResult::Failed,
            reason: Some(short(reason)),
            began_at,
            ended_at,
            disks: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// The line of the history.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|e| Error::invalid("the job cannot be encoded").caused_by(e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The job of a running task as it is when nothing more is heard of it.
    #[must_use]
    pub fn of_interrupted(report: &TaskReport) -> Self {
        let reason = "interrupted: the process that kept this task ended before it did";
        let subject = &report.subject;
        Self {
            job_id: report.id,
            point: subject.point.clone(),
            ..Self::of_failure(
                subject.kind,
                subject.vm.as_ref(),
                reason,
                report.began_at,
                report.began_at,
            )
        }
    }

    /// The job of a task that has ended; `None` for a task that has not.
    #[must_use]
    pub fn of_task(report: &TaskReport) -> Option<Self> {
        let result = match report.state {
            TaskState::Pending | TaskState::Running => return None,
            TaskState::Completed => JobResult::Completed,
            TaskState::Failed => JobResult::Failed,
            TaskState::Cancelled => JobResult::Cancelled,
        };
        let subject = &report.subject;
        Some(Self {
            schema: 1,
            job_id: report.id,
            kind: kind_of(subject.kind).to_owned(),
            vm: subject.vm.clone(),
            session: subject.session.clone(),
            session_id: None,
            point: subject.point.clone(),
            result,
            reason: report.reason.as_deref().map(short),
            began_at: report.began_at,
            ended_at: report.ended_at?,
            disks: Vec::new(),
            unknown: Unknown::new(),
        })
    }

    /// The job of a session that has ended; the caller adds its disks.
    #[must_use]
    pub fn of_session(session: &Session, ending: &Ending, ended_at: Timestamp) -> Self {
        Self {
            schema: 1,
            job_id: session.job_id(),
            kind: INGEST.to_owned(),
            vm: Some(session.vm.clone()),
            session: Some(session.name.clone()),
            session_id: Some(session.session_id),
            point: None,
            result: ending.result,
            reason: ending.reason.as_deref().map(short),
            began_at: session.captured_at,
            ended_at,
            disks: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// The job of a copy that has become a restore point: its layers count as received and stored, by disk.
    #[must_use]
    pub(super) fn of_arrival(
        session: &Session,
        arriving: &Arriving,
        point: &PointName,
        ended_at: Timestamp,
    ) -> Self {
        let mut disks: Vec<JobDisk> = Vec::new();
        for layer in &arriving.layers {
            let known = disks.iter_mut().find(|disk| disk.name == layer.disk);
            match known {
                Some(known) => {
                    known.received_bytes = known.received_bytes.saturating_add(layer.file_bytes);
                    known.stored_bytes = known.received_bytes;
                }
                None => disks.push(JobDisk {
                    name: layer.disk.clone(),
                    received_bytes: layer.file_bytes,
                    equal_bytes: 0,
                    zero_bytes: 0,
                    stored_bytes: layer.file_bytes,
                    door: None,
                }),
            }
        }
        let ending = Ending {
            result: JobResult::Committed,
            reason: Some(format!("copied from the repository {}", arriving.origin)),
        };
        Self {
            point: Some(point.clone()),
            disks,
            ..Self::of_session(session, &ending, ended_at)
        }
    }
}

/// Appends a job to the history, durably. The caller allows one append at a time.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(super) fn append(repository: &Repository, job: &Job) -> Result<()> {
    let store = repository.store();
    let name = format!("{}{SUFFIX}", clock::month(job.ended_at));
    let key = layout::jobs()?.join(&name)?;
    let mut last = [b'\n'];
    match store.open(&key) {
        Ok(file) => {
            if let Some(at) = file.size_bytes().checked_sub(1) {
                file.read_at(at, &mut last).at_path(key.as_str())?;
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut bytes = job.encode()?;
    if last != *b"\n" {
        // A crash cut the last line; the rest of it stays as a line of its own.
        bytes.insert(0, b'\n');
    }
    store.append(&key, &bytes).at_path(key.as_str())
}

/// Logs that a job could not be written to the history.
pub(super) fn say_lost(job: &Job, error: &Error) {
    tracing::error!(vm = ?job.vm, session = ?job.session, point = ?job.point, result = job.result.as_str(), error = %error.report(),
        "the end of a job could not be written to the history");
}

/// Whether the text is a month: `2026-11`.
fn is_month(text: &str) -> bool {
    let is_digits =
        |part: &str, count| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-')
        .is_some_and(|(year, month)| is_digits(year, 4) && is_digits(month, 2))
}

/// Names of the history files, the newest month first.
pub(super) fn histories(repository: &Repository) -> Result<Vec<String>> {
    let entries = absent_is_empty(repository.store().list(&layout::jobs()?))?;
    let is_history = |name: &String| name.strip_suffix(SUFFIX).is_some_and(is_month);
    let mut names: Vec<String> = entries
        .into_iter()
        .filter(|e| !e.is_prefix)
        .map(|e| e.name)
        .filter(is_history)
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// The job of a line of `file`; `None` for a line that cannot be read, which is logged, and for an empty one.
pub(super) fn parse_line(file: &str, line: &[u8]) -> Option<Job> {
    if line.is_empty() {
        return None;
    }
    serde_json::from_slice(line)
        .inspect_err(|error| {
            tracing::warn!(file, error = %error, "a line of the job history cannot be read and is passed over");
        })
        .ok()
}

impl Repository {
    /// Passes jobs to `see`, the newest first, until it breaks: those that wait for the next owner of the lock, then those
    /// of the history. Unreadable lines are skipped and logged.
    ///
    /// # Errors
    /// `Io`.
    pub fn jobs(&self, mut see: impl FnMut(Job) -> ControlFlow<()>) -> Result<()> {
        let mut late = HashSet::new();
        for job in self.late_jobs()? {
            late.insert(job.job_id);
            if see(job).is_break() {
                return Ok(());
            }
        }
        // A job of which the owner has written the line as well is one job.
        self.written_jobs(|job| match late.contains(&job.job_id) {
            true => ControlFlow::Continue(()),
            false => see(job),
        })
    }

    /// The newest job that is `wanted`, among the `most` newest ones.
    ///
    /// # Errors
    /// `Io`.
    pub fn newest_job(&self, most: usize, wanted: impl Fn(&Job) -> bool) -> Result<Option<Job>> {
        let (mut found, mut seen) = (None, 0);
        self.jobs(|job| {
            seen += 1;
            if wanted(&job) {
                found = Some(job);
            }
            match found.is_none() && seen < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(found)
    }

    /// Passes the jobs of the history to `see`, the newest first, until it breaks.
    pub(super) fn written_jobs(&self, mut see: impl FnMut(Job) -> ControlFlow<()>) -> Result<()> {
        for name in histories(self)? {
            let key = layout::jobs()?.join(&name)?;
            let file = self.store().open(&key)?;
            let mut take = |line: &[u8]| match parse_line(key.as_str(), line) {
                Some(job) => see(job),
                None => ControlFlow::Continue(()),
            };
            if lines_backwards(file.as_ref(), &mut take)
                .at_path(key.as_str())?
                .is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// Passes the non-empty lines of a file to the caller, the last one first. Of a line longer than the limit,
/// only the limit is read.
fn lines_backwards(
    file: &dyn ReadAt,
    see: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let mut at = file.size_bytes();
    // The pieces read so far of a line whose beginning is still unread, the last piece first.
    let mut tail: Vec<u8> = Vec::new();
    while at > 0 {
        let length = at.min(CHUNK_BYTES);
        at = at.saturating_sub(length);
        let mut chunk = vec![0; usize_from_u64(length)];
        file.read_at(at, &mut chunk)?;
        let mut lines = chunk.rsplit(|byte| *byte == b'\n');
        let last = lines.next().unwrap_or_default();
        let mut line = last.to_vec();
        line.append(&mut tail);
        for before in lines {
            if !line.is_empty() && see(&line).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            line = before.to_vec();
        }
        tail = line;
        tail.truncate(LINE_BYTES_MAX);
    }
    if tail.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    Ok(see(&tail))
}

#[cfg(test)]
mod tests {
    use super::{Job, JobResult, LINE_BYTES_MAX, append, lines_backwards};
    use crate::block::MemoryDisk;
    use crate::clock::{Clock, ManualClock};
    use crate::metrics;
    use crate::repo::Repository;
    use crate::repo::sidecar::Unknown;
    use crate::store::{Key, MemoryStore, Stage, Store};
    use crate::task::TaskKind;
    use crate::types::{JobId, VmName};
    use std::ops::ControlFlow;
    use std::sync::Arc;

    #[test]
    fn every_kind_and_every_result_has_series() {
        for kind in TaskKind::ALL {
            assert!(metrics::job::is_known(kind.as_str()), "{kind:?}");
        }
        let results = [
            JobResult::Committed,
            JobResult::Aborted,
            JobResult::Expired,
            JobResult::Failed,
            JobResult::Completed,
            JobResult::Cancelled,
        ];
        for result in results {
            assert!(metrics::job::is_known_result(result.as_str()), "{result:?}");
        }
    }

    fn job(n: u64, clock: &ManualClock) -> Job {
        Job {
            schema: 1,
            job_id: JobId::random(),
            kind: "ingest".to_owned(),
            vm: Some(VmName::new(format!("vm{n}")).unwrap()),
            session: None,
            session_id: None,
            point: None,
            result: JobResult::Aborted,
            reason: None,
            began_at: clock.now(),
            ended_at: clock.now(),
            disks: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    fn listed(repository: &Repository) -> Vec<String> {
        let mut names = Vec::new();
        repository
            .jobs(|job| {
                names.push(job.vm.unwrap().to_string());
                ControlFlow::Continue(())
            })
            .unwrap();
        names
    }

    #[test]
    fn the_newest_is_first_over_months_and_a_torn_line_is_passed_over_and_mended() {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let clock = ManualClock::at(1_795_226_400);
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        assert!(listed(&repository).is_empty());
        append(&repository, &job(1, &clock)).unwrap();
        append(&repository, &job(2, &clock)).unwrap();
        let key = Key::parse("jobs/2026-11.jsonl").unwrap();
        let file = Stage::open(&store, &key).unwrap();
        let whole = file.size_bytes();
        append(&repository, &job(3, &clock)).unwrap();
        // Wherever a crash cuts the last line, the other lines are readable, and the next append is whole.
        let full = Store::get(&store, &key, 1 << 20).unwrap();
        for cut in whole..u64::try_from(full.len()).unwrap() {
            file.set_size(cut).unwrap();
            let is_whole = cut + 1 == u64::try_from(full.len()).unwrap();
            let kept: &[&str] = if is_whole {
                &["vm3", "vm2", "vm1"]
            } else {
                &["vm2", "vm1"]
            };
            assert_eq!(listed(&repository), kept, "cut at {cut}");
            append(&repository, &job(4, &clock)).unwrap();
            assert_eq!(listed(&repository)[0], "vm4");
            assert_eq!(&listed(&repository)[1..], kept);
            file.set_size(0).unwrap();
            file.write_at(0, &full).unwrap();
        }
        clock.advance(86_400 * 20);
        append(&repository, &job(5, &clock)).unwrap();
        assert_eq!(listed(&repository), ["vm5", "vm3", "vm2", "vm1"]);
    }

    #[test]
    fn lines_of_any_length_come_backwards_and_memory_is_bounded() {
        let mut text = Vec::new();
        let mut wanted = Vec::new();
        for (n, letter) in (0..2_000_usize).zip((b'a'..=b'z').cycle()) {
            let line = vec![letter; n % 997];
            text.extend_from_slice(&line);
            text.push(b'\n');
            if !line.is_empty() {
                wanted.insert(0, line);
            }
        }
        let mut found = Vec::new();
        let see = &mut |line: &[u8]| {
            found.push(line.to_vec());
            ControlFlow::Continue(())
        };
        let ended = lines_backwards(&MemoryDisk::from_bytes(&text), see).unwrap();
        assert!(ended.is_continue() && found == wanted);
        let endless = vec![b'x'; LINE_BYTES_MAX * 3];
        let mut longest = 0;
        let see = &mut |line: &[u8]| {
            longest = longest.max(line.len());
            ControlFlow::Continue(())
        };
        let ended = lines_backwards(&MemoryDisk::from_bytes(&endless), see).unwrap();
        assert!(ended.is_continue() && longest <= LINE_BYTES_MAX);
    }
}
