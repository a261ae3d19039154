//! Results of verifying on their way to the owner of the lock.

use crate::error::{Error, ErrorKind, Result};
use crate::repo::checks::CheckNotes;
use crate::types::VmName;

/// LIMIT: results that wait for the lock; further ones are only told.
const WAITING_MAX: usize = 1_000;

/// Results that wait for the owner of the lock. A failure to keep some does not end the run: the keeper remembers the first.
#[derive(Default)]
pub struct Keeper {
    waiting: Vec<(VmName, CheckNotes)>,
    failed: Option<Error>,
}

impl Keeper {
    /// Adds results.
    pub fn add(&mut self, vm: &VmName, notes: &CheckNotes) {
        if self.waiting.len() >= WAITING_MAX {
            let what = format!("{WAITING_MAX} results of verifying wait for the lock already");
            self.note_failure(Error::new(ErrorKind::LimitExceeded, what));
        } else {
            self.waiting.push((vm.clone(), notes.clone()));
        }
    }

    /// Whether results wait.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands all results that wait to the owner.
    pub fn give(&mut self, keep: impl Fn(&VmName, &CheckNotes) -> Result<()>) {
        for (vm, notes) in std::mem::take(&mut self.waiting) {
            match keep(&vm, &notes) {
                // The VM was removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => self.note_failure(e),
                Ok(()) => {}
            }
        }
    }

    /// Remembers why results could not be kept.
    pub fn note_failure(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }

    /// Whether everything was kept.
    ///
    /// # Errors
    /// The first failure.
    pub fn end(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::{Keeper, WAITING_MAX};
    use crate::error::{Error, ErrorKind};
    use crate::repo::checks::CheckNotes;
    use crate::types::VmName;

    #[test]
    fn a_vm_that_is_gone_is_no_failure_and_the_first_failure_is_told() {
        let vm = VmName::new("web01").unwrap();
        let notes = CheckNotes::default();
        let mut keeper = Keeper::default();
        keeper.add(&vm, &notes);
        assert!(keeper.is_waiting());
        keeper.give(|_, _| Err(Error::not_found("gone")));
        assert!(!keeper.is_waiting());
        keeper.end().unwrap();
        for what in ["first", "second"] {
            keeper.add(&vm, &notes);
            keeper.give(|_, _| Err(Error::invalid(what)));
        }
        assert_eq!(keeper.end().unwrap_err().what(), "first");
        keeper.end().unwrap();
        for _ in 0..=WAITING_MAX {
            keeper.add(&vm, &notes);
        }
        let full = keeper.end().unwrap_err();
        assert_eq!(full.kind(), ErrorKind::LimitExceeded);
    }
}
