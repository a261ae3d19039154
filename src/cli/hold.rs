//! `restorefs hold -- COMMAND`: runs a command that copies the repository, while its layers stay as they are.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::Signal;

use super::args::Hold;
use super::context::Context;
use super::output::Output;
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::service::Service;
use crate::sys::child;
use crate::types::printable::printable;
use crate::types::sync::Mutex;

/// How often the hold is proved while the command runs.
const INTERVAL: Duration = Duration::from_secs(2);
/// LIMIT: characters of the command that messages to others have.
const SHOWN_MAX: usize = 200;

pub(super) fn run(context: &Context, args: &Hold) -> Result<ExitCode> {
    let holder = holder(&args.command);
    let writer = context.writer(&holder)?;
    let (service, owner) = (writer.service, writer.owner);
    service.hold_still(&format!("{holder} (pid {})", std::process::id()))?;
    let mut words = args.command.iter();
    let program = words
        .next()
        .ok_or_else(|| Error::invalid("there is no command"))?;
    let mut command = Command::new(program);
    command.args(words);
    let signalled = Arc::new(Signalled::default());
    let passed_on = Arc::clone(&signalled);
    interrupt::each(move |signal| passed_on.pass_on(signal))?;
    let mut running = child::start(command)?;
    signalled.begins(running.id());
    let (ended, is_over) = channel();
    let proved = std::thread::scope(|threads| {
        let output = context.output;
        let watch = threads.spawn(move || watch(service.as_ref(), &holder, output, &is_over));
        let status = running.wait();
        signalled.ends();
        drop(ended);
        let proved = watch.join();
        status
            .map_err(|e| Error::io("cannot wait for the command", e))
            .map(|status| (status, proved))
    });
    let (status, proved) = proved?;
    match proved {
        Ok(proved) => proved?,
        Err(_) => {
            return Err(Error::new(
                ErrorKind::Io,
                "it is not known whether the hold went on",
            ));
        }
    }
    drop(owner);
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        // As a shell reports it.
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// `a hold of rsync -a /srv/repo/ backup2:/srv/repo/`.
fn holder(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let text = printable(&words.join(" ")).into_owned();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("a hold of {}...", text.get(..at).unwrap_or_default()),
        None => format!("a hold of {text}"),
    }
}

/// The command, which receives the signals of this process from its beginning to its end.
#[derive(Default)]
struct Signalled(Mutex<Stage>);

#[derive(Default)]
enum Stage {
    /// It has not begun: what arrives waits for it.
    #[default]
    Before,
    /// The same, and a signal has arrived.
    Waiting(Signal),
    /// It runs, as this process.
    Running(u32),
    Ended,
}

impl Signalled {
    fn pass_on(&self, signal: Signal) {
        let mut stage = self.0.lock();
        match *stage {
            Stage::Before | Stage::Waiting(_) => *stage = Stage::Waiting(signal),
            Stage::Running(command) => send(command, signal),
            Stage::Ended => {}
        }
    }

    fn begins(&self, command: u32) {
        let before = std::mem::replace(&mut *self.0.lock(), Stage::Running(command));
        if let Stage::Waiting(signal) = before {
            send(command, signal);
        }
    }

    fn ends(&self) {
        *self.0.lock() = Stage::Ended;
    }
}

fn send(command: u32, signal: Signal) {
    // The terminal has sent its signals to the command itself.
    let is_own = signal == Signal::INT && child::is_in_foreground();
    if !is_own && let Err(e) = child::send(command, signal) {
        tracing::warn!(error = %e.report(), "the command did not receive a signal");
    }
}

/// Proves again and again, and once more after the command has ended, that the hold goes on.
fn watch(
    service: &dyn Service,
    holder: &str,
    output: Output,
    is_over: &Receiver<()>,
) -> Result<()> {
    loop {
        let waited = is_over.recv_timeout(INTERVAL);
        if let Err(e) = service.hold_still(holder) {
            let lost = Error::new(
                ErrorKind::Stale,
                "the hold has ended before the command: layers may have been replaced or removed while it ran",
            )
            .caused_by(e)
            .advise("do not use what it has copied; run it again");
            if waited == Err(RecvTimeoutError::Timeout) {
                output.warn(lost.report());
            }
            return Err(lost);
        }
        if waited != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}
