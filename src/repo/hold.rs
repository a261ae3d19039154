//! Holds of the whole repository: while there is one, no layer is replaced, and nothing goes to the trash or from it, so
//! that another program can copy the files. Restore points are committed all the same.
//!
//! # Invariants
//! A hold ends with its holder: it is a value in the owner's memory, and nothing on disk. A hold begins when the changes
//! that it keeps out have ended; none begins while it lasts.
//!
//! # Concurrency
//! A change is entered before the VM's mutex is taken.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    /// The holds: a number and a description of each.
    holders: Vec<(u64, String)>,
    next: u64,
    /// Changes that are under way.
    changes: usize,
}

/// The holds of a repository, and the changes that they keep out.
#[derive(Debug, Default)]
pub(super) struct Holds {
    state: Mutex<State>,
    ended: Condvar,
}

/// A hold; dropping it ends the hold.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<Holds>,
    number: u64,
}

/// A change that is under way; dropping it ends the change.
#[derive(Debug)]
pub(super) struct Change<'a>(&'a Holds);

impl Holds {
    /// Begins a hold, once the changes that are under way have ended.
    pub(super) fn hold(self: &Arc<Self>, holder: &str) -> Hold {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.holders.push((number, holder.to_owned()));
        while state.changes > 0 {
            state = self.ended.wait(state);
        }
        Hold {
            holds: Arc::clone(self),
            number,
        }
    }

    /// Whether there is a hold.
    pub(super) fn is_held(&self) -> bool {
        !self.state.lock().holders.is_empty()
    }

    /// Begins a change.
    ///
    /// # Errors
    /// `Locked` while there is a hold.
    pub(super) fn enter(&self) -> Result<Change<'_>> {
        let mut state = self.state.lock();
        if let Some((_, holder)) = state.holders.first() {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("the layers stay as they are while they are copied: {holder}"),
            )
            .advise("nothing is lost; try again when it has ended"));
        }
        state.changes += 1;
        Ok(Change(self))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.state.lock();
        state.holders.retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.changes -= 1;
        if state.changes == 0 {
            self.0.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::Holds;
    use crate::error::ErrorKind;

    #[test]
    fn a_hold_waits_for_changes_and_keeps_new_ones_out_until_the_last_has_ended() {
        let holds = Arc::new(Holds::default());
        let change = holds.enter().unwrap();
        let is_held = Arc::new(AtomicBool::new(false));
        let waiting = std::thread::spawn({
            let (holds, is_held) = (Arc::clone(&holds), Arc::clone(&is_held));
            move || {
                let hold = holds.hold("a copy");
                is_held.store(true, Ordering::SeqCst);
                hold
            }
        });
        // It keeps new changes out before it has begun.
        while holds.enter().is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_held.load(Ordering::SeqCst));
        drop(change);
        let first = waiting.join().unwrap();
        let second = holds.hold("another copy");
        let refused = |holder: &str| {
            let error = holds.enter().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked);
            assert!(error.what().ends_with(holder), "{error}");
        };
        refused(": a copy");
        drop(first);
        refused(": another copy");
        drop(second);
        drop(holds.enter().unwrap());
        assert_eq!(holds.state.lock().changes, 0);
    }
}
