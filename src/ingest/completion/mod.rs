//! Completion: whether a disk of a session is finished, so that two instants are never mixed silently.
//!
//! A disk is finished when a writer has come to its end, or somebody has declared it, and nothing that was handed in is missing:
//! [`connections`] has the rule of NBD connections, [`missing`] what could not be taken, and [`logged`] what the record log says for the
//! time after a crash. Each is a plain state machine; [`Completion`] is the three of them under one mutex, and the door that the disk
//! belongs to, which decides when a file in the tree counts as written.
//!
//! # Invariants
//! - The log says that a disk is finished only when it is: what takes it back is logged before what was finished is overwritten.
//! - A disk that misses bytes is not finished, whatever its connections did.

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

    /// A file that was written into, or cut, is finished. Not in the log: only a writer that syncs, or declares it, has come to an end for
    /// all that can be known after a crash.
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
    /// Whether the log has to be told before the disk is written: it says that the disk is finished, or is about to.
    is_bound: AtomicBool,
    door: Claim,
}

impl Completion {
    /// Changes the state; what changes the log's part does it here.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.is_bound
            .store(state.logged.is_bound(), Ordering::SeqCst);
        result
    }

    /// Whether it may be committed.
    pub(super) fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// Connections that are writing now.
    pub(super) fn writers(&self) -> u64 {
        self.state.lock().connections.writing()
    }

    /// A connection is opened; answers its number.
    pub(super) fn open(&self) -> u64 {
        self.state.lock().connections.open()
    }

    /// A connection writes for the first time: whatever was finished is not any more.
    pub(super) fn begin_writing(&self) {
        self.state.lock().connections.begin_writing();
    }

    /// A connection ends.
    pub(super) fn close(&self, number: u64, wrote: bool, clean: bool) {
        self.state.lock().connections.close(number, wrote, clean);
    }

    /// It is declared finished, or not; what could not be written before does not matter any more.
    pub(super) fn declare(&self, finished: bool) {
        self.change(|state| {
            state.missing.clear();
            state.connections.set(finished);
            // A client that still writes over NBD states it when it disconnects, or not at all: what it has begun comes after this.
            if !finished || state.connections.is_finished() {
                state.logged.state(finished);
            }
        });
    }

    /// What is written is about to be made durable, and is all if the disk is finished.
    pub(super) fn state_if_finished(&self) {
        self.change(|state| {
            if state.is_finished() {
                state.logged.state(true);
            }
        });
    }

    /// It could not be made durable that the disk is finished.
    pub(super) fn state_unfinished(&self) {
        self.change(|state| state.logged.state(false));
    }

    /// Begins a write into the file: until what is returned is dropped, nobody states that the disk is finished.
    pub(super) fn enter(&self) -> WriteGuard<'_> {
        self.state.lock().logged.enter();
        WriteGuard(self)
    }

    /// Takes back what the log says. Answers whether a flush is needed until it does not say any more that the disk is finished.
    pub(super) fn take_back(&self) -> bool {
        if !self.is_bound.load(Ordering::SeqCst) {
            return false;
        }
        self.change(|state| {
            state.logged.state(false);
            state.logged.stands()
        })
    }

    /// What became of bytes that were handed in as into a file: taken, the disk is finished; not taken, it is not until they were handed in
    /// again, cut off, or it is declared so.
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

    /// A range was written, or could not be. QEMU's programs say a proper goodbye also after ENOSPC.
    pub(super) fn note_range(&self, range: Range<u64>, result: &Result<()>) {
        self.state.lock().missing.note(range, result);
    }

    /// The file ends there now: nothing is missed behind it.
    pub(super) fn note_cut(&self, size_bytes: u64) {
        let mut state = self.state.lock();
        state.missing.remove(size_bytes, u64::MAX);
        state.finish_touched();
    }

    /// Whether nothing that was handed in is missing.
    pub(super) fn has_all(&self) -> bool {
        self.state.lock().missing.is_empty()
    }

    /// The first range that is missing, and how its write failed.
    pub(super) fn first_missing(&self) -> Option<(u64, u64, ErrorKind)> {
        self.state.lock().missing.first()
    }

    /// Moves what `other` misses here; its disk is continued by this one.
    pub(super) fn adopt_missing(&self, other: &Self) {
        let missing = other.state.lock().missing.clone();
        self.state.lock().missing = missing;
    }

    /// Goes on as `other`, whose disk is opened again as this one and belongs to no door yet. The log is left as it was read.
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
            // Nobody else has it yet.
            let _ = self.claim(door);
        }
    }

    /// Goes on after a crash, with what the log said at its end.
    pub(super) fn resumed(&self, finished: bool) {
        self.change(|state| {
            state.connections.set(finished);
            state.logged.resumed(finished);
        });
    }

    /// What is to be logged. A flush asks before it looks at what was written.
    pub(super) fn unlogged(&self) -> Option<Statement> {
        self.state.lock().logged.unlogged()
    }

    /// Begins to log a statement; `false` when it was overtaken. Called, like [`Completion::carried`], by the thread that holds the log.
    pub(super) fn carry(&self, statement: Statement) -> bool {
        self.change(|state| state.logged.carry(statement))
    }

    /// What was carried is in the log, durably, or it is not known whether it is.
    pub(super) fn carried(&self, is_logged: bool) {
        self.change(|state| state.logged.carried(is_logged));
    }

    /// Takes the disk for a door, for as long as the session is open in this process.
    ///
    /// # Errors
    /// The one that it belongs to, when that is another one.
    pub(super) fn claim(&self, door: Door) -> std::result::Result<(), Door> {
        self.door.claim(door)
    }

    /// The door that it belongs to, once one has written it.
    pub(super) fn door(&self) -> Option<Door> {
        self.door.door()
    }
}

/// Bytes on their way into a disk that is written as a file. Until it is dropped, nobody states that the disk is finished.
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
        // Refused by a rule, nothing was begun.
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
