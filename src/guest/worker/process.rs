//! The daemon's side of a reader's process: starts it, asks it questions, serves its block requests, ends it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Limits;
use super::message::Message;
use super::server::{ARGUMENT, HELLO_BYTES, Hello, Ready};
use super::slot::{DATA_BYTES, Slot};
use super::wire::{Answer, Call, decode, encode};
use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics::reader::{self, Death, Running};
use crate::sys::confine::Confinement;
use crate::sys::refuse;
use crate::sys::shared_memory::SharedMemory;
use crate::sys::{host, pass};
use crate::types::sync::{Condvar, Mutex};
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};

/// Questions that one reader answers at the same time.
const SLOTS: usize = 2;
/// LIMIT: time for starting a process.
const START_TIME: Duration = Duration::from_secs(20);
/// LIMIT: for a process that gets no processor time, the factor by which the time limit of a question is
/// extended.
const STARVED: u32 = 6;
/// LIMIT: number of checks, 2 ms apart, for the exit of a process that is about to end.
const EXIT_TRIES: u32 = 100;
/// LIMIT: bytes of a process's last output.
const WORDS_BYTES: usize = 2048;

/// The resource limits of one question.
#[derive(Debug, Clone, Copy)]
struct Fuel {
    time: Duration,
    read_bytes: u64,
}

/// A reader's running process.
pub(super) struct Process {
    /// `None` when a test plays it, and once it has ended.
    child: Mutex<Option<Started>>,
    id: u32,
    confinement: Confinement,
    /// Held open while the process is needed.
    _control: Option<UnixStream>,
    free: Mutex<Vec<Slot>>,
    freed: Condvar,
    devices: Vec<Arc<dyn ReadAt>>,
    limits: Limits,
    end: OnceLock<End>,
}

/// A process that was started.
struct Started {
    child: Child,
    _running: Running,
}

/// The reason why a process has to end.
struct Cause {
    death: Death,
    what: String,
}

impl Cause {
    fn nonsense(what: impl Into<String>) -> Self {
        Self {
            death: Death::Nonsense,
            what: what.into(),
        }
    }

    fn greedy(what: String) -> Self {
        Self {
            death: Death::Greedy,
            what,
        }
    }

    fn late(what: String) -> Self {
        Self {
            death: Death::Late,
            what,
        }
    }

    /// It ended by itself; [`Process::ended`] sees how.
    fn gone(what: impl Into<String>) -> Self {
        Self {
            death: Death::Exit,
            what: what.into(),
        }
    }
}

/// Why and when a process ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) reason: String,
    pub(super) at: Instant,
}

/// A slot that is given back when this is dropped.
struct Taken<'a> {
    process: &'a Process,
    slot: Option<Slot>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.process.free.lock().push(slot);
            self.process.freed.notify_one();
        }
    }
}

