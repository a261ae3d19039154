//! The last word on a disk: whether its log says that it is finished.
//!
//! # Invariants
//! - That a disk is finished is logged with or after all that was written before it was said: a flush that had begun by then leaves it to
//!   the next one.
//! - Words are logged in the order in which they were said; one that was overtaken is not logged.
//! - Nobody says that a disk is finished while bytes are on their way into its file: they may come after a sync that has begun by then.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use super::record::Record;
use crate::types::sync::Mutex;

/// A word, and which one it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spoken {
    finished: bool,
    number: u64,
}

impl Spoken {
    pub(super) const fn record(self) -> Record {
        Record::State {
            finished: self.finished,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    last: Spoken,
    /// What the log says.
    logged: Spoken,
    /// What is being logged now.
    carried: Option<Spoken>,
    /// Whether a word may be in the log or not: it could not be made durable.
    is_unsure: bool,
    /// Writes through the tree that are under way.
    writes: u64,
}

impl Inner {
    fn stands(&self) -> bool {
        self.logged.finished || self.carried.is_some_and(|word| word.finished)
    }
}

/// Whether a disk is finished, as its log says it.
#[derive(Debug, Default)]
pub(super) struct Word {
    inner: Mutex<Inner>,
    /// Whether it was said last, or stands in the log, that the disk is finished: for those who write.
    is_bound: AtomicBool,
}

impl Word {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    fn note(&self, inner: &Inner) {
        let is_bound = inner.last.finished || inner.stands();
        self.is_bound.store(is_bound, Ordering::SeqCst);
    }

    /// What a log said that is read again.
    pub(super) fn resumed(&self, finished: bool) {
        let mut inner = self.inner();
        inner.last.finished = finished;
        inner.logged.finished = finished;
        self.note(&inner);
    }

    /// Begins a write into the file.
    pub(super) fn enter(&self) -> Writing<'_> {
        self.inner().writes += 1;
        Writing(self)
    }

    /// Says it; the next flush makes it durable.
    pub(super) fn say(&self, finished: bool) {
        let mut inner = self.inner();
        if finished && inner.writes > 0 {
            return;
        }
        if inner.last.finished != finished {
            inner.last = Spoken {
                finished,
                number: inner.last.number + 1,
            };
            self.note(&inner);
        }
    }

    /// Takes back that it is finished. Answers whether a flush is needed until the log does not say so any more.
    pub(super) fn take_back(&self) -> bool {
        if !self.is_bound.load(Ordering::SeqCst) {
            return false;
        }
        self.say(false);
        self.inner().stands()
    }

    /// What is to be logged. A flush asks before it looks at what was written.
    pub(super) fn unlogged(&self) -> Option<Spoken> {
        let inner = self.inner();
        let differs = inner.last.finished != inner.logged.finished
            || inner.carried.is_some()
            || inner.is_unsure;
        (differs && inner.last.number > inner.logged.number).then_some(inner.last)
    }

    /// Begins to log a word; `false` when it was overtaken. Called, like [`Word::carried`], by who holds the log.
    pub(super) fn carry(&self, word: Spoken) -> bool {
        let mut inner = self.inner();
        if word != inner.last || word.number <= inner.logged.number {
            return false;
        }
        inner.carried = Some(word);
        self.note(&inner);
        true
    }

    /// What was carried is in the log, durably, or it is not known whether it is.
    pub(super) fn carried(&self, is_logged: bool) {
        let mut inner = self.inner();
        match inner.carried.take() {
            Some(word) if is_logged => {
                inner.logged = word;
                inner.is_unsure = false;
            }
            Some(word) => {
                inner.logged.finished |= word.finished;
                inner.is_unsure = true;
            }
            None => {}
        }
        self.note(&inner);
    }
}

/// Bytes on their way into a disk that is written as a file. Until it is dropped, nobody says that the disk is finished.
pub struct Writing<'a>(&'a Word);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.writes = inner.writes.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::Word;

    fn flush(word: &Word) {
        if let Some(spoken) = word.unlogged() {
            assert!(word.carry(spoken));
            word.carried(true);
        }
    }

    #[test]
    fn a_word_that_was_overtaken_is_not_logged() {
        let word = Word::default();
        assert!(word.unlogged().is_none());
        word.say(true);
        let early = word.unlogged().unwrap();
        word.say(false);
        assert!(!word.carry(early));
        // The log says it already.
        assert!(word.unlogged().is_none());
    }

    #[test]
    fn what_is_on_its_way_into_the_log_is_taken_back_there() {
        let word = Word::default();
        word.say(true);
        assert!(word.carry(word.unlogged().unwrap()));
        assert!(word.take_back());
        let late = word.unlogged().unwrap();
        word.carried(true);
        assert!(word.take_back() && word.carry(late));
        word.carried(true);
        assert!(!word.take_back() && word.unlogged().is_none());
    }

    #[test]
    fn what_may_have_reached_the_log_is_taken_back_there_and_what_nobody_carried_is_not() {
        let word = Word::default();
        word.say(true);
        assert!(!word.take_back());
        word.say(true);
        assert!(word.carry(word.unlogged().unwrap()));
        word.carried(false);
        assert!(word.take_back());
        flush(&word);
        assert!(!word.take_back());
    }

    #[test]
    fn it_stands_until_the_contrary_is_logged() {
        let word = Word::default();
        word.resumed(true);
        word.say(true);
        assert!(word.unlogged().is_none());
        assert!(word.take_back() && word.take_back());
        flush(&word);
        assert!(!word.take_back());
        word.say(true);
        flush(&word);
        assert!(word.take_back());
    }

    /// It was taken for logged, and whoever said it again was told that it is.
    #[test]
    fn what_may_not_have_reached_the_log_is_logged_again() {
        let word = Word::default();
        word.say(true);
        assert!(word.carry(word.unlogged().unwrap()));
        word.carried(false);
        word.say(true);
        assert!(word.unlogged().is_some());
        flush(&word);
        assert!(word.unlogged().is_none());
    }

    #[test]
    fn nobody_says_it_while_bytes_are_on_their_way() {
        let word = Word::default();
        let (one, other) = (word.enter(), word.enter());
        word.say(true);
        drop(one);
        word.say(true);
        assert!(word.unlogged().is_none());
        drop(other);
        word.say(true);
        assert!(word.unlogged().is_some());
    }
}
