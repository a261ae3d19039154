//! The actions of policies, each done as its command does it.
//!
//! # Why
//! A backup is a command of the administrator's. It is run from a policy only where the policy's file belongs to the user who
//! runs it, or to root: otherwise whoever may write to the repository could run commands as somebody else.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::context::Context;
use super::merge::{self, Merger};
use super::{forget, verify};
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::merge::Merged;
use crate::jobs::policy::{Action, Terms};
use crate::repo::Repository;
use crate::repo::sidecar::policy_run::ActionKind;
use crate::sys::child;
use crate::types::size::Human;

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// LIMIT: lines that are kept of what a command writes, and bytes of each; the last ones say why it failed.
const LINES_MAX: usize = 5;
const LINE_BYTES_MAX: u64 = 4_096;

/// Does actions.
pub(super) struct Actor<'a> {
    context: &'a Context,
    repository: Arc<Repository>,
    /// Stops the whole run.
    pub(super) stop: Arc<AtomicBool>,
}

impl<'a> Actor<'a> {
    /// An actor that SIGINT and SIGTERM stop.
    ///
    /// # Errors
    /// As [`Context::repository`]; `Io`.
    pub(super) fn new(context: &'a Context) -> Result<Self> {
        Ok(Self {
            context,
            repository: context.repository()?,
            stop: interrupt::flag()?,
        })
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Does an action of a policy; returns what was done. `is_low`: the filesystem is nearly full.
    ///
    /// # Errors
    /// What the action failed with; `InvalidInput` for one that is blocked.
    pub(super) fn act(&self, action: &Action, terms: &Terms, is_low: bool) -> Result<String> {
        if let Some(why) = &action.blocked {
            return Err(Error::invalid(why.clone()));
        }
        match action.action {
            ActionKind::Backup => self.backup(action, terms),
            ActionKind::Forget => self.forget(action, terms, is_low),
            ActionKind::Merge => self.merge(action),
            ActionKind::Copy => self.copy(action),
            ActionKind::Verify => self.verify(action, terms),
        }
    }

    /// Runs the command of the policy for the VM.
    fn backup(&self, action: &Action, terms: &Terms) -> Result<String> {
        self.repository.check_command_owner(&terms.name)?;
        let mut words = terms.command.iter();
        let program = words
            .next()
            .ok_or_else(|| Error::invalid("the policy has no command"))?;
        let mut command = Command::new(program);
        command
            .args(words)
            .env("RESTOREFS_VM", action.vm.as_str())
            .env("RESTOREFS_REPO", self.context.repo_word()?);
        self.child(command)?;
        Ok("the command has succeeded".to_owned())
    }

    fn forget(&self, action: &Action, terms: &Terms, is_low: bool) -> Result<String> {
        let rules = terms.keep.clone();
        let mut rules = rules.ok_or_else(|| Error::invalid("the policy has no rules"))?;
        rules.is_owed_lifted = is_low;
        let plan = forget::by_policy(self.context, &action.vm, &rules)?;
        let gone = plan.gone().len();
        let kept = plan.points.len() - gone;
        let freed = Human(plan.freed_bytes);
        Ok(format!("{gone} forgotten, {kept} kept, {freed} freed"))
    }

    fn merge(&self, action: &Action) -> Result<String> {
        let stop = Arc::clone(&self.stop);
        let merger = Merger::new(self.context, stop, action.at_any_price, None)?;
        let merged = merger.merge(&action.vm)?;
        Ok(match merged == Merged::default() {
            true => "nothing is worth merging".to_owned(),
            false => merge::summary(&merged),
        })
    }

    /// Copies the VM's points to another repository.
    fn copy(&self, action: &Action) -> Result<String> {
        let to = action.to.as_ref();
        let to = to.ok_or_else(|| Error::invalid("the copy has no target"))?;
        let program = std::env::current_exe().or_io("cannot find this program")?;
        let mut command = Command::new(program);
        command
            .args(self.context.global_flags())
            .arg("--repo")
            .arg(self.context.repo_word()?)
            .args(["--quiet", "copy", action.vm.as_str(), "--to", to.as_str()]);
        self.child(command)?;
        Ok(format!("copied to {to}"))
    }

    fn verify(&self, action: &Action, terms: &Terms) -> Result<String> {
        let every = terms.verify_every.map_or(0, |every| every.as_secs());
        verify::by_policy(self.context, &self.stop, &action.vm, every)?;
        Ok("no damage found".to_owned())
    }

    /// Runs a child to its end. What it writes goes to standard error; the last lines are in the error.
    fn child(&self, mut command: Command) -> Result<()> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let mut running = child::start(command)?;
        let output = running.stderr.take();
        let quiet = self.context.output.quiet;
        let said =
            std::thread::spawn(move || output.map_or_else(Vec::new, |out| relay(out, quiet)));
        let mut is_told = false;
        let status = loop {
            if let Some(status) = running.try_wait().or_io("cannot wait for the command")? {
                break status;
            }
            if self.is_stopped() && !is_told {
                child::send(running.id(), Signal::TERM)?;
                is_told = true;
            }
            std::thread::sleep(LOOK);
        };
        // A process that the command has left behind may hold the pipe open: then nobody waits for its words.
        let begun = std::time::Instant::now();
        while !said.is_finished() && begun.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(LOOK);
        }
        if status.success() {
            return Ok(());
        }
        if self.is_stopped() {
            return Err(Error::new(ErrorKind::Cancelled, "it was stopped"));
        }
        let lines = match said.is_finished() {
            true => said.join().unwrap_or_default(),
            false => Vec::new(),
        };
        let words = match lines.is_empty() {
            true => String::new(),
            false => format!(": {}", lines.join("; ")),
        };
        Err(Error::new(
            ErrorKind::Io,
            format!("{program} failed ({status}){words}"),
        ))
    }
}

/// Passes lines on to standard error, unless `quiet`, and returns the last ones.
fn relay(from: impl Read, quiet: bool) -> Vec<String> {
    let output = super::output::Output { json: false, quiet };
    let mut from = BufReader::new(from);
    let mut last = std::collections::VecDeque::new();
    loop {
        let mut line = Vec::new();
        match (&mut from)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => return last.into(),
            Ok(_) => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                output.remark(&line);
                if !line.is_empty() {
                    last.push_back(line);
                }
                if last.len() > LINES_MAX {
                    last.pop_front();
                }
            }
        }
    }
}