impl Process {
    /// Starts `program` as a reader over `devices`.
    ///
    /// # Errors
    /// `Io` when it cannot be started; `Unsupported` when it cannot be confined.
    pub(super) fn start(
        program: &Path,
        limits: Limits,
        devices: Vec<Arc<dyn ReadAt>>,
    ) -> Result<Self> {
        let memory = Arc::new(SharedMemory::create(
            "restorefs-reader",
            SLOTS * DATA_BYTES,
        )?);
        let (control, theirs) = UnixStream::pair().or_io("cannot make a socket")?;
        let (mut ours, mut given) = (Vec::new(), Vec::new());
        for index in 0..SLOTS {
            let (here, there) = UnixStream::pair().or_io("cannot make a socket")?;
            ours.push(Slot::new(here, Arc::clone(&memory), index));
            given.push(there);
        }
        // Calls that a test makes fail in this process also fail in its readers.
        let refused = std::env::var_os(refuse::VARIABLE).map(|list| (refuse::VARIABLE, list));
        let child = Command::new(program)
            .arg(ARGUMENT)
            .env_clear()
            .envs(refused)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .or_io("cannot start a reader's process")
            .at_path(program)?;
        let mut process = Self {
            id: child.id(),
            confinement: Confinement::default(),
            child: Mutex::new(Some(Started {
                child,
                _running: Running::start(),
            })),
            free: Mutex::new(ours),
            freed: Condvar::new(),
            devices,
            limits,
            end: OnceLock::new(),
            _control: Some(control.try_clone().or_io("cannot copy a socket")?),
        };
        let hello = encode(&Hello {
            slots: u64_from_usize(SLOTS),
            memory_bytes: limits.memory_bytes,
            cpu_seconds: limits.cpu_seconds,
        })?;
        let mut descriptors = vec![memory.file()];
        descriptors.extend(given.iter().map(AsFd::as_fd));
        control
            .set_read_timeout(Some(START_TIME))
            .or_io("cannot set a time limit")?;
        let ready = pass::send(&control, &hello, &descriptors).and_then(|()| {
            let mut answer = [0; HELLO_BYTES];
            let (length, _) = pass::receive(&control, &mut answer)?;
            decode::<Ready>(answer.get(..length).unwrap_or_default())
        });
        // Drops this side's copies of the process's ends, so that its death is noticed and nothing else can
        // answer.
        drop(given);
        match ready {
            Ok(ready) => {
                let confinement = Confinement {
                    namespaces: ready.namespaces,
                    landlock_abi: ready.landlock_abi,
                    seccomp: ready.seccomp,
                };
                let lacks = confinement.lacks();
                if !lacks.is_empty() {
                    return Err(Error::unsupported(format!(
                        "a reader's process could not be confined: this kernel has no {}, or it is switched off",
                        lacks.join(" and no ")
                    ))
                    .advise("switch it on (lsm=landlock,... for landlock); with --guest-isolation thread readers run unconfined"));
                }
                tracing::debug!(pid = process.id, ?ready, "a reader's process is confined");
                process.confinement = confinement;
                Ok(process)
            }
            Err(error) => {
                let cause = Cause {
                    death: Death::Start,
                    what: "it did not start".to_owned(),
                };
                Err(process.ended(&cause).caused_by(error))
            }
        }
    }

    /// The rights that it has given up.
    pub(super) const fn confinement(&self) -> Confinement {
        self.confinement
    }

    /// A reader over `devices` that a test plays at the other side of the slot.
    pub(super) fn played(slot: Slot, limits: Limits, devices: Vec<Arc<dyn ReadAt>>) -> Self {
        Self {
            id: std::process::id(),
            confinement: Confinement::default(),
            child: Mutex::new(None),
            free: Mutex::new(vec![slot]),
            freed: Condvar::new(),
            devices,
            limits,
            end: OnceLock::new(),
            _control: None,
        }
    }

    /// Why and when it ended; `None` while it runs.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Ends the process, once, and returns the error with the cause.
    fn ended(&self, cause: &Cause) -> Error {
        let end = self.end.get_or_init(|| {
            let mut started = self.child.lock().take();
            let mut child = started.as_mut().map(|started| &mut started.child);
            let by_itself = child.as_mut().and_then(|child| exited(child));
            if let Some(child) = child.as_mut() {
                // An error means that the process is gone already.
                let _ = child.kill();
                let _ = child.wait();
            }
            let mut output = vec![0; WORDS_BYTES];
            let length = match child.as_mut().and_then(|child| child.stderr.as_mut()) {
                Some(stderr) => stderr.read(&mut output).unwrap_or(0),
                None => 0,
            };
            let output = String::from_utf8_lossy(output.get(..length).unwrap_or_default());
            let output: Vec<&str> = output
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            let signal = by_itself.and_then(|status| status.signal());
            let how = signal.map_or(String::new(), |signal| match signal {
                SIGSYS => " of a forbidden system call".to_owned(),
                _ => format!(" of signal {signal}"),
            });
            reader::note_death(match (cause.death, signal) {
                (Death::Exit, Some(SIGSYS)) => Death::Forbidden,
                (Death::Exit, Some(_)) => Death::Killed,
                (death, _) => death,
            });
            let cause = &cause.what;
            let report = if output.is_empty() {
                String::new()
            } else {
                format!(": {}", output.join("; "))
            };
            let reason = format!("the reader's process was ended: {cause}{how}{report}");
            tracing::error!(pid = self.id, reason, "a guest's reader is gone");
            End {
                reason,
                at: Instant::now(),
            }
        });
        Error::new(ErrorKind::Io, end.reason.clone())
    }

