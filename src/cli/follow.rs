//! `restorefs jobs --follow`: prints what begins, goes on and ends, as it happens.
//!
//! # Why
//! What ends is read from the history: nothing is lost when the daemon's events are, when it restarts, or where there is
//! none. Only what begins and goes on needs the daemon.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cancel::short_id;
use super::context::Context;
use super::job::{Filter, encode, percent, progress, running, time};
use super::output::Output;
use super::progress::{Bar, Progress};
use crate::control::{Client, Events, SHORT_PATIENCE};
use crate::daemon::interrupt;
use crate::error::Result;
use crate::repo::job::kind_of;
use crate::repo::{Job, JobTail, Repository};
use crate::service::{Event, Happening, Service, SessionChange};
use crate::task::TaskReport;
use crate::types::JobId;
use crate::types::size::Human;

/// How often the history is looked at, and a daemon is looked for where there is none.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// LIMIT: how long a signal waits where there are no events to wait for.
const NAP: Duration = Duration::from_millis(200);

pub(super) fn run(context: &Context, filter: &Filter) -> Result<()> {
    let stop = interrupt::flag()?;
    let repository = context.repository()?;
    let mut view = View::new(context.output, filter);
    let mut history = repository.jobs_end()?;
    let mut daemon = Daemon::default();
    let mut looked_at: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) && view.has_reader {
        let is_due = looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        if is_due && daemon.events.is_none() {
            daemon.connect(&repository, &mut view)?;
        }
        if daemon.next(&mut view)? || is_due {
            looked_at = Some(Instant::now());
            show_ended(&repository, &mut history, &mut view)?;
        }
    }
    view.status.finish();
    Ok(())
}

fn show_ended(repository: &Repository, tail: &mut JobTail, view: &mut View<'_>) -> Result<()> {
    for job in repository.jobs_after(tail)? {
        view.ended(&job)?;
    }
    Ok(())
}

/// The daemon whose events are shown, where there is one.
#[derive(Default)]
struct Daemon {
    events: Option<Events>,
    /// The id of the last event.
    last: Option<String>,
    /// Whether the user knows that there is no daemon.
    is_missed: bool,
}

impl Daemon {
    /// Looks for a daemon, and shows what runs there.
    fn connect(&mut self, repository: &Repository, view: &mut View<'_>) -> Result<()> {
        // The events first: what begins after the list was made is among them.
        let found = Client::connect_within(repository, Some(SHORT_PATIENCE)).and_then(|client| {
            let events = client.map(|client| client.follow(self.last.as_deref()));
            events.transpose()
        });
        match found {
            Ok(Some(events)) => {
                if self.is_missed {
                    view.remark("a daemon serves the repository now");
                }
                self.is_missed = false;
                self.events = Some(events);
                self.list(repository, view)
            }
            Ok(None) => {
                self.miss(view, "no daemon serves the repository");
                Ok(())
            }
            Err(e) => {
                self.miss(view, &e.report());
                Ok(())
            }
        }
    }

    fn list(&self, repository: &Repository, view: &mut View<'_>) -> Result<()> {
        let listed = Client::connect_within(repository, Some(SHORT_PATIENCE))
            .and_then(|client| client.map(|client| client.tasks()).transpose());
        match listed {
            Ok(tasks) => {
                tasks
                    .unwrap_or_default()
                    .iter()
                    .try_for_each(|task| match task.state.is_end() {
                        true => Ok(()),
                        false => view.task(task),
                    })
            }
            // The daemon is just going.
            Err(_) => Ok(()),
        }
    }

    fn miss(&mut self, view: &View<'_>, why: &str) {
        if !self.is_missed {
            view.remark(&format!("{why}: only what ends is shown until one does"));
        }
        self.is_missed = true;
    }

    /// Waits a moment for an event. Returns whether something may have ended.
    fn next(&mut self, view: &mut View<'_>) -> Result<bool> {
        let Some(events) = &mut self.events else {
            std::thread::sleep(NAP);
            return Ok(false);
        };
        match events.next_event() {
            Ok(None) => Ok(false),
            Ok(Some(event)) => {
                let is_end = view.event(&event)?;
                self.last = Some(event.id);
                Ok(is_end)
            }
            Err(e) => {
                self.events = None;
                self.miss(view, &e.report());
                Ok(true)
            }
        }
    }
}

/// What is printed.
struct View<'a> {
    output: Output,
    filter: &'a Filter,
    progress: Progress,
    status: Bar,
    /// Running tasks whose begin was printed.
    running: HashSet<JobId>,
    /// Whether somebody reads standard output.
    has_reader: bool,
}

impl<'a> View<'a> {
    fn new(output: Output, filter: &'a Filter) -> Self {
        let progress = Progress::new(output);
        let status = progress.status();
        Self {
            output,
            filter,
            progress,
            status,
            running: HashSet::new(),
            has_reader: true,
        }
    }

    fn remark(&self, text: &str) {
        let text = format!("restorefs: {text}");
        self.progress.beside(|| self.output.remark(text));
    }

    /// Shows an event. Returns whether something may have ended.
    fn event(&mut self, event: &Event) -> Result<bool> {
        match &event.happening {
            Happening::Task { task } if task.state.is_end() => Ok(true),
            Happening::Task { task } => self.task(task).map(|()| false),
            Happening::Session { state, .. } => Ok(*state != SessionChange::Open),
            Happening::Reset => {
                // What ended is in the history; what runs reports itself within a second.
                self.running.clear();
                Ok(true)
            }
            Happening::Point { .. } | Happening::Repository { .. } => Ok(false),
        }
    }

    /// Shows a running task: its begin once, its progress to a program, or on a terminal.
    fn task(&mut self, task: &TaskReport) -> Result<()> {
        if !self.filter.wants_task(task) {
            return Ok(());
        }
        let is_new = self.running.insert(task.id);
        if self.output.json {
            let event = if is_new { "began" } else { "progress" };
            return self.print_json(event, &running(task)?);
        }
        let subject = &task.subject;
        let vm = subject.vm.as_ref().map_or("-", |vm| vm.as_str());
        let (id, kind) = (short_id(task.id), kind_of(subject.kind));
        if is_new {
            let began_at = time(task.began_at);
            return self.print(&format!("{began_at}  {id}  {kind:<8}  {vm}  began"));
        }
        let (done, total) = progress(task);
        self.status.say(&format!(
            "{id}  {kind:<8}  {vm}  {} of {} ({} %)",
            Human(done),
            Human(total),
            percent(done, total)
        ));
        Ok(())
    }

    fn ended(&mut self, job: &Job) -> Result<()> {
        self.running.remove(&job.job_id);
        if self.running.is_empty() {
            self.status.say("");
        }
        if !self.filter.wants_job(job) {
            return Ok(());
        }
        if self.output.json {
            return self.print_json("ended", &encode(job)?);
        }
        let vm = job.vm.as_ref().map_or("-", |vm| vm.as_str());
        let point = job.point.as_ref();
        let point = point.map_or_else(String::new, |point| format!("  {point}"));
        let reason = job.reason.as_deref();
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        self.print(&format!(
            "{}  {}  {:<8}  {vm}{point}  {}{reason}",
            time(job.ended_at),
            short_id(job.job_id),
            job.kind,
            job.result.as_str(),
        ))
    }

    fn print_json(&mut self, event: &str, job: &Value) -> Result<()> {
        self.has_reader = self
            .output
            .json_line(&json!({"event": event, "job": job}))?;
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let output = self.output;
        self.has_reader = self.progress.beside(|| output.live_line(text))?;
        Ok(())
    }
}
