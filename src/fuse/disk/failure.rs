//! Failed requests: the kernel passes on only an errno, so this module records and logs the reason.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind};
use crate::types::sync::Mutex;

/// LIMIT: failures of one file that are logged individually; later ones only at each doubling of their
/// number.
const LOGGED_MAX: u64 = 100;

/// Records the reasons of failed requests, and logs them.
pub(super) struct Failures {
    name: String,
    count: AtomicU64,
    last: Mutex<Option<String>>,
}

impl Failures {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            count: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// Records a failed operation.
    pub(super) fn note(&self, what: &'static str, error: &Error) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let report = error.report();
        if count <= LOGGED_MAX || count.is_power_of_two() {
            if error.kind() == ErrorKind::NoSpace {
                tracing::error!(disk = %self.name, count, error = %report, "NO SPACE for data written to a mapped disk");
            } else {
                tracing::error!(disk = %self.name, count, error = %report, "cannot {what} a mapped disk");
            }
        }
        *self.last.lock() = Some(report);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }
}
