//! Completion: whether a disk of a session is finished, so that a point never mixes two instants
//! silently.
//!
//! A disk is finished when a writer has reached its end, or a caller has declared it finished, and
//! no handed-in bytes are missing. [`connections`] has the rule for NBD connections, [`missing`]
//! the ranges that could not be taken, and [`logged`] what the record log records for the time
//! after a crash. Each is a plain state machine. [`Completion`] combines the three under one mutex
//! with the door that the disk belongs to, which decides when a file in the tree counts as written.
//!
//! # Invariants
//! - The log records that a disk is finished only while it is: a retraction is logged before
//!   finished content is overwritten.
//! - A disk with missing bytes is not finished, whatever its connections did.

mod connections;
mod door;
mod logged;
mod missing;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use self::connections::Connections;
use self::door::Claim;
use self::logged::Logged;
use self::missing::Missing;
use crate::error::{ErrorKind, Result};
use crate::types::sync::Mutex;

pub use self::door::Door;
pub(super) use self::logged::Statement;

#[derive(Debug, Default)]
struct State {
    connections: Connections,
    missing: Missing,
    logged: Logged,
}

impl State {
    fn is_finished(&self) -> bool {
        self.connections.is_finished() && self.missing.is_empty()
    }

    /// Marks a file as finished after a write or truncation. The log does not record this: after a
    /// crash, only a sync or a declaration proves that a writer reached its end.
    fn finish_touched(&mut self) {
        if self.missing.is_empty() && !self.connections.is_finished() {
            self.connections.set(true);
        }
    }
}

/// Whether a disk is finished.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
    /// Whether the log must be updated before the disk is written, because it records that the disk
    /// is finished or is about to.
    is_bound: AtomicBool,
    door: Claim,
}

impl Completion {
    /// Changes the state, and updates `is_bound` with it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.is_bound
            .store(state.logged.is_bound(), Ordering::SeqCst);
        result
    }

    /// Whether the disk may be committed.
    pub(super) fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// The number of connections that are writing now.
    pub(super) fn writers(&self) -> u64 {
        self.state.lock().connections.writing()
    }

    /// Opens a connection; returns its number.
    pub(super) fn open(&self) -> u64 {
        self.state.lock().connections.open()
    }

    /// Records that a connection writes for the first time: the disk is not finished any more.
    pub(super) fn begin_writing(&self) {
        self.state.lock().connections.begin_writing();
    }

    /// A connection ends.
    pub(super) fn close(&self, number: u64, wrote: bool, clean: bool) {
        self.state.lock().connections.close(number, wrote, clean);
    }

    /// Declares the disk finished or unfinished; earlier failed writes no longer matter.
    pub(super) fn declare(&self, finished: bool) {
        self.change(|state| {
            state.missing.clear();
            state.connections.set(finished);
            // A client that still writes over NBD makes its own statement when it disconnects, or
            // none: its running writes come after this declaration.
            if !finished || state.connections.is_finished() {
                state.logged.state(finished);
            }
        });
    }

    /// States that the disk is finished, if it is, when the content is about to be made durable.
    pub(super) fn state_if_finished(&self) {
        self.change(|state| {
            if state.is_finished() {
                state.logged.state(true);
            }
        });
    }

    /// Retracts the statement that the disk is finished, because it could not be made durable.
    pub(super) fn state_unfinished(&self) {
        self.change(|state| state.logged.state(false));
    }

    /// Begins a write into the file: nobody states that the disk is finished until the returned
    /// guard is dropped.
    pub(super) fn enter(&self) -> WriteGuard<'_> {
        self.state.lock().logged.enter();
        WriteGuard(self)
    }

    /// Retracts the logged statement that the disk is finished. Returns whether a flush is needed
    /// before the log no longer records it.
    pub(super) fn take_back(&self) -> bool {
        if !self.is_bound.load(Ordering::SeqCst) {
            return false;
        }
        self.change(|state| {
            state.logged.state(false);
            state.logged.stands()
        })
    }

    /// Records the result of a write into the file. After a success the disk is finished. After a
    /// failure it is unfinished until the bytes are handed in again or cut off, or the disk is
    /// declared finished.
    pub(super) fn note_handed_in(&self, range: Range<u64>, result: &Result<()>) {
        self.change(|state| {
            state.missing.note(range, result);
            match result {
                Ok(()) => state.finish_touched(),
                Err(e) if missing::is_rule(e.kind()) => {}
                Err(_) => {
                    state.connections.set(false);
                    state.logged.state(false);
                }
            }
        });
    }

    /// Records the result of writing a range. QEMU's programs disconnect properly even after
    /// ENOSPC.
    pub(super) fn note_range(&self, range: Range<u64>, result: &Result<()>) {
        self.state.lock().missing.note(range, result);
    }

    /// Records that the file ends at `size_bytes` now: nothing beyond is missing.
    pub(super) fn note_cut(&self, size_bytes: u64) {
        let mut state = self.state.lock();
        state.missing.remove(size_bytes, u64::MAX);
        state.finish_touched();
    }

    /// Whether no handed-in bytes are missing.
    pub(super) fn has_all(&self) -> bool {
        self.state.lock().missing.is_empty()
    }

    /// The first missing range (start, end), and the error of a failed write.
    pub(super) fn first_missing(&self) -> Option<(u64, u64, ErrorKind)> {
        self.state.lock().missing.first()
    }

    /// Moves the missing ranges of `other` into this set; `other`'s disk is continued by this one.
    pub(super) fn adopt_missing(&self, other: &Self) {
        let missing = other.state.lock().missing.clone();
        self.state.lock().missing = missing;
    }

    /// Continues from `other`, whose disk is reopened as this one and belongs to no door yet. The
    /// log state stays as it was read.
    pub(super) fn continue_from(&self, other: &Self) {
        let (finished, missing) = {
            let state = other.state.lock();
            (state.is_finished(), state.missing.clone())
        };
        {
            let mut state = self.state.lock();
            state.connections.set(finished);
            state.missing = missing;
        }
        if let Some(door) = other.door() {
            // The claim cannot fail: no other door has the disk yet.
            let _ = self.claim(door);
        }
    }

    /// Continues after a crash with the last statement in the log.
    pub(super) fn resumed(&self, finished: bool) {
        self.change(|state| {
            state.connections.set(finished);
            state.logged.resumed(finished);
        });
    }

    /// The statement to log, if any. A flush must ask for it before it looks at what was written.
    pub(super) fn unlogged(&self) -> Option<Statement> {
        self.state.lock().logged.unlogged()
    }

    /// Begins to log a statement; returns `false` when a later one has overtaken it. Only the
    /// thread that holds the log calls this and [`Completion::carried`].
    pub(super) fn carry(&self, statement: Statement) -> bool {
        self.change(|state| state.logged.carry(statement))
    }

    /// Ends the logging of the carried statement: it is durably in the log, or, without
    /// `is_logged`, that is unknown.
    pub(super) fn carried(&self, is_logged: bool) {
        self.change(|state| state.logged.carried(is_logged));
    }

    /// Takes the disk for a door, for as long as the session is open in this process.
    ///
    /// # Errors
    /// The other door that the disk belongs to.
    pub(super) fn claim(&self, door: Door) -> std::result::Result<(), Door> {
        self.door.claim(door)
    }

    /// The door that the disk belongs to, once a door has written it.
    pub(super) fn door(&self) -> Option<Door> {
        self.door.door()
    }
}

