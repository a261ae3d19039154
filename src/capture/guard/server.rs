//! The guard's process: it owns the sockets of QEMU and of the guest agent while a backup is made, or asks libvirt, so that the guest goes
//! on whatever happens to the backup.
//!
//! # Invariants
//! - When the backup's end of the socket closes, the guard thaws and continues the guest, and removes what is the backup's in QEMU.
//! - After [`HELD_MAX`] it thaws and continues the guest although the backup lives. The instant is then no instant any more: `Resume`
//!   fails.
//! - It continues only a guest that it stopped.
//!
//! # Concurrency
//! The main thread executes requests; a second one watches the time. Lock order: `grip`, then `holds`; `holds` is never kept while `grip`
//! is taken. A command to QEMU or the agent has a time limit of its own.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::domain::Domain;
use super::message::{Answer, Ask, HELD_MAX, Held};
use crate::capture::monitor::Monitor;
use crate::capture::monitor::agent::Agent;
use crate::capture::monitor::qmp::Qmp;
use crate::capture::monitor::sweep::sweep;
use crate::error::{Error, ErrorKind, Problem, Result, ResultExt};
use crate::sys::{child, pass};
use crate::types::sync::{Condvar, Mutex};

/// The only argument of the guard's process.
pub const ARGUMENT: &str = "capture-guard";

/// LIMIT: time for which the guard waits for the agent's answer to a freeze. The agent may then still freeze, and is thawed.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(7);

/// LIMIT: time for which the guard tries to thaw.
const THAW_TIMEOUT: Duration = Duration::from_secs(15);

/// LIMIT: time for which the guard tries to thaw at its end: an agent goes on to freeze although nobody waits for it any more.
const LATE_THAW_TIMEOUT: Duration = Duration::from_secs(600);

/// LIMIT: bytes of a request.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What of the guest is held, and since when.
#[derive(Default)]
struct Holds {
    stopped: Option<Instant>,
    frozen: Option<Instant>,
    /// Set when the guest was let go before the backup asked for it.
    is_lost: bool,
    /// Set at the end of the process.
    is_over: bool,
}

impl Holds {
    /// Since when the guest is held.
    fn since(&self) -> Option<Instant> {
        [self.stopped, self.frozen].into_iter().flatten().min()
    }
}

/// The sockets.
struct Sockets {
    qmp: Qmp,
    agent: Option<Agent>,
    prefix: String,
    /// Whether this backup started QEMU's NBD server.
    has_server: bool,
}

/// What the guest is held by.
enum Grip {
    Sockets(Sockets),
    /// Of a QEMU whose monitor is given back.
    Agent(Agent),
    Domain(Domain),
}

impl Grip {
    /// The sockets of a plain QEMU.
    fn sockets(&mut self) -> Result<&mut Sockets> {
        match self {
            Self::Sockets(sockets) => Ok(sockets),
            Self::Agent(_) | Self::Domain(_) => {
                Err(Error::invalid("the guard has no monitor of the machine"))
            }
        }
    }

    /// Freezes the guest's filesystems; `about_to` is called before the agent is asked.
    fn freeze(&mut self, about_to: impl FnOnce()) -> Result<Value> {
        match self {
            Self::Sockets(sockets) => {
                let agent = sockets.agent.as_mut();
                let agent = agent.ok_or_else(|| Error::invalid("no guest agent was named"))?;
                about_to();
                agent.freeze(FREEZE_TIMEOUT).map(Value::from)
            }
            Self::Agent(_) => Err(Error::invalid("the backup has ended")),
            Self::Domain(domain) => {
                about_to();
                domain.freeze(FREEZE_TIMEOUT).map(|()| Value::Null)
            }
        }
    }

    fn thaw(&mut self) -> Result<()> {
        match self {
            Self::Sockets(sockets) => match &mut sockets.agent {
                Some(agent) => agent.thaw(THAW_TIMEOUT),
                None => Ok(()),
            },
            Self::Agent(agent) => agent.thaw(THAW_TIMEOUT),
            Self::Domain(domain) => domain.thaw(THAW_TIMEOUT),
        }
    }

    /// Whether a refusal to thaw says that nothing is frozen: the agent answers, or there is none.
    fn is_untouched(&self, refusal: &Error) -> bool {
        match (self, refusal.kind()) {
            (_, ErrorKind::NotFound | ErrorKind::Unsupported) => true,
            (Self::Sockets(_) | Self::Agent(_), kind) => kind == ErrorKind::InvalidInput,
            (Self::Domain(_), _) => false,
        }
    }

    /// Whether a failure says that the machine has ended.
    fn is_gone(&self, failure: &Error) -> bool {
        !matches!(self, Self::Domain(_)) && failure.kind() == ErrorKind::Disconnected
    }

    /// Removes what is the backup's in QEMU or libvirt.
    fn end(&mut self) -> Result<()> {
        let sockets = match self {
            Self::Sockets(sockets) => sockets,
            Self::Agent(_) => return Ok(()),
            Self::Domain(domain) => return domain.end(),
        };
        let swept = sweep(&mut sockets.qmp, &sockets.prefix);
        let stopped = match sockets.has_server {
            true => sockets.qmp.execute("nbd-server-stop", json!({})).map(drop),
            false => Ok(()),
        };
        stopped.and(swept.map(drop))
    }

