//! A backup: begins a session, takes the instant of a machine, copies its disks, and commits them as one restore point. The bytes go to
//! disk writers of this process, or to NBD exports of the owner.
//!
//! # Invariants
//! - The session begins before the instant is taken, so that nothing of the machine is held while the repository refuses.
//! - The tracking of changes that begins with the instant goes on only after the commit; after a failure the earlier one does.

pub mod desk;
pub mod lasting;
pub mod made;
mod reading;
pub mod sample;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{BeginAnswer, BeginRequest, CommitRequest, DiskResult, DiskTarget};
use crate::block::piece::{Changes, CopySource};
use crate::capture::guard::message::Held;
use crate::capture::machine::{Capture, Extent, Instant as Taken, Order, TakenDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::DiskWriter;
use crate::repo::sidecar::point::Consistency;
use crate::task::{Monitor, Pace};
use crate::types::{DiskName, RepositoryId, SessionRef};
use desk::Desk;
use made::Made;
use reading::{Counted, Reading};
use sample::Sample;

/// LIMIT: disks that are copied at the same time.
const DISKS_AT_ONCE: usize = 4;

/// How often a backup proves that it lives.
const RENEWAL: Duration = Duration::from_secs(20);

/// The description of a backup.
pub struct BackupPlan {
    /// The repository, in whose name changes are tracked.
    pub repository: RepositoryId,
    /// The request that begins the session.
    pub begin: BeginRequest,
    /// The request of the commit.
    pub commit: CommitRequest,
    /// Files to attach, by name.
    pub attach: Vec<(String, Vec<u8>)>,
    /// Whether the guest's filesystems are frozen for the instant.
    pub quiesce: bool,
    /// Directory of scratch files.
    pub scratch: PathBuf,
    /// The part of what a bitmap calls unchanged that is compared all the same.
    pub sample: Option<Sample>,
    /// LIMIT: bytes a second that are read.
    pub limit_bytes: Option<u64>,
}

/// Receives the progress of a backup.
pub trait Observer {
    /// The session has begun.
    fn begun(&self, answer: &BeginAnswer);

    /// The instant was taken.
    fn taken(&self, instant: &Taken);

    /// The copy of a disk begins. The returned monitor receives the progress, and can stop the
    /// copy. `writer` is set when it is in this process.
    fn copies(
        &self,
        disk: &DiskResult,
        source_bytes: u64,
        writer: Option<&Arc<DiskWriter>>,
    ) -> Monitor;

    /// The copy of the disk is complete.
    fn copied(&self, disk: &DiskName);

    /// Something that people should know.
    fn warn(&self, text: &str);
}

/// What a backup did.
#[derive(Debug)]
pub struct Report {
    /// The restore point.
    pub made: Made,
    /// Its disks.
    pub disks: Vec<DiskReport>,
    /// Consistency of the instant; `None` where nothing is known of it.
    pub consistency: Option<Consistency>,
    /// For how long the guest was held.
    pub held: Held,
    /// Seconds from the instant to the commit.
    pub seconds: f64,
}

/// What a backup did with a disk.
#[derive(Debug)]
pub struct DiskReport {
    /// Its name.
    pub name: DiskName,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that the hypervisor called changed; `None` where everything was read.
    pub changed_bytes: Option<u64>,
    /// Why everything was read, although the disk has a parent.
    pub whole_reason: Option<String>,
    /// Whether the bitmap was found to claim too little: then earlier points may lack changes.
    pub is_bitmap_wrong: bool,
}

/// Makes a restore point. After a failure the session is aborted, and nothing is left in the machine.
///
/// # Errors
/// As [`Desk::begin`], [`Capture::take`], [`Desk::commit`]; what reading the sources returns; `InvalidInput`
/// when the VM has a disk that the plan does not mention; `Cancelled`.
pub fn run(
    desk: &dyn Desk,
    capture: &mut dyn Capture,
    plan: &BackupPlan,
    observer: &dyn Observer,
) -> Result<Report> {
    let begun = desk.begin(&plan.begin)?;
    observer.begun(&begun);
    let session = SessionRef {
        vm: begun.vm.clone(),
        session: begun.session.clone(),
    };
    let done = plan
        .check_disks(&begun)
        .and_then(|()| plan.make(desk, capture, (&begun, &session), observer));
    // The machine comes first: a repository that does not answer must not hold it up.
    if let Err(left) = capture.end(done.is_ok()) {
        observer.warn(&format!(
            "something of the backup may be left in the machine, which the next backup removes: {}",
            left.report()
        ));
    }
    if let Err(error) = &done {
        let failure = match error.kind() {
            ErrorKind::Cancelled => None,
            _ => Some(error.report()),
        };
        if let Err(left) = desk.abort(&session, failure.as_deref()) {
            observer.warn(&format!(
                "the session could not be aborted, and is left: {}",
                left.report()
            ));
        }
    }
    done
}

fn is_in(list: &[&DiskName], name: &DiskName) -> bool {
    list.iter().any(|other| other.same_as(name))
}

fn of_name<'a>(begun: &'a BeginAnswer, name: &DiskName) -> Result<&'a DiskResult> {
    let mut disks = begun.disk_results.iter();
    disks
        .find(|disk| disk.name.same_as(name))
        .ok_or_else(|| Error::not_found(format!("the session has no disk {name}")))
}

