//! `restorefs copy` and `restorefs adopt`: copies restore points to another repository, and makes a copy a VM of its own.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde::Serialize;

use super::announced::Announced;
use super::args::copy::{Adopt, Copy};
use super::context::{Context, Writer};
use super::damage;
use super::merge::parse_limit;
use super::output::Output;
use super::progress::{Bar, Progress};
use super::vm_pattern::chosen;
use crate::clock::{Clock, SystemClock};
use crate::control::{Client, SHORT_PATIENCE};
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::copy::{Ends, PointState, Route, VmReport, check_apart, known_vms, record};
use crate::repo::Repository;
use crate::repo::arrive::Arrival;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::PointEntry;
use crate::service::Service;
use crate::task::{Monitor, Pace, TaskKind, TaskSubject, on_threads};
use crate::types::size::{Count, Human};
use crate::types::sync::Mutex;
use crate::types::{DiskName, PointName, RepositoryId, SessionRef, VmId, VmName};

/// LIMIT: VMs that are copied at the same time.
const VMS_AT_ONCE: usize = 2;

/// A VM in the answer.
#[derive(Serialize)]
struct VmAnswer {
    #[serde(flatten)]
    report: VmReport,
    /// Whether the source has recorded its copies; `null` of a trial.
    kept: Option<bool>,
    /// Why the copy ended before its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    /// The repository that receives.
    to: RepositoryId,
    vms: Vec<&'a VmAnswer>,
    /// Bytes that were written at the target.
    sent_bytes: u64,
}

pub(super) fn run(context: &Context, args: &Copy) -> Result<()> {
    let to = context.of_word(&args.to)?;
    let (source, target) = (context.repository()?, to.repository()?);
    target.format().check(true)?;
    check_apart(&source, &target)?;
    let vms = chosen(&source, &args.vms)?;
    let points = args.point.iter().map(PointName::new);
    let points = points.collect::<Result<Vec<_>>>()?;
    let name = args.name.as_ref().map(VmName::new).transpose()?;
    if vms.len() > 1 && (name.is_some() || !points.is_empty()) {
        return Err(Error::invalid(format!(
            "--as and --point are about one VM, and {} are named",
            vms.len()
        )));
    }
    let command = Command {
        context,
        to: &to,
        known: known_vms(&target)?,
        source,
        target,
        pace: Pace::new(args.limit.as_deref().map(parse_limit).transpose()?),
        name,
        points,
        is_again: args.again,
        is_trial: args.dry_run,
        stop: interrupt::flag()?,
        progress: Progress::new(context.output),
        turns: Turns::default(),
    };
    command.run(&vms)
}

pub(super) fn adopt(context: &Context, args: &Adopt) -> Result<()> {
    let vm = context.repository()?.spelled(&VmName::new(&args.vm)?)?;
    let was_copy = context.writer("adopt")?.service.adopt(&vm)?;
    if context.output.json {
        return context
            .output
            .json(&serde_json::json!({"vm": vm, "was_copy": was_copy}));
    }
    context.output.outcome(match was_copy {
        true => format!("{vm} takes backups here from now on, and no copies"),
        false => format!("{vm} is no copy: it takes backups here already"),
    })
}

/// Held while this process has the lock of a repository: one thread at a time.
#[derive(Default)]
struct Turns {
    source: Mutex<()>,
    target: Mutex<()>,
}

struct Command<'a> {
    context: &'a Context,
    to: &'a Context,
    source: Arc<Repository>,
    target: Arc<Repository>,
    known: HashMap<VmId, VmName>,
    pace: Pace,
    name: Option<VmName>,
    points: Vec<PointName>,
    is_again: bool,
    is_trial: bool,
    stop: Arc<AtomicBool>,
    progress: Progress,
    turns: Turns,
}

/// A VM that was copied, and the error that ended it before its end.
type Done = (VmAnswer, Result<()>);