    /// Gives the monitor back: the next backup may need it while this process still thaws.
    fn release_monitor(self) -> Self {
        match self {
            Self::Sockets(Sockets {
                agent: Some(agent), ..
            }) => Self::Agent(agent),
            other => other,
        }
    }
}

struct State {
    holds: Mutex<Holds>,
    changed: Condvar,
    grip: Mutex<Option<Grip>>,
}

/// Serves the backup that has started this process, on standard input.
///
/// # Errors
/// `Io`, when the guest could not be let go on.
pub fn run() -> Result<()> {
    // The terminal's signals are for the backup, which ends in order; this process ends after it.
    child::ignore(&[Signal::INT, Signal::TERM, Signal::HUP, Signal::PIPE])?;
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .or_io("there is no standard input")?;
    let mut socket = UnixStream::from(socket);
    let state = Arc::new(State {
        holds: Mutex::default(),
        changed: Condvar::new(),
        grip: Mutex::new(None),
    });
    let watching = Arc::clone(&state);
    let watch = std::thread::Builder::new()
        .name("guard-watch".to_owned())
        .spawn(move || watching.watch())
        .or_io("cannot start a thread")?;
    let served = state.serve(&mut socket);
    let ended = state.end();
    state.holds.lock().is_over = true;
    state.changed.notify_all();
    // A panic of the thread was printed where it happened.
    let _ = watch.join();
    served.and(ended)
}

impl State {
    /// Executes requests until the backup's end closes.
    fn serve(&self, socket: &mut UnixStream) -> Result<()> {
        let mut unread: Vec<u8> = Vec::new();
        let mut passed: Vec<OwnedFd> = Vec::new();
        loop {
            if let Some(at) = unread.iter().position(|byte| *byte == b'\n') {
                let rest = unread.split_off(at + 1);
                let line = std::mem::replace(&mut unread, rest);
                let answer = match serde_json::from_slice::<Ask>(&line) {
                    Ok(ask) => self.answer(ask, &mut passed),
                    Err(e) => {
                        Err(Error::invalid("a request that the guard does not know").caused_by(e))
                    }
                };
                let answer = answer.unwrap_or_else(|e| Answer::Failed(Problem::from(&e)));
                let mut line = serde_json::to_vec(&answer)
                    .map_err(|e| Error::invalid("the answer cannot be encoded").caused_by(e))?;
                line.push(b'\n');
                if socket.write_all(&line).is_err() {
                    return Ok(());
                }
                continue;
            }
            if unread.len() > REQUEST_BYTES_MAX {
                return Err(Error::invalid("a request without an end"));
            }
            let mut buf = [0; 64 << 10];
            let Ok((length, descriptors)) = pass::receive(socket, &mut buf) else {
                return Ok(());
            };
            if length == 0 {
                return Ok(());
            }
            passed.extend(descriptors);
            unread.extend_from_slice(buf.get(..length).unwrap_or_default());
        }
    }

    fn answer(&self, ask: Ask, passed: &mut Vec<OwnedFd>) -> Result<Answer> {
        match ask {
            Ask::Open { qmp, agent, prefix } => {
                let qmp = Qmp::connect(&qmp)?;
                let agent = agent.map(|path| Agent::connect(&path)).transpose()?;
                let process = qmp.process();
                *self.grip.lock() = Some(Grip::Sockets(Sockets {
                    qmp,
                    agent,
                    prefix,
                    has_server: false,
                }));
                Ok(Answer::Done(process.into()))
            }
            Ask::OpenDomain {
                uri,
                domain,
                directory,
            } => {
                let domain = Domain::open(&uri, domain, &directory)?;
                *self.grip.lock() = Some(Grip::Domain(domain));
                Ok(Answer::Done(Value::Null))
            }
            Ask::Execute {
                command,
                arguments,
                passes,
            } => {
                let descriptor = match passes {
                    true if passed.is_empty() => {
                        return Err(Error::invalid("no descriptor came with the request"));
                    }
                    true => Some(passed.remove(0)),
                    false => None,
                };
                let mut grip = self.grip.lock();
                let sockets = opened(&mut grip)?.sockets()?;
                let done = sockets.qmp.execute_with(
                    &command,
                    arguments,
                    descriptor.as_ref().map(AsFd::as_fd),
                )?;
                match command.as_str() {
                    "nbd-server-start" => sockets.has_server = true,
                    "nbd-server-stop" => sockets.has_server = false,
                    _ => {}
                }
                Ok(Answer::Done(done))
            }
            Ask::Freeze => self.freeze(),
            Ask::Stop => self.stop(),
            Ask::Resume => self.resume(),
        }
    }

