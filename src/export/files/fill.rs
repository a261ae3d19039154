//! Fills the files that the walk has made with bytes and attributes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use super::taken::is_plain;
use super::{ExtractOptions, Loss, Skipped, Source};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::guest::fs::{FileType, Time, Xattr};
use crate::sys::Dir;
use crate::sys::place;
use crate::task::Monitor;
use crate::tree::{Attributes, Ino};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes read and written at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: distinct names of labels.
const LABELS_MAX: usize = 100;
/// LIMIT: left-out entries that are named; further ones are only counted.
const SKIPPED_MAX: usize = 10_000;

/// A file that exists under its name and needs its bytes.
pub(super) struct Fill {
    pub(super) file: File,
    pub(super) ino: Ino,
    pub(super) attributes: Attributes,
    pub(super) parent: Arc<Dir>,
    pub(super) name: OsString,
    pub(super) path: PathBuf,
}

/// Differences between target and guest.
#[derive(Default)]
pub(super) struct Losses {
    pub(super) named: Vec<Skipped>,
    pub(super) chosen: u64,
    pub(super) unreadable: u64,
    pub(super) refused: u64,
    pub(super) labels: BTreeMap<String, u64>,
    pub(super) withheld: BTreeMap<String, u64>,
}

/// Counts one more file for an attribute. LIMIT: distinct names, which come from the guest.
fn count(names: &mut BTreeMap<String, u64>, name: String) {
    let key = if names.len() < LABELS_MAX || names.contains_key(&name) {
        name
    } else {
        "others".to_owned()
    };
    *names.entry(key).or_default() += 1;
}

/// State that the threads share.
pub(super) struct Job<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a ExtractOptions,
    pub(super) target: &'a Dir,
    pub(super) monitor: &'a Monitor,
    /// Set after a fatal error: the other threads stop too.
    pub(super) halt: AtomicBool,
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) losses: Mutex<Losses>,
    /// Files that could not be filled; their other names are removed too.
    pub(super) failed: Mutex<HashSet<Ino>>,
}

impl Job<'_> {
    pub(super) fn skip(&self, path: &Path, loss: Loss, reason: impl Into<String>) {
        let mut losses = self.losses.lock();
        match loss {
            Loss::Chosen => losses.chosen += 1,
            Loss::Unreadable => losses.unreadable += 1,
            Loss::Refused => losses.refused += 1,
        }
        if losses.named.len() < SKIPPED_MAX {
            losses.named.push(Skipped {
                path: path.to_path_buf(),
                loss,
                reason: reason.into(),
            });
        }
    }

    /// Records a failure.
    pub(super) fn note(&self, path: &Path, result: Result<()>) {
        if let Err(error) = result {
            self.skip(path, Loss::of(&error), error.report());
        }
    }

    /// Records the result of setting an attribute. A label that the target refuses is only counted: nothing
    /// else is lost.
    pub(super) fn note_xattr(&self, path: &Path, name: &[u8], result: Result<()>) {
        let Err(error) = result else { return };
        let shown = name.escape_ascii().to_string();
        if !is_label(name) {
            let reason = format!("its attribute {shown}: {}", error.report());
            return self.skip(path, Loss::of(&error), reason);
        }
        let mut losses = self.losses.lock();
        count(&mut losses.labels, shown);
    }

    /// Whether an attribute is left out because it was not requested and could grant privileges.
    fn withholds(&self, name: &[u8]) -> bool {
        let options = self.options;
        if options.special || !options.xattrs.include.is_empty() || is_plain(name) {
            return false;
        }
        let mut losses = self.losses.lock();
        count(&mut losses.withheld, name.escape_ascii().to_string());
        true
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        if self.halt.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the restore has failed"));
        }
        self.monitor.check()
    }

    pub(super) fn fill_all(&self, receiver: &Mutex<Receiver<Fill>>) -> Result<()> {
        let mut result = Ok(());
        loop {
            let next = receiver.lock().recv();
            let Ok(fill) = next else {
                return result;
            };
            // After a fatal error the queue is still drained, so that the walk does not wait for ever; the
            // files in it are removed.
            let filled = match &result {
                Ok(()) => self.fill(&fill),
                Err(_) => Err(Error::new(ErrorKind::Cancelled, "the restore has failed")),
            };
            let Err(error) = filled else {
                self.files.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.failed.lock().insert(fill.ino);
            self.skip(&fill.path, Loss::of(&error), error.report());
            self.note(&fill.path, fill.parent.unlink(&fill.name));
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
                self.monitor.advance(written);
                at += written;
            }
        }
        self.finish(&fill.file, fill.ino, &fill.attributes, &fill.path);
        Ok(())
    }

    /// Sets owner, xattrs, mode and times of an open file or directory, in the order in which none undoes
    /// another.
    pub(super) fn finish(&self, file: impl AsFd, ino: Ino, attributes: &Attributes, path: &Path) {
        let note = |result: Result<()>| self.note(path, result);
        if self.options.owner {
            note(place::set_owner(&file, attributes.uid, attributes.gid));
        }
        for xattr in self.xattrs(ino, path).iter() {
            let set = place::set_xattr(&file, &xattr.name, &xattr.value);
            self.note_xattr(path, &xattr.name, set);
        }
        let mut mode = attributes.mode;
        if !self.options.special && attributes.file_type == FileType::Regular && mode & 0o6000 != 0
        {
            mode &= 0o1777;
            self.skip(
                path,
                Loss::Chosen,
                "its setuid and setgid bits; --special keeps them",
            );
        }
        note(place::set_mode(&file, mode));
        let (accessed, modified) = (instant(attributes.atime), instant(attributes.mtime));
        note(place::set_times(&file, accessed, modified));
    }

    /// The extended attributes to set.
    pub(super) fn xattrs(&self, ino: Ino, path: &Path) -> Vec<Xattr> {
        let all = match self.source.xattrs(ino) {
            Ok(all) => all,
            Err(error) => {
                let reason = format!("its extended attributes: {}", error.report());
                self.skip(path, Loss::of(&error), reason);
                return Vec::new();
            }
        };
        all.iter()
            // The tree itself adds these for ordinary users.
            .filter(|xattr| !xattr.name.starts_with(b"user.restorefs."))
            .filter(|xattr| !self.withholds(&xattr.name))
            .cloned()
            .collect()
    }
}

/// Whether an attribute is a label: it has a meaning only for the system that set it, and without it no
/// content and no right is lost.
fn is_label(name: &[u8]) -> bool {
    let begins = |prefix: &[u8]| name.starts_with(prefix);
    let is_power = name == b"security.capability";
    let is_acl = begins(b"system.posix_acl_");
    (begins(b"security.") && !is_power)
        || begins(b"trusted.")
        || begins(b"btrfs.")
        || (begins(b"system.") && !is_acl)
}

/// Errors after which the work cannot continue.
pub(super) fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::Cancelled
    )
}

pub(super) fn instant(time: Time) -> place::Instant {
    (time.seconds, time.nanoseconds)
}
