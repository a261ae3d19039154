//! A child process that does not outlive its parent.
#![expect(
    unsafe_code,
    reason = "a step between fork and exec has no safe interface"
)]

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use crate::error::{Error, Result, ResultExt};

/// Starts a command that receives SIGTERM when the calling thread ends, however it ends. The caller waits for the
/// command on the same thread.
///
/// # Errors
/// `NotFound`, `PermissionDenied`, `Io`.
pub fn start(mut command: Command) -> Result<Child> {
    let parent = getpid();
    let step = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        match getppid() == Some(parent) {
            true => Ok(()),
            // The parent ended before the call: nobody would send the signal.
            false => Err(std::io::Error::other("the parent has ended")),
        }
    };
    // SAFETY: the step makes two system calls; it takes no locks. It allocates only where it fails.
    unsafe { command.pre_exec(step) };
    let program = command.get_program().to_os_string();
    command
        .spawn()
        .or_io("cannot start the command")
        .at_path(program)
}

/// Makes this process ignore signals.
///
/// # Errors
/// `Io`.
pub fn ignore(signals: &[Signal]) -> Result<()> {
    for signal in signals {
        // SAFETY: SIG_IGN installs no handler, so no code of this process runs in a signal's context.
        let before = unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return Err(Error::io(
                "cannot ignore a signal",
                std::io::Error::last_os_error(),
            ));
        }
    }
    Ok(())
}

/// Sends a signal to a child; one that has ended is no error.
///
/// # Errors
/// `Io`.
pub fn send(child: u32, signal: Signal) -> Result<()> {
    let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process(child, signal) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(e) => Err(Error::io("cannot send a signal", e.into())),
    }
}

/// Whether this process is in the foreground of its terminal, which then sends its signals to the process's children, too.
#[must_use]
pub fn is_in_foreground() -> bool {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return false;
    };
    // After the name, which may have any characters: state, ppid, pgrp, session, tty, the tty's group.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    matches!((fields.get(2), fields.get(5)), (Some(own), Some(front)) if own == front)
}
