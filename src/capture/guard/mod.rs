//! The guard of a guest: a process beside the backup that lets the guest go on when the backup dies or is late.

mod domain;
pub mod message;
pub mod server;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::monitor::Monitor;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::pass;
use message::{Answer, Ask, Held};

/// LIMIT: time for one request: QEMU's limit, and that of thawing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// LIMIT: time for which the end of the guard is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// A guard that runs. Dropping it ends the guard, which lets the guest go on and removes what is this backup's in QEMU.
pub struct Guard {
    /// `None` after a failure: an answer that comes late is not the answer to the next request.
    socket: Option<BufReader<UnixStream>>,
    child: Child,
}

impl Guard {
    /// Starts a guard, which connects to the sockets. What begins with `prefix` is the backup's. Returns QEMU's process, too.
    ///
    /// # Errors
    /// As [`Qmp::connect`](super::monitor::qmp::Qmp::connect) and [`Agent::connect`](super::monitor::agent::Agent::connect); `Io`.
    pub fn start(
        program: &Path,
        qmp: &Path,
        agent: Option<&Path>,
        prefix: &str,
    ) -> Result<(Self, Option<u32>)> {
        let mut guard = Self::spawn(program)?;
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .or_io("cannot tell the socket's path")
                .at_path(path)
        };
        let opened = guard.ask(
            &Ask::Open {
                qmp: absolute(qmp)?,
                agent: agent.map(absolute).transpose()?,
                prefix: prefix.to_owned(),
            },
            None,
        )?;
        let process = match opened {
            Answer::Done(process) => process.as_u64().and_then(|pid| u32::try_from(pid).ok()),
            _ => return Err(nonsense()),
        };
        Ok((guard, process))
    }

    /// Starts a guard of a domain of libvirt. The backup job whose socket is below `directory` is the backup's, as is the directory.
    ///
    /// # Errors
    /// As [`Virsh::new`](super::virsh::Virsh::new); `Busy`, `Io`.
    pub fn start_domain(program: &Path, uri: &str, domain: &str, directory: &Path) -> Result<Self> {
        let mut guard = Self::spawn(program)?;
        guard.ask(
            &Ask::OpenDomain {
                uri: uri.to_owned(),
                domain: domain.to_owned(),
                directory: directory.to_owned(),
            },
            None,
        )?;
        Ok(guard)
    }

    fn spawn(program: &Path) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().or_io("cannot make a socket")?;
        ours.set_read_timeout(Some(ANSWER_TIMEOUT))
            .or_io("cannot limit a wait")?;
        let child = Command::new(program)
            .arg(server::ARGUMENT)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .or_io("cannot start the guard of the guest")
            .at_path(program)?;
        Ok(Self {
            socket: Some(BufReader::new(ours)),
            child,
        })
    }

    fn ask(&mut self, ask: &Ask, descriptor: Option<BorrowedFd<'_>>) -> Result<Answer> {
        let mut line = serde_json::to_vec(ask)
            .map_err(|e| Error::invalid("the request cannot be encoded").caused_by(e))?;
        line.push(b'\n');
        let gone = || Error::new(ErrorKind::Disconnected, "the guard of the guest has ended");
        let socket = self.socket.as_mut().ok_or_else(gone)?;
        let answer = exchange(socket, &line, descriptor);
        if answer.is_err() {
            self.socket = None;
        }
        match answer.map_err(|e| gone().caused_by(e))? {
            Answer::Failed(problem) => Err(Error::from(problem)),
            answer => Ok(answer),
        }
    }

    /// Freezes the guest's filesystems; returns how many.
    ///
    /// # Errors
    /// As [`Agent::freeze`](super::monitor::agent::Agent::freeze). The guest is thawed again then.
    pub fn freeze(&mut self) -> Result<u64> {
        match self.ask(&Ask::Freeze, None)? {
            Answer::Done(count) => Ok(count.as_u64().unwrap_or_default()),
            _ => Err(nonsense()),
        }
    }

    /// Stops the guest's processors, if they run.
    ///
    /// # Errors
    /// Those of QEMU.
    pub fn stop(&mut self) -> Result<()> {
        self.ask(&Ask::Stop, None).map(drop)
    }

    /// Lets the guest go on; returns for how long it was held, and why its filesystems could not be thawed yet.
    ///
    /// # Errors
    /// `TimedOut` when the guest had to be let go on before; those of continuing its processors.
    pub fn resume(&mut self) -> Result<(Held, Option<Error>)> {
        match self.ask(&Ask::Resume, None)? {
            Answer::Resumed { held, left } => Ok((held, left.map(Error::from))),
            _ => Err(nonsense()),
        }
    }
}

/// What people should know of a guest that could not be thawed.
pub(super) fn not_thawed(e: &Error) -> String {
    format!(
        "the guest's filesystems could not be thawed yet, which goes on being tried: {}",
        e.report()
    )
}

/// Sends a request, and receives the answer.
fn exchange(
    socket: &mut BufReader<UnixStream>,
    line: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<Answer> {
    match descriptor {
        Some(descriptor) => pass::send(socket.get_ref(), line, &[descriptor])?,
        None => socket
            .get_mut()
            .write_all(line)
            .or_io("cannot ask the guard of the guest")?,
    }
    let mut answer = Vec::new();
    socket
        .read_until(b'\n', &mut answer)
        .or_io("the guard of the guest does not answer")?;
    serde_json::from_slice(&answer).map_err(|e| nonsense().caused_by(e))
}

fn nonsense() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the guard of the guest answers something else",
    )
}

impl Monitor for Guard {
    fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        let ask = Ask::Execute {
            command: command.to_owned(),
            arguments,
            passes: descriptor.is_some(),
        };
        match self.ask(&ask, descriptor)? {
            Answer::Done(value) => Ok(value),
            _ => Err(nonsense()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The closed socket tells the guard to end.
        self.socket = None;
        let begun = Instant::now();
        while begun.elapsed() < END_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::warn!(
            pid = self.child.id(),
            "the guard of the guest has not ended yet"
        );
    }
}
