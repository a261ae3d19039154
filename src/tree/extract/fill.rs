//! Filling: bytes and attributes of the files that the walk has made.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ExtractOptions, Skipped, Source};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::guest::fs::{FileType, Time, Xattr};
use crate::sys::Dir;
use crate::sys::place;
use crate::tree::{Attributes, Ino};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes read and written at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: what was left out and is named; the rest is counted.
const SKIPPED_MAX: usize = 10_000;

/// A file that has its name and needs its bytes.
pub(super) struct Fill {
    pub(super) file: File,
    pub(super) ino: Ino,
    pub(super) attributes: Attributes,
    pub(super) parent: Arc<Dir>,
    pub(super) name: OsString,
    pub(super) path: PathBuf,
}

/// What the threads share.
pub(super) struct Job<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a ExtractOptions,
    pub(super) target: &'a Dir,
    pub(super) stop: &'a AtomicBool,
    /// Set after a fatal error: the others stop too.
    pub(super) halt: AtomicBool,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: Mutex<(Vec<Skipped>, u64)>,
    /// Files that could not be filled; their other names go too.
    pub(super) failed: Mutex<HashSet<Ino>>,
}

impl Job<'_> {
    pub(super) fn skip(&self, path: &Path, reason: impl Into<String>) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped.1 += 1;
        if skipped.0.len() < SKIPPED_MAX {
            skipped.0.push(Skipped {
                path: path.to_path_buf(),
                reason: reason.into(),
            });
        }
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) || self.halt.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the restore was stopped"));
        }
        Ok(())
    }

    pub(super) fn fill_all(&self, receiver: &Mutex<Receiver<Fill>>) -> Result<()> {
        let mut result = Ok(());
        loop {
            let next = receiver
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok(fill) = next else {
                return result;
            };
            // After a fatal error the queue is still emptied, so that the walk does not wait for ever; what is in it goes.
            let filled = match &result {
                Ok(()) => self.fill(&fill),
                Err(_) => Err(Error::new(ErrorKind::Cancelled, "the restore has failed")),
            };
            let Err(error) = filled else {
                self.files.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(fill.ino);
            self.skip(&fill.path, error.report());
            if let Err(error) = fill.parent.unlink(&fill.name) {
                self.skip(&fill.path, error.report());
            }
            if is_fatal(&error) {
                self.halt.store(true, Ordering::Relaxed);
                result = result.and(Err(error));
            }
        }
    }

    fn fill(&self, fill: &Fill) -> Result<()> {
        let content = self.source.content(fill.ino)?;
        let size = content.size_bytes();
        fill.file.set_len(size).or_io("cannot set the size")?;
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size {
            self.check_stop()?;
            let extent = content.extent_at(at, (size - at).min(64 * CHUNK_BYTES))?;
            let end = at + extent.length_bytes;
            if extent.kind.reads_zero() {
                at = end;
                continue;
            }
            while at < end {
                self.check_stop()?;
                let length = usize_from_u64((end - at).min(CHUNK_BYTES));
                buffer.resize(length, 0);
                content.read_at(at, &mut buffer)?;
                fill.file.write_all_at(&buffer, at).or_io("cannot write")?;
                let written = u64_from_usize(length);
                self.bytes.fetch_add(written, Ordering::Relaxed);
                (self.progress)(written);
                at += written;
            }
        }
        self.finish(&fill.file, fill.ino, &fill.attributes, &fill.path);
        Ok(())
    }

    /// Owner, xattrs, mode and times of an open file or directory, in the order that keeps them.
    pub(super) fn finish(&self, file: impl AsFd, ino: Ino, attributes: &Attributes, path: &Path) {
        let note = |result: Result<()>| {
            if let Err(error) = result {
                self.skip(path, error.report());
            }
        };
        if self.options.owner {
            note(place::set_owner(&file, attributes.uid, attributes.gid));
        }
        for xattr in self.xattrs(ino, path).iter() {
            let name = String::from_utf8_lossy(&xattr.name).into_owned();
            let set = place::set_xattr(&file, &xattr.name, &xattr.value);
            note(set.map_err(|e| e.at_path(name)));
        }
        let mut mode = attributes.mode;
        if !self.options.special && attributes.file_type == FileType::Regular && mode & 0o6000 != 0
        {
            mode &= 0o1777;
            self.skip(path, "its setuid and setgid bits; --special keeps them");
        }
        note(place::set_mode(&file, mode));
        let (accessed, modified) = (instant(attributes.atime), instant(attributes.mtime));
        note(place::set_times(&file, accessed, modified));
    }

    /// The extended attributes that are to be set.
    pub(super) fn xattrs(&self, ino: Ino, path: &Path) -> Vec<Xattr> {
        let all = match self.source.xattrs(ino) {
            Ok(all) => all,
            Err(error) => {
                self.skip(path, format!("its extended attributes: {}", error.report()));
                return Vec::new();
            }
        };
        all.iter()
            // What the tree itself adds for ordinary users.
            .filter(|xattr| !xattr.name.starts_with(b"user.restorefs."))
            .filter(|xattr| {
                let power = xattr.name == b"security.capability" && !self.options.special;
                if power {
                    self.skip(path, "its file capabilities; --special keeps them");
                }
                !power
            })
            .cloned()
            .collect()
    }
}

/// Errors after which going on makes no sense.
pub(super) fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::Cancelled
    )
}

pub(super) fn instant(time: Time) -> place::Instant {
    (time.seconds, time.nanoseconds)
}