    fn take(&self) -> Result<Taken<'_>> {
        let mut free = self.free.lock();
        loop {
            if let Some(end) = self.end() {
                // Wakes the other waiting callers.
                self.freed.notify_all();
                return Err(Error::new(ErrorKind::Io, end.reason.clone()));
            }
            if let Some(slot) = free.pop() {
                return Ok(Taken {
                    process: self,
                    slot: Some(slot),
                });
            }
            free = self.freed.wait(free);
        }
    }

    fn fuel(&self, call: &Call) -> Fuel {
        match call {
            Call::Open { .. } => Fuel {
                time: self.limits.open_time,
                read_bytes: self.limits.open_read_bytes,
            },
            _ => Fuel {
                time: self.limits.answer_time,
                read_bytes: self.limits.read_bytes,
            },
        }
    }

    /// Asks a question. The bytes of a file are returned in `into`, without an answer.
    ///
    /// # Errors
    /// The reader's error; errors of reading the volume; `Io` when the process is gone.
    pub(super) fn ask(&self, call: &Call, into: Option<&mut [u8]>) -> Result<Option<Answer>> {
        let fuel = self.fuel(call);
        let question = encode(call)?;
        let taken = self.take()?;
        let Some(slot) = &taken.slot else {
            return Err(Error::invalid("no slot"));
        };
        let mut failed = None;
        let answer = self.converse(slot, &question, fuel, into, &mut failed);
        match answer {
            Ok(Some(Answer::Failed { kind, what })) => Err(match failed {
                Some(error) => error,
                // A reader must not cause the daemon's own error kinds.
                None if kind == ErrorKind::Disconnected => Error::new(ErrorKind::Corrupt, what),
                None => Error::new(kind, what),
            }),
            Ok(answer) => Ok(answer),
            Err(cause) => Err(self.ended(&cause)),
        }
    }

    /// Sends one question and handles everything until its answer. An error is the reason why the process
    /// must end.
    fn converse(
        &self,
        slot: &Slot,
        question: &[u8],
        fuel: Fuel,
        into: Option<&mut [u8]>,
        failed: &mut Option<Error>,
    ) -> Result<Option<Answer>, Cause> {
        let report = |error: Error| Cause::nonsense(error.report());
        // A socket that takes nothing has lost its other end.
        let gone = |error: Error| Cause::gone(error.report());
        slot.set_patience(fuel.time).map_err(gone)?;
        let length = slot.put(question).map_err(report)?;
        slot.send(Message::Call { length }).map_err(gone)?;
        let mut watch = Watch::new(self.id, fuel);
        loop {
            let message = watch.wait(slot)?;
            match message {
                Message::Block {
                    device,
                    offset,
                    length,
                } => {
                    watch.burn(length)?;
                    let served = self
                        .serve(slot, device, offset, length)
                        .map_err(|refused| match refused {
                            Refused::Impossible => {
                                Cause::nonsense("it requested bytes that do not exist")
                            }
                            Refused::Gone(error) => Cause::gone(error.report()),
                        })?;
                    if let Some(error) = served {
                        *failed = Some(error);
                    }
                }
                Message::Answer { length } => {
                    let bytes = slot.take(length).map_err(report)?;
                    return decode(&bytes).map(Some).map_err(report);
                }
                Message::Bytes { length } => {
                    return match into {
                        Some(buf) if u64_from_usize(buf.len()) == length => {
                            slot.take_into(buf).map(|()| None).map_err(report)
                        }
                        _ => Err(Cause::nonsense(
                            "it answered with other bytes than were asked for",
                        )),
                    };
                }
                Message::Call { .. } | Message::Data | Message::Zero | Message::Failed => {
                    return Err(Cause::nonsense("it broke the protocol"));
                }
            }
        }
    }

    /// Copies a block into the slot; `Some` when the volume could not be read.
    fn serve(
        &self,
        slot: &Slot,
        device: u32,
        offset: u64,
        length: u64,
    ) -> Result<Option<Error>, Refused> {
        let device = self
            .devices
            .get(usize_from_u32(device))
            .ok_or(Refused::Impossible)?;
        let is_sound = length > 0 && length <= u64_from_usize(DATA_BYTES);
        if !is_sound || check_range(device.size_bytes(), offset, length).is_err() {
            return Err(Refused::Impossible);
        }
        let hole = device
            .extent_at(offset, length)
            .is_ok_and(|extent| extent.kind.reads_zero() && extent.length_bytes >= length);
        if hole {
            return slot
                .send(Message::Zero)
                .map(|()| None)
                .map_err(Refused::Gone);
        }
        let mut bytes = vec![0; usize_from_u64(length)];
        match device.read_at(offset, &mut bytes) {
            Ok(()) => {
                slot.put(&bytes).map_err(Refused::Gone)?;
                slot.send(Message::Data)
                    .map(|()| None)
                    .map_err(Refused::Gone)
            }
            Err(error) => {
                slot.send(Message::Failed).map_err(Refused::Gone)?;
                Ok(Some(error))
            }
        }
    }
}

