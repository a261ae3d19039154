//! A reader in another process, which is restarted when it dies.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::Limits;
use super::line::Line;
use super::process::Process;
use super::slot::DATA_BYTES;
use super::wire::{Answer, Call, listing};
use crate::block::ReadAt;
use crate::block::run::RunMap;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FsInfo, GuestIno, Subvolume, Trouble, VolumeState, Xattr};
use crate::guest::record::{Listing, Reader, Record};
use crate::types::size::Count;
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;

/// LIMIT: runs of one file.
const RUNS_MAX: usize = 4 << 20;
/// LIMIT: number of doublings of a volume's pause (from one second to about 17 minutes).
const DOUBLED_MAX: u32 = 10;

/// State of the process.
enum Life {
    Alive(Arc<Process>),
    /// No process is started until then.
    Resting {
        until: Instant,
    },
    /// A thread is starting one.
    Starting,
}

struct State {
    life: Life,
    deaths: u32,
    /// Why the last process died.
    reason: Option<String>,
}

/// A filesystem whose reader is another process.
pub(super) struct Remote {
    program: PathBuf,
    limits: Limits,
    devices: Vec<Arc<dyn ReadAt>>,
    root: GuestIno,
    info: FsInfo,
    state: Mutex<State>,
}

/// The result of a start.
pub(super) enum Started {
    Readable(Box<Remote>),
    Not(VolumeState),
}

fn unexpected() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the reader answered something else than was asked",
    )
}

/// Starts a process and lets it open the filesystem.
fn open(
    program: &std::path::Path,
    limits: Limits,
    devices: &[Arc<dyn ReadAt>],
) -> Result<(Process, Answer)> {
    let process = Process::start(program, limits, devices.to_vec())?;
    let answer = ask_open(&process, devices)?;
    Ok((process, answer))
}

fn ask_open(process: &Process, devices: &[Arc<dyn ReadAt>]) -> Result<Answer> {
    let sizes = devices.iter().map(|device| device.size_bytes()).collect();
    process
        .ask(&Call::Open { sizes }, None)?
        .ok_or_else(unexpected)
}

impl Remote {
    /// Opens the filesystem on `devices` in a new process.
    ///
    /// # Errors
    /// `Io` when the process died while opening or cannot be started; `Unsupported` when it cannot be
    /// confined.
    pub(super) fn start(
        program: PathBuf,
        limits: Limits,
        devices: Vec<Arc<dyn ReadAt>>,
    ) -> Result<Started> {
        let opened = open(&program, limits, &devices)?;
        Self::over(opened, program, limits, devices)
    }

    /// Opens the filesystem on `devices` through a reader that a test plays; a dead one is not restarted.
    ///
    /// # Errors
    /// `Io` when it died while opening.
    pub(super) fn start_played(
        line: Line,
        limits: Limits,
        devices: Vec<Arc<dyn ReadAt>>,
    ) -> Result<Started> {
        let process = Process::played(line.0, limits, devices.clone());
        let answer = ask_open(&process, &devices)?;
        Self::over((process, answer), PathBuf::new(), limits, devices)
    }

