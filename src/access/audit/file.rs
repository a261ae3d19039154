//! The file of the audit log: one JSON object a line.
//!
//! # Invariants
//! - Lines are only appended. A line that could not be written whole is closed by the next one.
//! - The name is never followed through a symlink, and is a regular file.
//! - When the file is renamed or removed (logrotate), the next line begins a new one.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Result, ResultExt};
use crate::sys::append;
use crate::types::sync::Mutex;

/// Mode of a new file: the group may read it.
const MODE: u32 = 0o640;

/// LIMIT: the interval at which failures to write are logged.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    /// The file, with its device and inode.
    open: Option<(File, (u64, u64))>,
    /// Whether the last line may have been written in part.
    is_torn: bool,
    complained_at: Option<Instant>,
}

/// The file.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    state: Mutex<State>,
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn open(path: &Path) -> Result<(File, (u64, u64))> {
    let file = append::open(path, MODE)?;
    let meta = file
        .metadata()
        .or_io("cannot look at the audit log")
        .at_path(path)?;
    let identity = identity(&meta);
    Ok((file, identity))
}

impl AuditFile {
    /// Opens the file, and makes it when it is missing.
    ///
    /// # Errors
    /// As [`AuditLog::to_file`](super::AuditLog::to_file).
    pub(super) fn open(path: &Path) -> Result<Self> {
        let state = State {
            open: Some(open(path)?),
            ..State::default()
        };
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Appends a line. A failure is logged.
    pub(super) fn append(&self, line: &str) {
        let mut state = self.state.lock();
        let written = self.try_append(&mut state, line);
        match written {
            Ok(()) => {
                if state.complained_at.take().is_some() {
                    tracing::warn!(path = %self.path.display(), "the audit log is written again; lines are missing in it");
                }
            }
            Err(error) => {
                let last = state.complained_at;
                if last.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
                    tracing::error!(error = %error.report(), "the audit log could not be written; its lines are in this log only");
                    state.complained_at = Some(Instant::now());
                }
            }
        }
    }

    fn try_append(&self, state: &mut State, line: &str) -> Result<()> {
        let there = std::fs::symlink_metadata(&self.path).ok();
        let is_there = |(_, open): &(File, (u64, u64))| {
            there.as_ref().is_some_and(|meta| identity(meta) == *open)
        };
        if !state.open.as_ref().is_some_and(is_there) {
            state.open = None;
            state.open = Some(open(&self.path)?);
            state.is_torn = false;
        }
        let Some((file, _)) = &mut state.open else {
            return Ok(());
        };
        let begin = if state.is_torn { "\n" } else { "" };
        let written = file.write_all(format!("{begin}{line}\n").as_bytes());
        state.is_torn = written.is_err();
        written
            .or_io("cannot append to the audit log")
            .at_path(&self.path)
    }
}
