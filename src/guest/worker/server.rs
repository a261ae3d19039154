//! The reader's process: receives its slots, gives up its rights, and answers questions until the daemon is
//! gone.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::device::{self, SlotDevice};
use super::line::Line;
use super::message::Message;
use super::slot::{DATA_BYTES, Slot};
use super::wire::{Answer, Call, OpenedFilesystem, RUNS_MAX, WireRuns, decode, encode, entries};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::guest::fs::{GuestFs, VolumeState};
use crate::guest::probe::open_fs;
use crate::guest::record::{Direct, Reader};
use crate::sys::confine::{self, Limits};
use crate::sys::pass;
use crate::sys::shared_memory::SharedMemory;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// First argument of the program that makes it a reader.
pub const ARGUMENT: &str = "guest-reader";
/// Stack size of each thread in bytes: valid data needs no deeper recursion.
const STACK_BYTES: usize = 4 << 20;
/// LIMIT: bytes of the first message, and of its answer.
pub(super) const HELLO_BYTES: usize = 64;

/// Opens the filesystem on a volume: [`open_fs`], or a test's function.
pub type Open = fn(&[Arc<dyn ReadAt>]) -> (VolumeState, Option<Box<dyn GuestFs>>);

/// The daemon's first message. The descriptors of the memory and of each slot's socket come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) slots: u64,
    pub(super) memory_bytes: u64,
    pub(super) cpu_seconds: u64,
}

/// The process's answer after it has confined itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) namespaces: bool,
    pub(super) landlock_abi: u32,
    pub(super) seccomp: bool,
}

/// Runs a reader; returns when the daemon is gone. Its socket is the standard input.
///
/// # Errors
/// `Disconnected` when standard input is not a daemon's socket; `Unsupported` when the process could not be
/// confined.
pub fn run() -> Result<()> {
    run_with(open_fs)
}

/// [`run`] with another function to open filesystems.
///
/// # Errors
/// As [`run`].
pub fn run_with(open: Open) -> Result<()> {
    confine::close_others()?;
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .or_io("there is no standard input")?;
    let control = UnixStream::from(control);
    let mut hello = [0; HELLO_BYTES];
    let (length, descriptors) = pass::receive(&control, &mut hello)
        .map_err(|e| e.advise("this command is started by the daemon, for its own use"))?;
    let hello: Hello = decode(hello.get(..length).unwrap_or_default())?;
    let slots = take_slots(&hello, descriptors)?;
    let mut confinement = confine::confine(Limits {
        memory_bytes: hello.memory_bytes,
        cpu_seconds: hello.cpu_seconds,
    })?;
    let fs = Arc::new(OnceLock::new());
    let mut threads = Vec::new();
    for slot in slots {
        let (go, wait) = channel();
        let fs = Arc::clone(&fs);
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || answer_all(slot, &wait, &fs, open))
            .or_io("cannot start a thread")?;
        threads.push((go, thread));
    }
    // The seal applies to all threads, so all must exist; they begin to work only afterwards.
    confinement.seccomp = confine::seal().is_ok();
    let ready = Ready {
        namespaces: confinement.namespaces,
        landlock_abi: confinement.landlock_abi,
        seccomp: confinement.seccomp,
    };
    pass::send(&control, &encode(&ready)?, &[])?;
    if !confinement.lacks().is_empty() {
        return Err(Error::unsupported("this process could not be confined"));
    }
    for (go, thread) in threads {
        // A thread that has ended already does not need it.
        let _ = go.send(());
        drop(go);
        std::mem::forget(thread);
    }
    // Blocks until the daemon is gone.
    let _ = pass::receive(&control, &mut [0; 1]);
    Ok(())
}

