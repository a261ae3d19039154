//! What was left out of an archive, or is in it otherwise than in the guest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::export::files::{Loss, Skipped};
use crate::types::sync::Mutex;

/// LIMIT: what is named; the rest is counted.
const NAMED_MAX: usize = 10_000;

/// Notes of all threads.
#[derive(Default)]
pub(super) struct Notes(Mutex<Noted>);

/// What was noted.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) named: Vec<Skipped>,
    pub(super) count: u64,
    /// Those that should be there: they could not be read, or had no name that may be written.
    pub(super) failed: u64,
}

impl Notes {
    /// What the format cannot hold, by its nature.
    pub(super) fn leave(&self, path: &[u8], reason: impl Into<String>) {
        self.add(path, reason.into(), (true, false));
    }

    /// What is there, otherwise than in the guest.
    pub(super) fn change(&self, path: &[u8], reason: impl Into<String>) {
        self.add(path, reason.into(), (false, false));
    }

    /// What should be there and is not.
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