    /// Notes that the guest is about to be held; the time counts from now.
    fn hold(&self, note: impl FnOnce(&mut Holds)) {
        let mut holds = self.holds.lock();
        if holds.since().is_none() {
            holds.is_lost = false;
        }
        note(&mut holds);
        drop(holds);
        self.changed.notify_all();
    }

    fn freeze(&self) -> Result<Answer> {
        let mut grip = self.grip.lock();
        let about_to = || self.hold(|holds| holds.frozen = Some(Instant::now()));
        match opened(&mut grip)?.freeze(about_to) {
            Ok(count) => Ok(Answer::Done(count)),
            Err(e) => {
                drop(grip);
                // The agent may have frozen some filesystems, or will yet.
                match self.thaw() {
                    Ok(()) => Err(e),
                    Err(left) => Err(Error::new(
                        e.kind(),
                        format!(
                            "{}; and it could not be thawed: {}",
                            e.report(),
                            left.report()
                        ),
                    )),
                }
            }
        }
    }

    fn stop(&self) -> Result<Answer> {
        let mut grip = self.grip.lock();
        let qmp = &mut opened(&mut grip)?.sockets()?.qmp;
        let status = qmp.execute("query-status", json!({}))?;
        if status["running"] == true {
            self.hold(|holds| holds.stopped = Some(Instant::now()));
            qmp.execute("stop", json!({}))?;
        }
        Ok(Answer::Done(status))
    }

    /// Lets the guest go on: its processors, and its filesystems.
    fn release(&self) -> (Result<Option<u64>>, Result<Option<u64>>) {
        let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stopped = self.holds.lock().stopped;
        let continued = match stopped {
            Some(since) => self.cont().map(|()| Some(ms(since))),
            None => Ok(None),
        };
        let frozen = self.holds.lock().frozen;
        let thawed = match frozen {
            Some(since) => self.thaw().map(|()| Some(ms(since))),
            None => Ok(None),
        };
        (continued, thawed)
    }

    fn cont(&self) -> Result<()> {
        let mut grip = self.grip.lock();
        let qmp = &mut opened(&mut grip)?.sockets()?.qmp;
        qmp.execute("cont", json!({}))?;
        self.holds.lock().stopped = None;
        Ok(())
    }

    fn thaw(&self) -> Result<()> {
        let mut grip = self.grip.lock();
        let grip = opened(&mut grip)?;
        match grip.thaw() {
            Err(e) if !grip.is_untouched(&e) => return Err(e),
            _ => {}
        }
        self.holds.lock().frozen = None;
        Ok(())
    }

    fn resume(&self) -> Result<Answer> {
        let (continued, thawed) = self.release();
        let stopped_ms = continued?;
        if self.holds.lock().is_lost {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "the guest was held for {} seconds, and was let go on: its disks are not of one instant",
                    HELD_MAX.as_secs()
                ),
            ));
        }
        let (frozen_ms, left) = match thawed {
            Ok(frozen_ms) => (frozen_ms, None),
            Err(e) => (None, Some(Problem::from(&e))),
        };
        let held = Held {
            stopped_ms,
            frozen_ms,
        };
        Ok(Answer::Resumed { held, left })
    }

    /// Lets the guest go on when it is held for too long.
    fn watch(&self) {
        loop {
            let mut holds = self.holds.lock();
            if holds.is_over {
                return;
            }
            let Some(since) = holds.since() else {
                drop(self.changed.wait(holds));
                continue;
            };
            let left = HELD_MAX.saturating_sub(since.elapsed());
            if !left.is_zero() {
                let is_over = |holds: &mut Holds| !holds.is_over;
                drop(self.changed.wait_timeout_while(holds, left, is_over));
                continue;
            }
            holds.is_lost = true;
            drop(holds);
            let (continued, thawed) = self.release();
            if let Err(e) = continued.and(thawed) {
                tracing::error!(error = %e.report(), "the guest could not be let go on yet");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// Lets the guest go on, and removes what is the backup's.
    fn end(&self) -> Result<()> {
        if self.grip.lock().is_none() {
            return Ok(());
        }
        let begun = Instant::now();
        let (mut continued, mut thawed) = self.release();
        let ended = {
            let mut grip = self.grip.lock();
            let ended = opened(&mut grip)?.end();
            if continued.is_ok() {
                *grip = grip.take().map(Grip::release_monitor);
            }
            ended
        };
        loop {
            let failed = continued.and(thawed).err();
            let failed = failed.filter(|e| {
                let grip = self.grip.lock();
                !grip.as_ref().is_some_and(|grip| grip.is_gone(e))
            });
            let Some(e) = failed else { break };
            if begun.elapsed() >= LATE_THAW_TIMEOUT {
                return Err(e);
            }
            std::thread::sleep(Duration::from_secs(1));
            (continued, thawed) = self.release();
        }
        match ended {
            // QEMU has ended: then nothing is left.
            Err(e) if e.kind() == ErrorKind::Disconnected => Ok(()),
            ended => ended,
        }
    }
}

fn opened(grip: &mut Option<Grip>) -> Result<&mut Grip> {
    grip.as_mut()
        .ok_or_else(|| Error::invalid("the guard holds nothing yet"))
}