impl Command<'_> {
    fn run(&self, vms: &[VmName]) -> Result<()> {
        let done: Mutex<BTreeMap<&VmName, Done>> = Mutex::default();
        let mut left = vms.iter();
        on_threads(
            VMS_AT_ONCE.min(vms.len()).max(1),
            &Monitor::default(),
            || match self.stop.load(Ordering::Relaxed) {
                true => Ok(None),
                false => Ok(left.next()),
            },
            || (),
            |(), vm| {
                let copied = self.vm(vm);
                if !self.context.output.json {
                    self.progress.beside(|| self.show(&copied.0))?;
                }
                done.lock().insert(vm, copied);
                Ok(())
            },
        )?;
        let done = done.into_inner();
        if self.context.output.json {
            let answers: Vec<&VmAnswer> = done.values().map(|(answer, _)| answer).collect();
            self.context.output.json(&Answer {
                to: self.target.format().repository_id,
                sent_bytes: answers.iter().map(|vm| vm.report.sent_bytes).sum(),
                vms: answers,
            })?;
        }
        self.end(done)
    }

    /// The result of the whole command.
    fn end(&self, done: BTreeMap<&VmName, Done>) -> Result<()> {
        let mut faults = Vec::new();
        let mut errors = Vec::new();
        for (vm, (answer, ended)) in done {
            for point in &answer.report.points {
                if let Some(reason) = &point.reason {
                    faults.push(format!("{vm}@{}: {reason}", point.point));
                }
            }
            let without = answer.report.without_sidecar.iter();
            faults.extend(
                without.map(|name| {
                    format!("{vm}: points/{name} has no point.json, and is not copied")
                }),
            );
            if let Err(e) = ended {
                errors.push((vm, e));
            }
        }
        let damaged = damage::end(&faults);
        if errors.len() > 1 {
            for (vm, error) in &errors {
                Output::fault(&format!("{vm}: {}", error.report()));
            }
        }
        match errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Cancelled, "stopped on request"))
            }
            None => damaged,
        }
    }

    fn vm(&self, vm: &VmName) -> Done {
        let subject = TaskSubject {
            kind: TaskKind::Copy,
            vm: Some(vm.clone()),
            session: None,
            point: None,
        };
        let ends = Between {
            command: self,
            label: vm.to_string(),
            task: Announced::new(self.context, subject, Arc::clone(&self.stop)),
            bar: RefCell::default(),
        };
        let route = Route {
            source: &self.source,
            target: &self.target,
            pace: &self.pace,
            ends: &ends,
            vm,
            name: self.name.as_ref(),
            known: &self.known,
            chosen: &self.points,
            is_again: self.is_again,
            is_trial: self.is_trial,
        };
        let (report, ended) = route.copy();
        ends.next_bar(None);
        let kept = match self.is_trial {
            true => None,
            false => Some(self.note(&report)),
        };
        if !self.is_trial {
            ends.task.finish(&report.outcome(&ended));
        }
        let error = ended.as_ref().err().map(Error::report);
        let answer = VmAnswer {
            report,
            kept,
            error,
        };
        (answer, ended)
    }

    /// Records at the source which points the target has; returns whether they are recorded.
    fn note(&self, report: &VmReport) -> bool {
        let target = self.target.format().repository_id;
        let copies = report.copies(&self.source, target, SystemClock.now());
        let noted = copies.and_then(|copies| {
            if copies.is_empty() {
                return Ok(());
            }
            let _turn = self.turns.source.lock();
            // Who wants it to stop does not wait for a lock.
            let writer = match self.stop.load(Ordering::Relaxed) {
                true => self.context.writer_now("copy")?,
                false => self.context.patient_writer("copy")?,
            };
            record(&report.vm, &copies, &|vm, copies| {
                writer.service.note_copies(vm, copies)
            })
        });
        if let Err(e) = &noted {
            self.context.output.remark(format!(
                "restorefs: {} is copied, but its repository could not record that, and may keep points longer than it must: {}",
                report.vm,
                e.report()
            ));
        }
        noted.is_ok()
    }

    fn show(&self, answer: &VmAnswer) -> Result<()> {
        let report = &answer.report;
        let count = |state| report.points.iter().filter(|p| p.state == state).count();
        let name = match report.name == report.vm {
            true => String::new(),
            false => format!(" as {}", report.name),
        };
        let there = count(PointState::Present);
        let there = match there {
            0 => String::new(),
            there => format!(", {} there already", Count::of(there, "point")),
        };
        let gone = match count(PointState::Gone) {
            0 => String::new(),
            gone => format!(", {} forgotten there (--again)", Count::of(gone, "point")),
        };
        let damaged = match count(PointState::Damaged) {
            0 => String::new(),
            damaged => format!(", {} not copied", Count::of(damaged, "damaged point")),
        };
        let (what, sent) = match self.is_trial {
            true => ("would be copied", "at most"),
            false => ("copied", "sent"),
        };
        let points = Count::of(count(PointState::Copied) + count(PointState::Due), "point");
        let bytes = Human(report.sent_bytes);
        let size = match self.is_trial {
            true => format!("{sent} {bytes}"),
            false => format!("{bytes} {sent}"),
        };
        let line = format!(
            "{}{name}: {points} {what}, {size}{there}{gone}{damaged}",
            report.vm
        );
        self.context.output.outcome(line)
    }
}

/// The owners of both repositories, for the copy of one VM.
struct Between<'a> {
    command: &'a Command<'a>,
    label: String,
    task: Announced<'a>,
    bar: RefCell<Option<Bar>>,
}

impl Between<'_> {
    fn next_bar(&self, next: Option<Bar>) {
        if let Some(last) = self.bar.replace(next) {
            last.finish();
        }
    }

    /// One step at the target: its lock is held for no longer than that.
    fn at_target<T>(&self, step: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        let _turn = self.command.turns.target.lock();
        let writer = match self.command.stop.load(Ordering::Relaxed) {
            true => self.command.to.writer_now("copy")?,
            false => self.command.to.patient_writer("copy")?,
        };
        step(&writer)
    }
}

impl Ends for Between<'_> {
    fn begin(&self, arrival: &Arrival) -> Result<PointName> {
        self.at_target(|writer| writer.service.begin_arrival(arrival))
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        self.at_target(|writer| writer.service.arrive(vm, session))
    }

    fn abort(&self, vm: &VmName, session: &PointName, reason: &str) -> Result<()> {
        let session = SessionRef {
            vm: vm.clone(),
            session: session.clone(),
        };
        self.at_target(|writer| writer.service.abort(&session, Some(reason)))
    }

    fn hold(&self, vm: &VmName, point: &PointEntry) -> Box<dyn Any> {
        let repository = &self.command.source;
        let held = Client::connect_within(repository, Some(SHORT_PATIENCE)).and_then(|client| {
            let Some(client) = client else {
                return Ok(None);
            };
            client.hold(vm, &Which::Named(point.name.clone()), "a copy")?;
            Ok(Some(client))
        });
        match held {
            Ok(client) => Box::new(client),
            Err(e) => {
                // A point that is forgotten meanwhile is read from the trash, or is not copied.
                tracing::info!(vm = %vm, point = %point.name, error = %e.report(), "the point is copied without a use of it");
                Box::new(())
            }
        }
    }

    fn monitor(&self, disk: &DiskName, bytes: u64) -> Result<Monitor> {
        let bar = self.command.progress.bar(&self.label, bytes);
        self.next_bar(Some(bar.clone()));
        self.task.begin()?;
        Ok(self
            .task
            .piece(Some(disk), bytes, move |bytes| bar.add(bytes)))
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}