/// Why a block was not served.
enum Refused {
    Impossible,
    Gone(Error),
}

/// `SIGSYS` of signal(7): the signal with which seccomp kills a process.
const SIGSYS: i32 = 31;

/// Exit status of a process that ended by itself. A process that has just closed its sockets gets a moment to
/// exit.
fn exited(child: &mut Child) -> Option<std::process::ExitStatus> {
    for _ in 0..EXIT_TRIES {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
    None
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(Started { child, .. }) = self.child.get_mut() {
            // The process holds no state that could be lost.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Measures the cost of a question.
struct Watch {
    id: u32,
    fuel: Fuel,
    /// Time spent waiting for the process, without the daemon's own reads.
    waited: Duration,
    cpu_when_late: Option<Duration>,
    read_bytes: u64,
}

impl Watch {
    fn new(id: u32, fuel: Fuel) -> Self {
        Self {
            id,
            fuel,
            waited: Duration::ZERO,
            cpu_when_late: None,
            read_bytes: 0,
        }
    }

    fn burn(&mut self, bytes: u64) -> Result<(), Cause> {
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        if self.read_bytes > self.fuel.read_bytes {
            return Err(Cause::greedy(format!(
                "it read more than {} bytes for one answer",
                self.fuel.read_bytes
            )));
        }
        Ok(())
    }

    fn wait(&mut self, slot: &Slot) -> Result<Message, Cause> {
        loop {
            let began = Instant::now();
            let message = slot.receive();
            self.waited += began.elapsed();
            let is_late = self.waited > self.fuel.time && self.is_at_work();
            match message {
                Err(_) => return Err(Cause::gone("it died")),
                Ok(_) if is_late => {
                    return Err(Cause::late(format!(
                        "it took longer than {:?} for one answer",
                        self.fuel.time
                    )));
                }
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
            }
        }
    }

    /// Whether the process had processor time while the daemon waited: a loaded machine may have given it
    /// none. At the first delay this records its processor time; from then on it may use the same amount
    /// again.
    fn is_at_work(&mut self) -> bool {
        if self.waited > self.fuel.time * STARVED {
            return true;
        }
        let Some(now) = host::cpu_time(self.id) else {
            return true;
        };
        let late_since = *self.cpu_when_late.get_or_insert(now);
        now.saturating_sub(late_since) >= self.fuel.time
    }
}

#[cfg(test)]
mod tests {
    use super::{Process, SLOTS, Slot, Started};
    use crate::block::{MemoryDisk, ReadAt};
    use crate::error::ErrorKind;
    use crate::guest::fs::GuestIno;
    use crate::guest::worker::Limits;
    use crate::guest::worker::message::Message;
    use crate::guest::worker::slot::DATA_BYTES;
    use crate::guest::worker::wire::Call;
    use crate::metrics::Sheet;
    use crate::metrics::reader::Running;
    use crate::sys::confine::Confinement;
    use crate::sys::shared_memory::SharedMemory;
    use crate::types::sync::{Condvar, Mutex};
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    /// A process that does nothing, and the other side of its slot, which the test plays.
    fn process() -> (Process, Slot) {
        let child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let memory = Arc::new(SharedMemory::create("test", SLOTS * DATA_BYTES).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (control, _) = UnixStream::pair().unwrap();
        let device: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(&[9; 4096]));
        let process = Process {
            id: child.id(),
            confinement: Confinement::default(),
            child: Mutex::new(Some(Started {
                child,
                _running: Running::start(),
            })),
            _control: Some(control),
            free: Mutex::new(vec![Slot::new(ours, Arc::clone(&memory), 0)]),
            freed: Condvar::new(),
            devices: vec![device],
            limits: Limits {
                answer_time: Duration::from_millis(50),
                ..Limits::default()
            },
            end: OnceLock::new(),
        };
        (process, Slot::new(theirs, memory, 0))
    }

    /// Deaths of this process's readers that the metrics have for a reason. Other tests may add some.
    fn deaths(reason: &str) -> f64 {
        let name = format!("restorefs_reader_processes_died_total{{reason=\"{reason}\"}} ");
        let text = Sheet::default().into_text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    }

    fn ended_by(messages: &[Message], says: &str, reason: &str) {
        let before = deaths(reason);
        let (process, other) = process();
        for message in messages {
            other.send(*message).unwrap();
        }
        let error = process.ask(&Call::Record(GuestIno(1)), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.report().contains(says), "{error:?}");
        assert!(process.end().is_some());
        assert!(deaths(reason) > before, "{reason}");
        assert!(process.ask(&Call::Record(GuestIno(1)), None).is_err());
    }

    #[test]
    fn whoever_breaks_the_protocol_is_ended() {
        let block = |device, offset, length| Message::Block {
            device,
            offset,
            length,
        };
        let nonsense = |message, says| ended_by(&[message], says, "nonsense");
        nonsense(Message::Data, "broke the protocol");
        nonsense(Message::Call { length: 0 }, "broke the protocol");
        nonsense(block(1, 0, 512), "do not exist");
        nonsense(block(0, 4000, 512), "do not exist");
        nonsense(block(0, u64::MAX, 512), "do not exist");
        nonsense(block(0, 0, 0), "do not exist");
        nonsense(Message::Answer { length: u64::MAX }, "too long");
        nonsense(Message::Answer { length: 0 }, "nonsense");
        nonsense(Message::Bytes { length: 5 }, "other bytes");
        ended_by(&[block(0, 0, u64::MAX)], "it read more", "greedy");
        ended_by(&[], "it took longer", "late");
    }

    #[test]
    fn who_is_killed_is_counted_as_killed() {
        let before = deaths("killed");
        let (process, other) = process();
        drop(other);
        process.child.lock().as_mut().unwrap().child.kill().unwrap();
        let error = process.ask(&Call::Record(GuestIno(1)), None).unwrap_err();
        assert!(error.report().contains("of signal 9"), "{error:?}");
        assert!(deaths("killed") > before);
    }

    #[test]
    fn blocks_are_served_while_the_answer_is_awaited() {
        let (process, other) = process();
        let block = Message::Block {
            device: 0,
            offset: 0,
            length: 512,
        };
        other.send(block).unwrap();
        other.send(Message::Bytes { length: 2 }).unwrap();
        let mut buf = [0; 2];
        assert!(
            process
                .ask(&Call::Record(GuestIno(1)), Some(&mut buf))
                .unwrap()
                .is_none()
        );
        assert_eq!(buf, [9, 9]);
        assert!(matches!(
            other.receive().unwrap(),
            Some(Message::Call { .. })
        ));
        assert_eq!(other.receive().unwrap(), Some(Message::Data));
    }
}
