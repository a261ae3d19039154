//! `restorefs hold -- COMMAND`: runs a command that copies the repository, while its layers stay as they are.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::args::Hold;
use super::context::Context;
use super::output::Output;
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::service::Service;
use crate::sys::child;
use crate::types::printable::printable;

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
    // Before the signals are watched: one that arrives in between ends this process, and with it the child.
    let mut running = child::start(command)?;
    let has_ended = Arc::new(AtomicBool::new(false));
    pass_on_signals(running.id(), Arc::clone(&has_ended))?;
    let (ended, is_over) = channel();
    let proved = std::thread::scope(|threads| {
        let output = context.output;
        let watch = threads.spawn(move || watch(service.as_ref(), &holder, output, &is_over));
        let status = running.wait();
        has_ended.store(true, Ordering::SeqCst);
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

/// Passes signals on to the command, and goes on waiting for it.
fn pass_on_signals(command: u32, has_ended: Arc<AtomicBool>) -> Result<()> {
    interrupt::each(move |signal| {
        // The terminal has sent its signals to the command itself.
        let is_own = signal == rustix::process::Signal::INT && child::is_in_foreground();
        if !is_own
            && !has_ended.load(Ordering::SeqCst)
            && let Err(e) = child::send(command, signal)
        {
            tracing::warn!(error = %e.report(), "the command did not receive a signal");
        }
    })
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
