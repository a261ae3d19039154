//! What the record log of a disk records about its completion, which is what is known after a
//! crash.
//!
//! # Invariants
//! - The log records that a disk is finished together with, or after, everything written before
//!   that statement. A flush that had begun before the statement leaves it to the next flush.
//! - Statements are logged in the order in which they were made; a statement that a later one
//!   overtook is not logged.
//! - Nobody states that a disk is finished while bytes are on their way into its file: they may
//!   arrive after a sync that has already begun.

use crate::ingest::record::Record;

/// A statement (finished or not), with its number.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingest) struct Statement {
    finished: bool,
    number: u64,
}

impl Statement {
    pub(in crate::ingest) const fn record(self) -> Record {
        Record::State {
            finished: self.finished,
        }
    }
}

/// Whether a disk is finished according to its log.
#[derive(Debug, Default)]
pub(super) struct Logged {
    last: Statement,
    /// The statement in the log.
    logged: Statement,
    /// The statement that is being logged now.
    carried: Option<Statement>,
    /// Whether it is unknown if a statement is in the log, because it could not be made durable.
    is_unsure: bool,
    /// Running writes through the tree.
    writes: u64,
}

impl Logged {
    /// Whether the log records, or may record, that the disk is finished.
    pub(super) fn stands(&self) -> bool {
        self.logged.finished || self.carried.is_some_and(|it| it.finished)
    }

    /// Whether the last statement, or the one in the log, is that the disk is finished. Writers ask
    /// this.
    pub(super) fn is_bound(&self) -> bool {
        self.last.finished || self.stands()
    }

    /// Sets the statement that a reopened log contains.
    pub(super) const fn resumed(&mut self, finished: bool) {
        self.last.finished = finished;
        self.logged.finished = finished;
    }

    /// Begins a write into the file.
    pub(super) const fn enter(&mut self) {
        self.writes += 1;
    }

    /// Ends a write into the file.
    pub(super) const fn leave(&mut self) {
        self.writes = self.writes.saturating_sub(1);
    }

    /// States whether the disk is finished; the next flush makes the statement durable.
    pub(super) fn state(&mut self, finished: bool) {
        if finished && self.writes > 0 {
            return;
        }
        if self.last.finished != finished {
            self.last = Statement {
                finished,
                number: self.last.number + 1,
            };
        }
    }

    /// The statement to log, if any. A flush must ask for it before it looks at what was written.
    pub(super) fn unlogged(&self) -> Option<Statement> {
        let differs =
            self.last.finished != self.logged.finished || self.carried.is_some() || self.is_unsure;
        (differs && self.last.number > self.logged.number).then_some(self.last)
    }

    /// Begins to log a statement; returns `false` when a later one has overtaken it.
    pub(super) fn carry(&mut self, statement: Statement) -> bool {
        if statement != self.last || statement.number <= self.logged.number {
            return false;
        }
        self.carried = Some(statement);
        true
    }

    /// Ends the logging of the carried statement: it is durably in the log, or, without
    /// `is_logged`, that is unknown.
    pub(super) fn carried(&mut self, is_logged: bool) {
        match self.carried.take() {
            Some(statement) if is_logged => {
                self.logged = statement;
                self.is_unsure = false;
            }
            Some(statement) => {
                self.logged.finished |= statement.finished;
                self.is_unsure = true;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Logged;

    /// As [`super::super::Completion::take_back`] does.
    fn take_back(log: &mut Logged) -> bool {
        if !log.is_bound() {
            return false;
        }
        log.state(false);
        log.stands()
    }

    fn flush(log: &mut Logged) {
        if let Some(statement) = log.unlogged() {
            assert!(log.carry(statement));
            log.carried(true);
        }
    }

    #[test]
    fn a_word_that_was_overtaken_is_not_logged() {
        let mut log = Logged::default();
        assert!(log.unlogged().is_none());
        log.state(true);
        let early = log.unlogged().unwrap();
        log.state(false);
        assert!(!log.carry(early));
        // The log already has this statement.
        assert!(log.unlogged().is_none());
    }

    #[test]
    fn what_is_on_its_way_into_the_log_is_taken_back_there() {
        let mut log = Logged::default();
        log.state(true);
        let statement = log.unlogged().unwrap();
        assert!(log.carry(statement));
        assert!(take_back(&mut log));
        let late = log.unlogged().unwrap();
        log.carried(true);
        assert!(take_back(&mut log) && log.carry(late));
        log.carried(true);
        assert!(!take_back(&mut log) && log.unlogged().is_none());
    }

    #[test]
    fn what_may_have_reached_the_log_is_taken_back_there_and_what_nobody_carried_is_not() {
        let mut log = Logged::default();
        log.state(true);
        assert!(!take_back(&mut log));
        log.state(true);
        let statement = log.unlogged().unwrap();
        assert!(log.carry(statement));
        log.carried(false);
        assert!(take_back(&mut log));
        flush(&mut log);
        assert!(!take_back(&mut log));
    }

    #[test]
    fn it_stands_until_the_contrary_is_logged() {
        let mut log = Logged::default();
        log.resumed(true);
        log.state(true);
        assert!(log.unlogged().is_none());
        assert!(take_back(&mut log) && take_back(&mut log));
        flush(&mut log);
        assert!(!take_back(&mut log));
        log.state(true);
        flush(&mut log);
        assert!(take_back(&mut log));
    }

    /// Regression: an unsure statement was taken for logged, so a repeated statement was reported
    /// as durable.
    #[test]
    fn what_may_not_have_reached_the_log_is_logged_again() {
        let mut log = Logged::default();
        log.state(true);
        let statement = log.unlogged().unwrap();
        assert!(log.carry(statement));
        log.carried(false);
        log.state(true);
        assert!(log.unlogged().is_some());
        flush(&mut log);
        assert!(log.unlogged().is_none());
    }

    #[test]
    fn nobody_says_it_while_bytes_are_on_their_way() {
        let mut log = Logged::default();
        log.enter();
        log.enter();
        log.state(true);
        log.leave();
        log.state(true);
        assert!(log.unlogged().is_none());
        log.leave();
        log.state(true);
        assert!(log.unlogged().is_some());
    }
}
