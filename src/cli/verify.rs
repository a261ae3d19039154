//! `restorefs verify` and `restorefs check`: prove that every restore point is there and is what was committed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::announced::Announced;
use super::args::verify::{Check, HarmedFiles, Verify};
use super::context::{Context, Writer};
use super::progress::Progress;
use super::vm_pattern::chosen;
use super::{damage, merge, repository};
use crate::clock::{Clock, SystemClock};
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::SameId;
use crate::jobs::verify::{
    self, Choice, Files, HarmedPoint, PointReport, Subset, VmParts, VmReport, Watched, name_files,
    points_in_short,
};
use crate::repo::checks::CheckNotes;
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, Pace, TaskKind, TaskSubject};
use crate::tree::{HarmedKind, TreeOptions};
use crate::types::duration::parse_seconds;
use crate::types::size::{Count, Human};
use crate::types::{DiskName, PointName, VmName};

/// LIMIT: files of a point that are printed; `--json` has all of them.
const FILES_SHOWN: usize = 50;

/// A VM in the answer.
#[derive(Serialize)]
pub(super) struct VmAnswer {
    #[serde(flatten)]
    pub(super) report: VmReport,
    /// Files that damage harms, by point.
    harmed: Vec<HarmedPoint>,
}

#[derive(Default, Serialize)]
struct Answer {
    vms: Vec<VmAnswer>,
    /// Bytes that were read.
    read_bytes: u64,
    /// Whether the results are kept in the repository.
    kept: bool,
    /// Ids that several repositories have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    same_id: Vec<SameId>,
}

impl From<HarmedFiles> for Files {
    fn from(files: HarmedFiles) -> Self {
        match files {
            HarmedFiles::Newest => Self::Newest,
            HarmedFiles::All => Self::All,
            HarmedFiles::None => Self::None,
        }
    }
}

pub(super) fn verify(context: &Context, args: &Verify) -> Result<()> {
    let now = SystemClock.now();
    let outdated_since = match &args.outdated_after {
        None => None,
        Some(age) => {
            let age = i64::try_from(parse_seconds(age)?).unwrap_or(i64::MAX);
            let since = now.checked_sub(jiff::SignedDuration::from_secs(age));
            Some(since.unwrap_or(jiff::Timestamp::MIN))
        }
    };
    let subset = args.subset.as_deref().map(str::parse).transpose()?;
    let command = Command {
        context,
        repository: context.repository()?,
        choice: Choice {
            subset: subset.unwrap_or_default(),
            outdated_since,
            data: true,
        },
        files: Files::from(args.files),
        pace: Pace::new(args.limit.as_deref().map(merge::parse_limit).transpose()?),
        stop: interrupt::flag()?,
        progress: Progress::new(context.output),
        keeper: Keeper::new(context),
    };
    command.run(&args.vms)
}

pub(super) fn check(context: &Context, args: &Check) -> Result<()> {
    let command = Command {
        context,
        repository: context.repository()?,
        choice: Choice {
            subset: Subset::All,
            outdated_since: None,
            data: false,
        },
        files: Files::None,
        pace: Pace::new(None),
        stop: interrupt::flag()?,
        progress: Progress::new(context.output),
        keeper: Keeper::new(context),
    };
    command.run(&args.vms)
}

/// Verifies of one VM the layers in these slots, and those that were never verified. Returns the answer, what is damaged, and whether
/// the results are kept.
pub(super) fn verify_again(
    context: &Context,
    vm: &VmName,
    slots: &HashSet<&Slot>,
    files: HarmedFiles,
    stop: &Arc<AtomicBool>,
) -> Result<(VmAnswer, Vec<String>, bool)> {
    let command = Command {
        context,
        repository: context.repository()?,
        choice: Choice {
            subset: Subset::All,
            outdated_since: None,
            data: true,
        },
        files: Files::from(files),
        pace: Pace::new(None),
        stop: Arc::clone(stop),
        progress: Progress::new(context.output),
        keeper: Keeper::new(context),
    };
    let monitor = Monitor::with_listener(Arc::clone(stop), |_| ());
    let plans = command
        .choice
        .plan(&command.repository, std::slice::from_ref(vm), &monitor)?;
    let (_, parts) = plans
        .into_iter()
        .next()
        .ok_or_else(|| Error::not_found(format!("the VM {vm} is gone")))?;
    let mut parts = parts?;
    parts.retain(slots);
    let done = command.vm(&parts);
    let kept = command.keeper.end();
    let done = done?;
    if !context.output.json {
        command.show(&done)?;
    }
    let faults = done.report.summary();
    Ok((done, faults, kept))
}

