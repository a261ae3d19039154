//! Records entries that an archive lacks, or has in another form than the guest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::export::files::{Loss, Skipped};
use crate::types::sync::Mutex;

/// LIMIT: entries that are named; further ones are only counted.
const NAMED_MAX: usize = 10_000;

/// Notes of all threads.
#[derive(Default)]
pub(super) struct Notes(Mutex<Noted>);

/// The recorded notes.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) named: Vec<Skipped>,
    pub(super) count: u64,
    /// Number of entries that failed: they were unreadable, or had an invalid name.
    pub(super) failed: u64,
}

impl Notes {
    /// Records an entry that the format cannot represent.
    pub(super) fn leave(&self, path: &[u8], reason: impl Into<String>) {
        self.add(path, reason.into(), (true, false));
    }

    /// Records an entry whose form differs from the guest's.
    pub(super) fn change(&self, path: &[u8], reason: impl Into<String>) {
        self.add(path, reason.into(), (false, false));
    }

    /// Records an entry that should be in the archive and is not.
    pub(super) fn fail(&self, path: &[u8], reason: impl Into<String>) {
        self.add(path, reason.into(), (true, true));
    }

    fn add(&self, path: &[u8], reason: String, (left_out, failed): (bool, bool)) {
        let mut noted = self.0.lock();
        noted.count += u64::from(left_out);
        noted.failed += u64::from(failed);
        if noted.named.len() < NAMED_MAX {
            noted.named.push(Skipped {
                path: PathBuf::from(OsStr::from_bytes(path)),
                loss: if failed {
                    Loss::Unreadable
                } else {
                    Loss::Chosen
                },
                reason,
            });
        }
    }

    pub(super) fn into_inner(self) -> Noted {
        self.0.into_inner()
    }
}
