//! When a disk is finished: the rule by which two instants are never mixed silently.
//!
//! A disk that was written over NBD is finished when its last connections ended with `NBD_CMD_DISC`. A
//! connection that ends otherwise makes it unfinished until one that was opened later ends with `DISC`.
//! Connections that neither wrote nor flushed say nothing.

use crate::types::sync::Mutex;

#[derive(Debug, Default)]
struct Inner {
    /// Connections opened so far; a connection's number is its position in this count.
    opened: u64,
    /// Connections open now that have written or flushed.
    writing: u64,
    /// Connections open now.
    open: u64,
    /// The number of the newest connection at the time when one died.
    died: Option<u64>,
    finished: bool,
}

impl Inner {
    const fn is_finished(&self) -> bool {
        self.finished && self.died.is_none() && self.writing == 0
    }
}

/// The state of one disk.
#[derive(Debug, Default)]
pub(super) struct Finish {
    inner: Mutex<Inner>,
}

impl Finish {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(super) fn open(&self) -> u64 {
        let mut inner = self.inner();
        inner.opened += 1;
        inner.open += 1;
        inner.opened
    }

    /// A connection writes for the first time: whatever was finished is not any more.
    pub(super) fn begin_writing(&self) {
        let mut inner = self.inner();
        inner.writing += 1;
        inner.finished = false;
    }

    pub(super) fn close(&self, number: u64, wrote: bool, clean: bool) {
        let mut inner = self.inner();
        inner.open = inner.open.saturating_sub(1);
        if !wrote {
            return;
        }
        inner.writing = inner.writing.saturating_sub(1);
        if !clean {
            inner.died = Some(inner.opened);
            inner.finished = false;
        } else if inner.died.is_none_or(|died| number > died) {
            inner.died = None;
            inner.finished = true;
        }
    }

    pub(super) fn set(&self, finished: bool) {
        let mut inner = self.inner();
        inner.finished = finished;
        inner.died = None;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.inner().is_finished()
    }

    /// Does something while it is finished, and nobody can begin to write.
    pub(super) fn if_finished(&self, then: impl FnOnce()) {
        let inner = self.inner();
        if inner.is_finished() {
            then();
        }
    }

    pub(super) fn writers(&self) -> u64 {
        self.inner().writing
    }
}

#[cfg(test)]
mod tests {
    use super::Finish;

    fn writer(finish: &Finish) -> u64 {
        let number = finish.open();
        finish.begin_writing();
        number
    }

    #[test]
    fn one_of_four_that_dies_leaves_the_disk_unfinished_until_a_later_one_ends_well() {
        for dying in 0..4 {
            let finish = Finish::default();
            let all: Vec<u64> = (0..4).map(|_| writer(&finish)).collect();
            for (ix, number) in all.iter().enumerate() {
                finish.close(*number, true, ix != dying);
            }
            assert!(!finish.is_finished(), "{dying}");
            let later = writer(&finish);
            assert!(!finish.is_finished());
            finish.close(later, true, true);
            assert!(finish.is_finished());
        }
    }

    #[test]
    fn a_disk_is_not_finished_while_somebody_still_writes() {
        let finish = Finish::default();
        let (first, second) = (writer(&finish), writer(&finish));
        finish.close(first, true, true);
        assert!(!finish.is_finished());
        finish.close(second, true, true);
        assert!(finish.is_finished());
    }

    #[test]
    fn a_look_says_nothing() {
        let finish = Finish::default();
        let look = finish.open();
        finish.close(look, false, true);
        assert!(!finish.is_finished());
        finish.set(true);
        let look = finish.open();
        finish.close(look, false, false);
        assert!(finish.is_finished());
    }
}