/// A disk that is copied.
struct Copy<'a> {
    taken: &'a TakenDisk,
    monitor: Monitor,
    target: DiskTarget,
    sample: Option<Sample>,
    pace: &'a Pace,
}

impl BackupPlan {
    /// Refuses a session that could not be committed after the copy: a point has all disks of one
    /// instant.
    fn check_disks(&self, begun: &BeginAnswer) -> Result<()> {
        let (vm, unchanged) = (&self.begin.vm, &self.commit.unchanged);
        let disks: Vec<_> = begun.disk_results.iter().map(|disk| &disk.name).collect();
        let sources: Vec<_> = self.begin.disks.iter().map(|disk| &disk.name).collect();
        let declared: Vec<_> = unchanged.iter().collect();
        if let Some(name) = disks
            .iter()
            .find(|name| !is_in(&sources, name) && !is_in(&declared, name))
        {
            return Err(Error::invalid(format!(
                "{vm} has a disk {name}, too, and a point has all disks of one instant"
            ))
            .advise(format!(
                "name its source: {name}=SOURCE, or declare it: --unchanged {name}, --without {name}"
            )));
        }
        let mut named = unchanged.iter().chain(self.commit.change_ids.keys());
        match named.find(|name| !is_in(&disks, name)) {
            Some(name) => Err(Error::not_found(format!("{vm} has no disk {name}"))
                .advise(format!("see what it has: restorefs ls {vm}"))),
            None => Ok(()),
        }
    }

    /// The change ids that the session's disks are compared with.
    fn order(&self, begun: &BeginAnswer) -> Order {
        let compared = begun
            .disk_results
            .iter()
            .filter(|disk| disk.parent.is_some());
        let previous =
            compared.filter_map(|disk| Some((disk.name.clone(), disk.previous_change_id.clone()?)));
        Order {
            repository: self.repository,
            session: begun.session_id,
            previous: previous.collect(),
            quiesce: self.quiesce,
            scratch: self.scratch.clone(),
        }
    }

    fn make(
        &self,
        desk: &dyn Desk,
        capture: &mut dyn Capture,
        (begun, session): (&BeginAnswer, &SessionRef),
        observer: &dyn Observer,
    ) -> Result<Report> {
        for (name, content) in &self.attach {
            desk.attach(session, name, content)?;
        }
        for (name, content) in capture.attachments() {
            desk.attach(session, name, content)?;
        }
        let clock = Instant::now();
        let instant = capture.take(&self.order(begun))?;
        observer.taken(&instant);
        let filled = self.fill(desk, session, begun, &instant, observer);
        let disks = filled.map_err(|e| match e.kind() {
            ErrorKind::Cancelled => e,
            _ => match capture.check() {
                Ok(_) => e,
                Err(reason) => reason.caused_by(e),
            },
        })?;
        let Taken {
            disks: taken,
            consistency,
            note,
            held,
            ..
        } = instant;
        let doubt = capture.check()?;
        if let Some(text) = doubt.as_ref().filter(|text| note.as_ref() != Some(text)) {
            observer.warn(&format!("{text}: the consistency of the point is unknown"));
        }
        let consistency = match &doubt {
            Some(_) => Some(Consistency::Unknown),
            None => consistency,
        };
        let mut request = CommitRequest {
            consistency,
            consistency_note: doubt.or(note),
            ..self.commit.clone()
        };
        for disk in &taken {
            if let Some(id) = &disk.change_id {
                request
                    .change_ids
                    .entry(disk.name.clone())
                    .or_insert_with(|| id.clone());
            }
            let report = disks.iter().find(|report| report.name == disk.name);
            let is_since = report.is_some_and(|report| report.changed_bytes.is_some());
            if let (Extent::Since { change_id, .. }, true) = (&disk.extent, is_since) {
                request
                    .previous_change_ids
                    .insert(disk.name.clone(), change_id.clone());
            }
        }
        // The sources end before the machine forgets them.
        drop(taken);
        let made = desk.commit(session, &request)?;
        Ok(Report {
            made,
            disks,
            consistency,
            held,
            seconds: clock.elapsed().as_secs_f64(),
        })
    }

