//! Readers in their own processes: a hostile volume can harm only its own reader.
//!
//! ```text
//! tree ── Recorded ── Remote ──(a slot: socket + shared memory)── server ── Direct ── ext, xfs, btrfs, fat
//!                        └── serves the blocks that the reader asks for, while it waits for the answer
//! ```
//!
//! # Invariants
//! - One process for each open filesystem. It cannot open files or reach the network, and has no capabilities
//!   ([`crate::sys::confine`]). The kernel limits its address space and processor time; the daemon limits the
//!   bytes and the time of each question.
//! - A process that dies, hangs or answers nonsense is ended. Its pending questions fail with `Io`, its
//!   volume shows the reason, and after a pause the next question starts another process.
//! - The daemon verifies everything from a process: lengths are bounded before anything is read, answers are
//!   copied out of the shared memory before they are decoded, and [`super::recorded`] checks their content.
//!
//! # Concurrency
//! A process has a few slots, each with a thread. A caller takes a free slot, and itself serves the reader's
//! block requests there: no thread waits in the daemon for a reader. No lock is held during a question.

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

/// Limits of one reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// LIMIT: address space of a process in bytes.
    pub memory_bytes: u64,
    /// LIMIT: processor time of a process in seconds, over its whole life; the kernel then kills even a
    /// process that no caller waits for.
    pub cpu_seconds: u64,
    /// LIMIT: time for one question.
    pub answer_time: Duration,
    /// LIMIT: time for opening, which replays journals.
    pub open_time: Duration,
    /// LIMIT: bytes of the volume that may be read for one question.
    pub read_bytes: u64,
    /// LIMIT: bytes of the volume that may be read for opening (an XFS log has up to 2 GiB).
    pub open_read_bytes: u64,
    /// Pause of a volume after its reader died; doubled with each death.
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
    /// Each in its own process, started from this program with the argument [`server::ARGUMENT`].
    Process(PathBuf),
}

impl Isolation {
    /// Each in its own process of exactly this program, even after an upgrade has replaced the program's
    /// file.
    #[must_use]
    pub fn of_this_program() -> Self {
        Self::Process("/proc/self/exe".into())
    }
}

/// Opens filesystems in the chosen place and within the chosen limits.
pub struct Readers {
    isolation: Isolation,
    limits: Limits,
    store: Arc<Store>,
}

impl Readers {
    /// Readers that run as `isolation` requires, with at most `bytes_max` bytes of cached answers.
    #[must_use]
    pub fn new(isolation: Isolation, limits: Limits, bytes_max: usize) -> Self {
        Self {
            isolation,
            limits,
            store: Store::new(bytes_max),
        }
    }

    /// Opens the filesystem on a volume; `devices` includes the other devices that it spans. Never fails:
    /// damage is a state.
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

    /// The same with a reader that a test plays at the other side of `line`.
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

/// The result of opening a filesystem.
pub struct Opening {
    /// State of the volume.
    pub state: VolumeState,
    /// The filesystem, when it can be read.
    pub fs: Option<Arc<dyn GuestFs>>,
    /// Whether the reader failed, so that another attempt may have another result.
    pub passing: bool,
}