/// Verifies what was not verified for `outdated_seconds` of a VM, for a policy: nothing is printed. `stop` ends it.
///
/// # Errors
/// `Corrupt` when there is damage; as [`verify`].
pub(super) fn by_policy(
    context: &Context,
    stop: &Arc<AtomicBool>,
    vm: &VmName,
    outdated_seconds: i64,
) -> Result<()> {
    let since = SystemClock
        .now()
        .checked_sub(jiff::SignedDuration::from_secs(outdated_seconds));
    let command = Command {
        context,
        repository: context.repository()?,
        choice: Choice {
            subset: Subset::All,
            outdated_since: Some(since.unwrap_or(jiff::Timestamp::MIN)),
            data: true,
        },
        files: Files::None,
        pace: Pace::new(None),
        stop: Arc::clone(stop),
        progress: Progress::new(context.output),
        keeper: Keeper::new(context),
    };
    let mut answer = Answer::default();
    let faults = command.verify(std::slice::from_ref(vm), &mut answer, false)?;
    damage::end(&faults)
}

struct Command<'a> {
    context: &'a Context,
    repository: Arc<Repository>,
    choice: Choice,
    files: Files,
    pace: Pace,
    stop: Arc<AtomicBool>,
    progress: Progress,
    keeper: Keeper<'a>,
}

impl Command<'_> {
    fn run(&self, words: &[String]) -> Result<()> {
        let vms = chosen(&self.repository, words)?;
        let mut answer = Answer::default();
        if !self.choice.data {
            answer.same_id = repository::warn_of_twins(self.context);
        }
        let faults = self.verify(&vms, &mut answer, !self.context.output.json)?;
        if self.context.output.json {
            self.context.output.json(&answer)?;
        }
        damage::end(&faults)
    }

    /// Verifies VMs, and returns the faults in short. With `shows`, each VM is printed when it is done.
    fn verify(&self, vms: &[VmName], answer: &mut Answer, shows: bool) -> Result<Vec<String>> {
        let monitor = Monitor::with_listener(Arc::clone(&self.stop), |_| ());
        let plans = self.choice.plan(&self.repository, vms, &monitor)?;
        let mut faults = Vec::new();
        for (vm, parts) in plans {
            let verified = parts.and_then(|parts| self.vm(&parts));
            match verified {
                Ok(done) => {
                    answer.read_bytes = answer.read_bytes.saturating_add(done.report.read_bytes);
                    if shows {
                        self.show(&done)?;
                    }
                    faults.extend(done.report.summary());
                    answer.vms.push(done);
                }
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    faults.push(format!("{vm}: {}", e.report()));
                }
                // It was removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => {
                    self.keeper.end();
                    return Err(e);
                }
            }
        }
        answer.kept = self.keeper.end();
        Ok(faults)
    }

    fn vm(&self, parts: &VmParts) -> Result<VmAnswer> {
        let subject = TaskSubject {
            kind: TaskKind::Verify,
            vm: Some(parts.vm.clone()),
            session: None,
            point: None,
        };
        // A check takes seconds, and is no task.
        let task = match self.choice.data {
            true => Some(Announced::new(
                self.context,
                subject,
                Arc::clone(&self.stop),
            )),
            false => None,
        };
        let done = self.task(parts, task.as_ref());
        if let Some(task) = task {
            let ended = match &done {
                Ok(done) => done.report.outcome(),
                Err(e) => Err(Error::new(e.kind(), e.report())),
            };
            task.finish(&ended);
        }
        done
    }

    fn task(&self, parts: &VmParts, task: Option<&Announced<'_>>) -> Result<VmAnswer> {
        if let Some(task) = task {
            task.begin()?;
        }
        let bar = self.progress.bar(parts.vm.as_str(), parts.bytes());
        let piece = |disk: Option<&DiskName>, bytes| {
            let bar = bar.clone();
            // Bytes of no disk are none of the bar's.
            let is_counted = bytes > 0;
            let advance = move |bytes| {
                if is_counted {
                    bar.add(bytes);
                }
            };
            match task {
                Some(task) => task.piece(disk, bytes, advance),
                None => Monitor::with_listener(Arc::clone(&self.stop), advance),
            }
        };
        // What a check has found is kept when there is damage, or was: it needs no lock otherwise.
        let checked = RefCell::new(Vec::new());
        let keep = |vm: &VmName, notes: &CheckNotes| {
            match self.choice.data {
                true => self.keeper.keep(vm, notes),
                false => checked.borrow_mut().push(notes.clone()),
            }
            Ok(())
        };
        let verified = Watched {
            repository: &self.repository,
            pace: &self.pace,
            piece: &piece,
            data: self.choice.data,
            keep: &keep,
            now: SystemClock.now(),
        }
        .verify(parts);
        bar.finish();
        let report = verified?;
        let was_damaged = |point: &PointReport| point.was_damaged;
        let checked = checked.into_inner();
        match report.is_damaged() || report.points.iter().any(was_damaged) {
            true => checked
                .iter()
                .for_each(|notes| self.keeper.keep(&report.vm, notes)),
            false if checked.is_empty() => {}
            false => self.keeper.has_left_out.set(true),
        }
        let harmed = name_files(
            &self.repository,
            &self.context.pool(),
            &self.context.tree_options(TreeOptions::default()),
            &report,
            self.files,
            &piece(None, 0),
        )?;
        Ok(VmAnswer { report, harmed })
    }

    fn show(&self, done: &VmAnswer) -> Result<()> {
        let output = &self.context.output;
        let report = &done.report;
        let damaged = report.points.iter().filter(|p| p.damage.is_some()).count();
        let result = match (damaged, report.is_damaged()) {
            (0, false) => "no damage found".to_owned(),
            (0, true) => "its own files are damaged".to_owned(),
            (damaged, _) => format!(
                "{damaged} of {} damaged",
                Count::of(report.points.len(), "point")
            ),
        };
        let (layers, read) = (report.layers, Human(report.read_bytes));
        output.outcome(format!(
            "{}: {} verified, {read} read: {result}",
            report.vm,
            Count(layers, "layer"),
        ))?;
        for fault in &report.faults {
            output.line(format!("  {fault}"))?;
        }
        for (what, points) in grouped(report) {
            output.line(format!("  {what}"))?;
            output.line(format!("    in {}", points_in_short(&points)))?;
        }
        for point in &done.harmed {
            let at = format!("{}@{}", report.vm, point.point);
            for disk in &point.unreadable {
                output.line(format!("  {at}: nothing of a disk can be read: {disk}"))?;
            }
            if !point.files.is_empty() {
                output.line(format!("  harmed in {at}:"))?;
            }
            for file in point.files.iter().take(FILES_SHOWN) {
                let kind = match file.kind {
                    HarmedKind::File => "",
                    HarmedKind::Directory => " (directory)",
                    HarmedKind::Volume => " (volume)",
                };
                let note = file.note.as_ref();
                let note = note.map_or_else(String::new, |note| format!(": {note}"));
                output.line(format!("    {}{kind}{note}", file.path))?;
            }
            let more = point.files.len().saturating_sub(FILES_SHOWN);
            let more = more as u64 + point.left_out;
            if more > 0 {
                output.line(format!("    and {more} more; --json lists them"))?;
            }
        }
        Ok(())
    }
}