    fn over(
        (process, answer): (Process, Answer),
        program: PathBuf,
        limits: Limits,
        devices: Vec<Arc<dyn ReadAt>>,
    ) -> Result<Started> {
        let Answer::OpenedFilesystem { state, fs } = answer else {
            return Err(unexpected());
        };
        let Some(fs) = fs else {
            return Ok(Started::Not(state));
        };
        Ok(Started::Readable(Box::new(Self {
            program,
            limits,
            devices,
            root: fs.root,
            info: fs.info.into(),
            state: Mutex::new(State {
                life: Life::Alive(Arc::new(process)),
                deaths: 0,
                reason: None,
            }),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn rest(&self, deaths: u32) -> Duration {
        self.limits.rest * 2u32.saturating_pow(deaths.saturating_sub(1).min(DOUBLED_MAX))
    }

    /// Records the death of a process, once for each. The pause begins with its end, whenever that is
    /// noticed.
    fn note_death(&self, state: &mut State, reason: String, at: Instant) {
        state.deaths = state.deaths.saturating_add(1);
        state.reason = Some(reason);
        state.life = Life::Resting {
            until: at + self.rest(state.deaths),
        };
    }

    /// Records the death of a process that has ended since the last check.
    fn settle(&self, state: &mut State) {
        let end = match &state.life {
            Life::Alive(process) => process.end().map(|end| (end.reason.clone(), end.at)),
            Life::Resting { .. } | Life::Starting => None,
        };
        if let Some((reason, at)) = end {
            self.note_death(state, reason, at);
        }
    }

    /// The process to ask.
    fn process(&self) -> Result<Arc<Process>> {
        let mut state = self.state();
        self.settle(&mut state);
        match &state.life {
            Life::Alive(process) => return Ok(Arc::clone(process)),
            Life::Resting { until } if *until <= Instant::now() => {}
            Life::Resting { .. } | Life::Starting => {
                let reason = state.reason.clone().unwrap_or_default();
                return Err(Error::new(ErrorKind::Io, reason));
            }
        }
        state.life = Life::Starting;
        drop(state);
        let opened = self.reopen();
        let mut state = self.state();
        match opened {
            Ok(process) => {
                tracing::info!(deaths = state.deaths, "a guest's reader was started anew");
                let process = Arc::new(process);
                state.life = Life::Alive(Arc::clone(&process));
                Ok(process)
            }
            Err(error) => {
                self.note_death(&mut state, error.report(), Instant::now());
                Err(error)
            }
        }
    }

    fn reopen(&self) -> Result<Process> {
        let (process, answer) = open(&self.program, self.limits, &self.devices)?;
        match answer {
            Answer::OpenedFilesystem { fs: Some(fs), .. } if fs.root == self.root => Ok(process),
            _ => Err(unexpected()),
        }
    }

    fn ask(&self, call: &Call) -> Result<Answer> {
        self.process()?.ask(call, None)?.ok_or_else(unexpected)
    }
}

impl Reader for Remote {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        self.root
    }

    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        match self.ask(&Call::Subvolume(which.clone()))? {
            Answer::Ino(ino) => Ok(ino),
            _ => Err(unexpected()),
        }
    }

    fn list(&self, dir: GuestIno, from: usize) -> Result<Listing> {
        let from = u64_from_usize(from);
        let Answer::Listing { entries, more } = self.ask(&Call::List { dir, from })? else {
            return Err(unexpected());
        };
        Ok(listing(entries, more))
    }

    fn list_many(&self, dirs: &[GuestIno]) -> Result<Vec<(GuestIno, Listing)>> {
        match self.ask(&Call::ListMany(dirs.to_vec()))? {
            Answer::Listings(listings) => Ok(listings
                .into_iter()
                .map(|(dir, entries)| (dir, listing(entries, false)))
                .collect()),
            _ => Err(unexpected()),
        }
    }

    fn lookup(&self, dir: GuestIno, name: &[u8]) -> Result<Record> {
        let name = name.to_vec();
        match self.ask(&Call::Lookup { dir, name })? {
            Answer::Record(record) => record.into_record(),
            _ => Err(unexpected()),
        }
    }

    fn record(&self, ino: GuestIno) -> Result<Record> {
        match self.ask(&Call::Record(ino))? {
            Answer::Record(record) => record.into_record(),
            _ => Err(unexpected()),
        }
    }

    fn target(&self, ino: GuestIno) -> Result<Arc<[u8]>> {
        match self.ask(&Call::Target(ino))? {
            Answer::Target(target) => Ok(target.into()),
            _ => Err(unexpected()),
        }
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        match self.ask(&Call::Xattrs(ino))? {
            Answer::Xattrs(xattrs) => Ok(xattrs.into()),
            _ => Err(unexpected()),
        }
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let mut runs = Vec::new();
        loop {
            let from = u64_from_usize(runs.len());
            let Answer::Runs { map, more } = self.ask(&Call::Runs { ino, from })? else {
                return Err(unexpected());
            };
            let is_last = !more || map.count() == 0;
            let size_bytes = map.size_bytes;
            runs.extend(map.into_runs()?);
            if runs.len() > RUNS_MAX {
                let what = format!("a file is in more than {RUNS_MAX} pieces");
                return Err(Error::new(ErrorKind::LimitExceeded, what));
            }
            if is_last {
                return RunMap::new(size_bytes, runs).map(Arc::new);
            }
        }
    }

    fn read(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut offset = offset;
        for part in buf.chunks_mut(DATA_BYTES / 2) {
            let length = u64_from_usize(part.len());
            let call = Call::Read {
                ino,
                offset,
                length,
            };
            if self.process()?.ask(&call, Some(part))?.is_some() {
                return Err(unexpected());
            }
            offset += length;
        }
        Ok(())
    }

    fn trouble(&self) -> Option<Trouble> {
        let mut state = self.state();
        self.settle(&mut state);
        let reason = state.reason.clone()?;
        Some(match state.life {
            Life::Alive(_) => Trouble {
                over: true,
                reason: format!(
                    "started anew {}, the last time because {reason}",
                    Count(u64::from(state.deaths), "time")
                ),
            },
            Life::Resting { .. } | Life::Starting => Trouble {
                over: false,
                reason,
            },
        })
    }
}