fn take_slots(
    hello: &Hello,
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<(UnixStream, Arc<SharedMemory>, usize)>> {
    let mut descriptors = descriptors.into_iter();
    let memory = descriptors
        .next()
        .ok_or_else(|| Error::invalid("no shared memory came along"))?;
    let length = usize_from_u64(hello.slots).saturating_mul(DATA_BYTES);
    let memory = Arc::new(SharedMemory::open(memory, length)?);
    let slots: Vec<_> = descriptors
        .enumerate()
        .map(|(index, socket)| (UnixStream::from(socket), Arc::clone(&memory), index))
        .collect();
    if u64_from_usize(slots.len()) == hello.slots {
        Ok(slots)
    } else {
        Err(Error::invalid(
            "the number of slots differs from the announced one",
        ))
    }
}

/// Answers the questions on a test's line, with a filesystem of its own, until the line ends.
pub fn answer_played(line: Line, open: Open) {
    answer_slot(line.0, &OnceLock::new(), open);
}

fn answer_all(
    (socket, memory, index): (UnixStream, Arc<SharedMemory>, usize),
    wait: &Receiver<()>,
    fs: &OnceLock<Direct>,
    open: Open,
) {
    let slot = Slot::new(socket, memory, index);
    if wait.recv().is_ok() {
        answer_slot(slot, fs, open);
    }
}

fn answer_slot(slot: Slot, fs: &OnceLock<Direct>, open: Open) {
    let slot = Rc::new(slot);
    device::enter(&slot);
    while let Ok(Some(Message::Call { length })) = slot.receive() {
        if answer_one(&slot, length, fs, open).is_err() {
            break;
        }
    }
    device::leave();
}

fn answer_one(slot: &Slot, length: u64, fs: &OnceLock<Direct>, open: Open) -> Result<()> {
    let question = slot.take(length)?;
    let call: Call = decode(&question)?;
    if let Call::Read {
        ino,
        offset,
        length,
    } = call
    {
        let mut bytes = vec![0; usize_from_u64(length).min(DATA_BYTES)];
        return match guarded(|| opened(fs)?.read(ino, offset, &mut bytes)) {
            Ok(()) => {
                let length = slot.put(&bytes)?;
                slot.send(Message::Bytes { length })
            }
            Err(error) => send(slot, &Answer::from(&error)),
        };
    }
    let answer = guarded(|| answer(call, fs, open));
    send(slot, &answer.unwrap_or_else(|error| Answer::from(&error)))
}

fn send(slot: &Slot, answer: &Answer) -> Result<()> {
    let bytes = encode(answer)?;
    let length = match slot.put(&bytes) {
        Ok(length) => length,
        Err(error) => slot.put(&encode(&Answer::from(&error))?)?,
    };
    slot.send(Message::Answer { length })
}

/// A panic in a reader counts as damage of its volume; the process continues.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without a word");
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("the reader gave up: {message}"),
        ))
    })
}

fn opened(fs: &OnceLock<Direct>) -> Result<&Direct> {
    fs.get().ok_or_else(|| Error::invalid("nothing was opened"))
}

fn answer(call: Call, fs: &OnceLock<Direct>, open: Open) -> Result<Answer> {
    Ok(match call {
        Call::Open { sizes } => {
            let device = |(number, size_bytes)| -> Arc<dyn ReadAt> {
                Arc::new(SlotDevice { number, size_bytes })
            };
            let devices: Vec<_> = (0..).zip(sizes).map(device).collect();
            let (state, found) = open(&devices);
            let description = found.as_ref().map(|found| OpenedFilesystem {
                root: found.root(),
                info: found.info().into(),
            });
            if let Some(found) = found
                && fs.set(Direct(found)).is_err()
            {
                return Err(Error::invalid("something is open already"));
            }
            Answer::OpenedFilesystem {
                state,
                fs: description,
            }
        }
        Call::Subvolume(which) => Answer::Ino(opened(fs)?.subvolume(&which)?),
        Call::List { dir, from } => {
            let listing = opened(fs)?.list(dir, usize_from_u64(from))?;
            Answer::Listing {
                entries: entries(&listing),
                more: listing.more,
            }
        }
        Call::ListMany(dirs) => {
            let listings = opened(fs)?.list_many(&dirs)?;
            Answer::Listings(
                listings
                    .iter()
                    .map(|(dir, listing)| (*dir, entries(listing)))
                    .collect(),
            )
        }
        Call::Lookup { dir, name } => Answer::Record((&opened(fs)?.lookup(dir, &name)?).into()),
        Call::Record(ino) => Answer::Record((&opened(fs)?.record(ino)?).into()),
        Call::Target(ino) => Answer::Target(opened(fs)?.target(ino)?.to_vec()),
        Call::Xattrs(ino) => Answer::Xattrs(opened(fs)?.xattrs(ino)?.to_vec()),
        Call::Runs { ino, from } => {
            let runs = opened(fs)?.runs(ino)?;
            let (map, more) = WireRuns::part(&runs, usize_from_u64(from));
            debug_assert!(map.count() <= RUNS_MAX, "a part is a part");
            Answer::Runs { map, more }
        }
        Call::Read { .. } => return Err(Error::invalid("answered elsewhere")),
    })
}
