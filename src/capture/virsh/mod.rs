//! Runs `virsh`, the command line of libvirt.
//!
//! # Invariants
//! - Each call has a time limit, and its output a bounded length.
//! - A call changes nothing that a second one would change again: so one whose connection was lost may be repeated, where the caller asks
//!   for that.
//!
//! # Why
//! Its text is stable (`LC_ALL=C`), and it follows the libvirt that is installed. A library would be loaded into this process.

pub mod job;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::printable::printable;

/// LIMIT: bytes of an output.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// LIMIT: characters of a reason that are quoted.
const REASON_CHARS_MAX: usize = 512;

/// LIMIT: time for a call, unless the caller says another: libvirt waits 30 seconds for its own lock of a domain.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// LIMIT: time for which a libvirt that cannot be reached is sought again: it may be restarted.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(500);

/// A libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: String,
}

impl Virsh {
    /// The libvirt at a URI.
    ///
    /// # Errors
    /// `Unsupported` for one on another host: QEMU and this program share files and a socket.
    pub fn new(uri: &str) -> Result<Self> {
        let host = uri.split_once("://").map(|(_, rest)| rest);
        let host = host.and_then(|rest| rest.split(['/', '?']).next());
        match host {
            Some("") => Ok(Self {
                uri: uri.to_owned(),
            }),
            Some(host) => Err(Error::unsupported(format!(
                "the domain's disks are read on the host where it runs, not from afar: {}",
                printable(host)
            ))
            .advise("run restorefs there: its repository may be behind a daemon on another host")),
            None => Err(
                Error::invalid(format!("{} is no URI of a libvirt", printable(uri)))
                    .advise("write it as qemu:///system"),
            ),
        }
    }

    /// The URI.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Makes a call, and returns what it prints.
    ///
    /// # Errors
    /// `Unsupported` without virsh, or for what this libvirt cannot do; `Disconnected` when libvirt cannot be reached; `NotFound` for
    /// a domain, checkpoint or job that does not exist, and for a domain that does not run; `Busy`, `PermissionDenied`, `NoSpace`,
    /// `TimedOut`; `InvalidInput` with any other reason.
    pub fn call(&self, arguments: &[&str]) -> Result<String> {
        self.call_within(arguments, CALL_TIMEOUT)
    }

    /// [`Virsh::call`] with another time limit.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub fn call_within(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        let command = arguments.first().copied().unwrap_or_default();
        let mut child = Command::new("virsh")
            .args(["-q", "-c", &self.uri])
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's signals are for this process, which ends in order.
            .process_group(0)
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::unsupported(
                    "domains are backed up through virsh, which is not installed",
                )
                .advise("install it (Debian: libvirt-clients)"),
                _ => Error::io("cannot start virsh", e),
            })?;
        let deadline = Instant::now() + limit;
        let outputs = (read(child.stdout.take())?, read(child.stderr.take())?);
        let done = wait(&mut child, deadline, command);
        if done.is_err() {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
        }
        let is_success = done?;
        let output = taken(&outputs.0, deadline, command)?;
        let said = taken(&outputs.1, deadline, command)?;
        match is_success {
            true => Ok(output),
            false => Err(refusal(command, &said)),
        }
    }

    /// [`Virsh::call`] that is repeated while libvirt cannot be reached.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub fn call_lasting(&self, arguments: &[&str]) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.call(arguments) {
                Err(e) if e.kind() == ErrorKind::Disconnected && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }
}

/// Reads a pipe in a thread; at most one byte more than is allowed.
fn read<R: Read + Send + 'static>(pipe: Option<R>) -> Result<Receiver<Vec<u8>>> {
    let (tell, hear) = mpsc::channel();
    let most = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
    std::thread::Builder::new()
        .name("virsh-output".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                // What cannot be read is missing, and the exit code tells of it.
                let _ = pipe.take(most.saturating_add(1)).read_to_end(&mut bytes);
            }
            // Nobody hears it when the time was over.
            let _ = tell.send(bytes);
        })
        .or_io("cannot start a thread")?;
    Ok(hear)
}

fn late(command: &str) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!("virsh {command} does not end in time"),
    )
}

