//! Going to the background: the command starts itself again in the foreground, detached, and waits
//! until the child reports that it is ready. So the tree is there when `restorefs mount` returns.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::context::Context;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::fuse::{MountOptions, effective_labels};

/// Set in the child's environment: the child reports "ready" on its standard output.
const MARK: &str = "RESTOREFS_BACKGROUND";
const READY: &[u8] = b"ready\n";

/// Mounts in the background; `more` are further flags of `restorefs mount`.
///
/// # Errors
/// The error of the process in the background.
pub(super) fn start(
    context: &Context,
    mountpoint: &Path,
    options: &[String],
    more: &[OsString],
) -> Result<()> {
    // The warning is printed here, where the user sees it.
    let mut parsed = MountOptions::default();
    options.iter().try_for_each(|text| parsed.parse(text))?;
    effective_labels(&parsed.labels)?;
    let program = std::env::current_exe().or_io("cannot find this program's file")?;
    let mut command = Command::new(program);
    command.arg("--repo").arg(context.repo_word()?);
    command.args(context.global_flags());
    command.arg("mount").arg("--foreground").args(more);
    if !options.is_empty() {
        command.arg("-o").arg(options.join(","));
    }
    command
        .arg("--")
        .arg(std::path::absolute(mountpoint).or_io("cannot tell the mountpoint's path")?);
    launch(command, "mounting")
}

/// Starts a command of this program, and returns when the command reports that it is ready; `what`
/// describes it in messages.
///
/// # Errors
/// The command's error, when it ends instead.
pub(super) fn launch(mut command: Command, what: &str) -> Result<()> {
    command
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // The process gets its own process group, so that Ctrl-C at the terminal does not reach the
    // mount.
    command.process_group(0).current_dir("/");
    let mut child = command.spawn().or_io("cannot start in the background")?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // Reading ends with "ready", or when the child ends.
        let mut limited = stdout.take(u64::try_from(READY.len()).unwrap_or(u64::MAX));
        limited
            .read_to_end(&mut output)
            .or_io("cannot read from the process in the background")?;
    }
    if output == READY {
        return Ok(());
    }
    let mut why = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut why);
    }
    let status = child
        .wait()
        .or_io("cannot wait for the process in the background")?;
    let why = why.trim().trim_start_matches("restorefs: ").to_owned();
    let kind = match status.code() {
        Some(2) => ErrorKind::InvalidInput,
        Some(3) => ErrorKind::Corrupt,
        Some(10) => ErrorKind::NoRepository,
        _ => ErrorKind::Io,
    };
    Err(Error::new(
        kind,
        if why.is_empty() {
            format!("the {what} process ended with {status}")
        } else {
            why
        },
    ))
}

/// Called in the child: reports to the parent that the tree is there, and closes its pipes, which
/// nobody reads any more.
///
/// # Errors
/// `Io` when `/dev/null` cannot be opened.
pub(super) fn ready() -> Result<()> {
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .or_io("cannot open /dev/null")?;
    ready_logging(&null)
}

/// The same, with a file that takes the log from now on.
///
/// # Errors
/// `Io`.
pub(super) fn ready_logging(log: &File) -> Result<()> {
    if std::env::var_os(MARK).is_none() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    // The parent may have been killed meanwhile.
    let _ = out.write_all(READY).and_then(|()| out.flush());
    rustix::stdio::dup2_stdout(log)
        .and_then(|()| rustix::stdio::dup2_stderr(log))
        .map_err(|e| Error::io("cannot let go of the terminal", e.into()))
}