/// A running write into a disk that is written as a file. Until it is dropped, nobody states that
/// the disk is finished.
pub struct WriteGuard<'a>(&'a Completion);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.0.state.lock().logged.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::{Completion, Door};
    use crate::error::{Error, ErrorKind};

    fn flush(completion: &Completion) {
        if let Some(statement) = completion.unlogged() {
            assert!(completion.carry(statement));
            completion.carried(true);
        }
    }

    #[test]
    fn a_disk_that_misses_bytes_is_not_finished_until_they_come() {
        let completion = Completion::default();
        let number = completion.open();
        completion.begin_writing();
        let full = Err(Error::new(ErrorKind::NoSpace, "full"));
        completion.note_range(0..512, &full);
        completion.close(number, true, true);
        assert!(!completion.is_finished() && !completion.has_all());
        completion.state_if_finished();
        assert!(completion.unlogged().is_none());
        completion.note_range(0..512, &Ok(()));
        assert!(completion.is_finished() && completion.first_missing().is_none());
        completion.state_if_finished();
        assert!(completion.unlogged().is_some());
    }

    #[test]
    fn what_is_declared_while_a_client_writes_is_not_logged() {
        let completion = Completion::default();
        completion.open();
        completion.begin_writing();
        completion.declare(true);
        assert!(!completion.is_finished() && completion.unlogged().is_none());
        assert_eq!(completion.writers(), 1);
    }

    #[test]
    fn a_file_that_fails_takes_back_what_the_log_says() {
        let completion = Completion::default();
        completion.resumed(true);
        assert!(completion.is_finished());
        let failed = Err(Error::new(ErrorKind::Io, "broken"));
        completion.note_handed_in(0..512, &failed);
        assert!(!completion.is_finished());
        assert!(completion.take_back());
        flush(&completion);
        assert!(!completion.take_back());
        // A rule refused the write: nothing was begun.
        completion.declare(true);
        let refused = Err(Error::new(ErrorKind::Busy, "busy"));
        completion.note_handed_in(0..512, &refused);
        assert!(completion.is_finished());
    }

    #[test]
    fn one_that_is_opened_again_goes_on() {
        let (old, new) = (Completion::default(), Completion::default());
        old.claim(Door::Tree).unwrap();
        old.note_handed_in(0..512, &Ok(()));
        new.continue_from(&old);
        assert!(new.is_finished() && new.unlogged().is_none());
        assert_eq!(new.claim(Door::Nbd), Err(Door::Tree));
        old.note_handed_in(0..512, &Err(Error::new(ErrorKind::Io, "broken")));
        new.continue_from(&old);
        assert!(!new.is_finished() && !new.has_all());
    }
}
