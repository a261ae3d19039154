//! Readers in processes of their own: what a guest's volume does to its reader it does to nobody else.
//!
//! ```text
//! tree ── Recorded ── Remote ──(a slot: socket + shared memory)── server ── Direct ── ext, xfs, btrfs, fat
//!                        └── serves the blocks that the reader asks for, while it waits for the answer
//! ```
//!
//! # Invariants
//! - One process for each open filesystem. It can open no file, reach no network, and has no capabilities ([`crate::sys::confine`]);
//!   its address space and processor time are bounded by the kernel, what it reads for one question and how long it takes by us.
//! - A process that dies, hangs, or answers nonsense is ended; the questions that it had are `Io`, its volume says why, and after a while
//!   the next question starts another one.
//! - Nothing that a process says is believed: lengths are bounded before anything is read, answers are copied out of the shared
//!   memory before they are decoded, and [`super::recorded`] checks what they say.
//!
//! # Concurrency
//! A process has a few slots, each with a thread. Who asks takes a free slot, and serves its blocks by himself: no thread waits in the
//! daemon for a reader. No lock is held over a question.

mod device;
mod line;
mod message;
mod process;
mod remote;
pub mod server;
mod slot;
mod standing;
mod wire;

pub use line::{Line, Played, line};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::fs::{GuestFs, VolumeState};
use super::probe::open_fs;
use super::record::{Direct, Reader};
use super::recorded::{Recorded, Store};
use crate::block::ReadAt;
use crate::error::Result;
pub use standing::Standing;

use remote::{Remote, Started};

/// What one reader may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// LIMIT: address space of a process in bytes.
    pub memory_bytes: u64,
    /// LIMIT: processor time of a process in seconds, in its whole life: the kernel's last word on one that nobody waits for.
    pub cpu_seconds: u64,
    /// LIMIT: how long one question may take.
    pub answer_time: Duration,
    /// LIMIT: how long opening may take, which replays journals.
    pub open_time: Duration,
    /// LIMIT: bytes of the volume that one question may read.
    pub read_bytes: u64,
    /// LIMIT: bytes of the volume that opening may read (an XFS log has up to 2 GiB).
    pub open_read_bytes: u64,
    /// How long a volume rests after its reader died; doubled with each death.
    pub rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpu_seconds: 24 * 3600,
            answer_time: Duration::from_secs(5),
            open_time: Duration::from_secs(30),
            read_bytes: 1 << 30,
            open_read_bytes: 8 << 30,
            rest: Duration::from_secs(1),
        }
    }
}

/// Where readers run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In this process: for debugging. A stack overflow in a reader ends the daemon.
    #[default]
    Thread,
    /// Each in a process of its own, started from this program with the argument [`server::ARGUMENT`].
    Process(PathBuf),
}

impl Isolation {
    /// Each in a process of its own, of this very version, also after an upgrade has replaced the program's file.
    #[must_use]
    pub fn of_this_program() -> Self {
        Self::Process("/proc/self/exe".into())
    }
}

/// Opens filesystems, where and within the limits that were chosen.
pub struct Readers {
    isolation: Isolation,
    limits: Limits,
    store: Arc<Store>,
}

impl Readers {
    /// Readers that run as `isolation` says and keep at most `bytes_max` bytes of answers.
    #[must_use]
    pub fn new(isolation: Isolation, limits: Limits, bytes_max: usize) -> Self {
        Self {
            isolation,
            limits,
            store: Store::new(bytes_max),
        }
    }

    /// Opens the filesystem on a volume, given with the other devices that it spans. Never fails: damage is a state.
    #[must_use]
    pub fn open(&self, devices: Vec<Arc<dyn ReadAt>>) -> Opening {
        match &self.isolation {
            Isolation::Thread => {
                let (state, fs) = open_fs(&devices);
                Opening {
                    state,
                    fs: fs.map(|fs| self.recorded(Direct(fs))),
                    passing: false,
                }
            }
            Isolation::Process(program) => {
                self.opening(Remote::start(program.clone(), self.limits, devices))
            }
        }
    }

    /// The same, through a reader that somebody plays at the other side of `line`: for tests of what it may say.
    #[must_use]
    pub fn open_played(&self, devices: Vec<Arc<dyn ReadAt>>, line: Line) -> Opening {
        self.opening(Remote::start_played(line, self.limits, devices))
    }

    fn opening(&self, started: Result<Started>) -> Opening {
        let (state, fs, passing) = match started {
            Ok(Started::Readable(remote)) => {
                (VolumeState::Readable, Some(self.recorded(*remote)), false)
            }
            Ok(Started::Not(state)) => (state, None, false),
            Err(error) => (VolumeState::Damaged(error.report()), None, true),
        };
        Opening { state, fs, passing }
    }

    fn recorded(&self, reader: impl Reader + 'static) -> Arc<dyn GuestFs> {
        Arc::new(Recorded::new(reader, &self.store))
    }
}

/// What became of opening a filesystem.
pub struct Opening {
    /// How far the volume is known.
    pub state: VolumeState,
    /// The filesystem, when it is readable.
    pub fs: Option<Arc<dyn GuestFs>>,
    /// Whether it was the reader that failed, so that another try may end otherwise.
    pub passing: bool,
}