/// Each fault once, with the points that have it.
fn grouped(report: &VmReport) -> Vec<(String, Vec<&PointName>)> {
    let mut order = Vec::new();
    let mut points: BTreeMap<String, Vec<&PointName>> = BTreeMap::new();
    for point in &report.points {
        let Some(damage) = &point.damage else {
            continue;
        };
        let ranges = damage.ranges.iter().map(|range| {
            let place = match range.file_offset {
                Some(at) => format!("{} at offset {at}", range.layer.layer_file()),
                None => range.layer.layer_file(),
            };
            let end = range.offset.saturating_add(range.length_bytes);
            format!(
                "{place}: disk {}, bytes {} to {end}: {}",
                range.disk, range.offset, range.fault
            )
        });
        for what in damage.faults.iter().cloned().chain(ranges) {
            let known = points.entry(what.clone()).or_default();
            if known.is_empty() {
                order.push(what);
            }
            known.push(&point.point);
        }
    }
    let take = |what: String| points.remove(&what).map(|points| (what, points));
    order.into_iter().filter_map(take).collect()
}

/// Gives results to the owner of the lock. Where that fails, it goes on, and tells it at the end.
struct Keeper<'a> {
    context: &'a Context,
    results: RefCell<verify::Keeper>,
    /// Whether results need not be kept.
    has_left_out: Cell<bool>,
}

impl<'a> Keeper<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            results: RefCell::default(),
            has_left_out: Cell::default(),
        }
    }

    fn keep(&self, vm: &VmName, notes: &CheckNotes) {
        self.results.borrow_mut().add(vm, notes);
        // A backup may have the lock for hours; the end is patient.
        match self.context.writer_now("verify") {
            Ok(writer) => self.give(&writer),
            Err(e) => {
                tracing::info!(error = %e.report(), "results of verifying wait for the lock");
            }
        }
    }

    fn give(&self, writer: &Writer) {
        let keep = |vm: &VmName, notes: &CheckNotes| writer.service.note_checks(vm, notes);
        self.results.borrow_mut().give(keep);
    }

    /// Whether everything is kept.
    fn end(&self) -> bool {
        if self.results.borrow().is_waiting() {
            match self.context.patient_writer("verify") {
                Ok(writer) => self.give(&writer),
                Err(e) => self.results.borrow_mut().note_failure(e),
            }
        }
        let ended = self.results.borrow_mut().end();
        match ended {
            Ok(()) => !self.has_left_out.get(),
            Err(e) => {
                self.context.output.warn(format!(
                    "the results are told here, and not kept in the repository: {}",
                    e.report()
                ));
                false
            }
        }
    }
}