    /// Copies all disks, some at the same time.
    fn fill(
        &self,
        desk: &dyn Desk,
        session: &SessionRef,
        begun: &BeginAnswer,
        instant: &Taken,
        observer: &dyn Observer,
    ) -> Result<Vec<DiskReport>> {
        let pace = Pace::new(self.limit_bytes);
        let mut waiting = Vec::new();
        for taken in &instant.disks {
            let disk = of_name(begun, &taken.name)?;
            let target = desk.target(session, disk)?;
            waiting.push((disk, taken, target));
        }
        waiting.reverse();
        let (tell, hear) = mpsc::channel();
        let mut monitors: BTreeMap<DiskName, Monitor> = BTreeMap::new();
        let mut reports = Vec::new();
        let mut failure = None;
        std::thread::scope(|scope| -> Result<()> {
            let mut running = 0;
            let mut renewed = Instant::now();
            loop {
                while running < DISKS_AT_ONCE && failure.is_none() {
                    let Some((disk, taken, target)) = waiting.pop() else {
                        break;
                    };
                    let monitor = observer.copies(disk, taken.source.size_bytes(), target.writer());
                    monitors.insert(taken.name.clone(), monitor.clone());
                    let copy = Copy {
                        taken,
                        monitor,
                        target,
                        sample: self.sample,
                        pace: &pace,
                    };
                    let tell = tell.clone();
                    running += 1;
                    scope.spawn(move || {
                        let name = copy.taken.name.clone();
                        let done = catch_unwind(AssertUnwindSafe(|| copy.run()));
                        let panicked =
                            |_| Err(Error::new(ErrorKind::Io, "the thread of a copy panicked"));
                        // Nobody hears it only when the caller has panicked.
                        let _ = tell.send((name, done.unwrap_or_else(panicked)));
                    });
                }
                if running == 0 {
                    return Ok(());
                }
                match hear.recv_timeout(RENEWAL) {
                    Ok((name, Ok(report))) => {
                        running -= 1;
                        observer.copied(&name);
                        reports.push(report);
                    }
                    Ok((_, Err(e))) => {
                        running -= 1;
                        failure.get_or_insert(e);
                        monitors.values().for_each(Monitor::cancel);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                if renewed.elapsed() >= RENEWAL && failure.is_none() {
                    renewed = Instant::now();
                    if let Err(e) = desk.renew(session) {
                        failure = Some(e);
                        monitors.values().for_each(Monitor::cancel);
                    }
                }
            }
        })?;
        if let Some(e) = failure {
            return Err(e);
        }
        for report in reports.iter().filter(|report| report.is_bitmap_wrong) {
            observer.warn(&format!(
                "the bitmap of {} calls unchanged what has changed: the whole disk was compared; points since its last full one may lack changes (make one: restorefs backup --full)",
                report.name
            ));
        }
        Ok(reports)
    }
}

impl Copy<'_> {
    fn run(self) -> Result<DiskReport> {
        let (taken, mut target) = (self.taken, self.target);
        let reading = Reading {
            source: taken.source.as_ref(),
            pace: self.pace,
            monitor: &self.monitor,
            read_bytes: AtomicU64::new(0),
        };
        let mut is_bitmap_wrong = false;
        if let (Some(sample), Some(changes)) = (self.sample, taken.changes.as_deref()) {
            let source = CopySource {
                disk: &reading,
                changes: Some(changes),
            };
            let (compared, differs) =
                target.read(&self.monitor, |content| sample.compare(source, content))?;
            if let Some(offset) = differs {
                tracing::error!(disk = %taken.name, offset, compared, "a bitmap calls unchanged what has changed");
                is_bitmap_wrong = true;
            }
        }
        let changes = taken.changes.as_deref().filter(|_| !is_bitmap_wrong);
        let counted = changes.map(Counted::new);
        let source = CopySource {
            disk: &reading,
            changes: counted.as_ref().map(|counted| counted as &dyn Changes),
        };
        target.fill(source, &self.monitor)?;
        let changed = counted.map(Counted::into_bytes);
        let whole_reason = match (&taken.extent, is_bitmap_wrong) {
            (_, true) => Some("its bitmap claims too little".to_owned()),
            (Extent::Whole { reason }, false) => reason.clone(),
            (Extent::Since { .. }, false) => None,
        };
        Ok(DiskReport {
            name: taken.name.clone(),
            read_bytes: reading.read_bytes.into_inner(),
            changed_bytes: changed,
            whole_reason,
            is_bitmap_wrong,
        })
    }
}