/// Waits for the end; returns whether it was a success.
fn wait(child: &mut Child, deadline: Instant, command: &str) -> Result<bool> {
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait().or_io("cannot wait for virsh")? {
            return Ok(status.success());
        }
        if Instant::now() >= deadline {
            return Err(late(command));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn taken(output: &Receiver<Vec<u8>>, deadline: Instant, command: &str) -> Result<String> {
    let left = deadline.saturating_duration_since(Instant::now());
    let bytes = output.recv_timeout(left).map_err(|_| late(command))?;
    if bytes.len() > OUTPUT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("virsh {command} prints more than {OUTPUT_BYTES_MAX} bytes"),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parts of libvirt's reasons (`src/util/virerror.c`, `src/rpc/` of libvirt), each with its kind; the first counts.
const REASONS: [(&str, ErrorKind); 32] = [
    ("agent is not connected", ErrorKind::Unsupported),
    ("agent is not configured", ErrorKind::Unsupported),
    ("authentication", ErrorKind::PermissionDenied),
    ("access denied", ErrorKind::PermissionDenied),
    ("Permission denied", ErrorKind::PermissionDenied),
    ("No space left", ErrorKind::NoSpace),
    ("no connection driver available", ErrorKind::Unsupported),
    ("End of file while reading data", ErrorKind::Disconnected),
    ("Cannot recv data", ErrorKind::Disconnected),
    ("Cannot write data", ErrorKind::Disconnected),
    ("client socket is closed", ErrorKind::Disconnected),
    ("keepalive timeout", ErrorKind::Disconnected),
    ("Broken pipe", ErrorKind::Disconnected),
    (
        "failed to connect to the hypervisor",
        ErrorKind::Disconnected,
    ),
    ("failed to get domain", ErrorKind::NotFound),
    ("Domain not found", ErrorKind::NotFound),
    ("checkpoint not found", ErrorKind::NotFound),
    ("backup job id not found", ErrorKind::NotFound),
    ("no job is active", ErrorKind::NotFound),
    ("is not running", ErrorKind::NotFound),
    ("domain is inactive", ErrorKind::NotFound),
    ("inactive domain", ErrorKind::NotFound),
    ("cannot acquire state change lock", ErrorKind::Busy),
    ("already active", ErrorKind::Busy),
    ("another job", ErrorKind::Busy),
    ("unknown command", ErrorKind::Unsupported),
    (
        "not supported by the connection driver",
        ErrorKind::Unsupported,
    ),
    ("unsupported configuration", ErrorKind::Unsupported),
    ("Operation not supported", ErrorKind::Unsupported),
    ("argument unsupported", ErrorKind::Unsupported),
    ("no storage pool with", ErrorKind::NotFound),
    ("Storage volume not found", ErrorKind::NotFound),
];

/// virsh's refusal.
fn refusal(command: &str, said: &str) -> Error {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines
        .map(|line| line.strip_prefix("error: ").unwrap_or(line))
        .collect();
    let reason: String = lines.join(": ").chars().take(REASON_CHARS_MAX).collect();
    let mut known = REASONS.iter();
    let kind = known.find(|(part, _)| reason.contains(part));
    let kind = kind.map_or(ErrorKind::InvalidInput, |(_, kind)| *kind);
    let error = Error::new(kind, format!("virsh {command}: {}", printable(&reason)));
    match kind {
        ErrorKind::Disconnected => error.advise(
            "see whether libvirt runs (systemctl status libvirtd), and name it: --connect URI",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::{Virsh, refusal};
    use crate::error::ErrorKind;

    #[test]
    fn only_a_libvirt_of_this_host_is_asked() {
        for local in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/s",
        ] {
            assert_eq!(Virsh::new(local).unwrap().uri(), local);
        }
        for remote in [
            "qemu+ssh://root@host/system",
            "qemu+tls://host/system",
            "qemu://host?x",
        ] {
            let refused = Virsh::new(remote).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported, "{remote}");
        }
        assert_eq!(
            Virsh::new("qemu").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }

    #[test]
    fn reasons_have_kinds() {
        for (said, kind) in [
            (
                "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/s': No such file or directory\n",
                ErrorKind::Disconnected,
            ),
            (
                "error: failed to connect to the hypervisor\nerror: authentication unavailable: no polkit agent",
                ErrorKind::PermissionDenied,
            ),
            ("error: failed to get domain 'x'", ErrorKind::NotFound),
            (
                "error: Domain backup job id not found: no domain backup job present",
                ErrorKind::NotFound,
            ),
            (
                "error: Requested operation is not valid: domain is not running",
                ErrorKind::NotFound,
            ),
            (
                "error: Timed out during operation: cannot acquire state change lock (held by monitor=x)",
                ErrorKind::Busy,
            ),
            (
                "error: unknown command: 'backup-begin'",
                ErrorKind::Unsupported,
            ),
            (
                "error: Failed to delete checkpoint c\nerror: Operation not supported: cannot delete checkpoint for inactive domain",
                ErrorKind::NotFound,
            ),
            ("error: internal error: \u{1b}[2J", ErrorKind::InvalidInput),
            ("", ErrorKind::InvalidInput),
        ] {
            let error = refusal("x", said);
            assert_eq!(error.kind(), kind, "{said}");
            assert!(!error.report().contains('\u{1b}'));
        }
        let long = refusal("x", &"error: y".repeat(10_000));
        assert!(long.what().len() < 1000);
    }
}
