//! When a disk is finished: the rule by which two instants are never mixed silently.
//!
//! A disk that was written over NBD is finished when its last connections ended with `NBD_CMD_DISC`. A
//! connection that ends otherwise makes it unfinished until one that was opened later ends with `DISC`.
//! Connections that neither wrote nor flushed say nothing.
//! What could not be written, and was not written again since, keeps it unfinished however its connection ended: `qemu-img convert` says
//! a proper goodbye also after ENOSPC.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::{ErrorKind, Result};

/// LIMIT: ranges that could not be written of which each is known (16 bytes each); beyond that, all between them counts as well.
const LOST_MAX: usize = 4096;

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
    /// Ranges whose last write failed.
    lost: Vec<Range<u64>>,
}

/// Ranges without what was written.
fn without(lost: &[Range<u64>], written: &Range<u64>) -> Vec<Range<u64>> {
    lost.iter()
        .flat_map(|range| {
            [
                range.start..range.end.min(written.start),
                range.start.max(written.end)..range.end,
            ]
        })
        .filter(|range| !range.is_empty())
        .collect()
}

/// The state of one disk.
#[derive(Debug, Default)]
pub(super) struct Finish {
    inner: Mutex<Inner>,
}

impl Finish {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A range was written, or could not be.
    pub(super) fn note(&self, written: Range<u64>, result: &Result<()>) {
        let mut inner = self.inner();
        match result.as_ref().map_err(|e| e.kind()) {
            Ok(()) if inner.lost.is_empty() => {}
            Ok(()) => inner.lost = without(&inner.lost, &written),
            Err(ErrorKind::NoSpace | ErrorKind::Io | ErrorKind::Corrupt) => {
                inner.lost.push(written)
            }
            // It was refused: the session's state or the request's.
            Err(_) => {}
        }
        if inner.lost.len() > LOST_MAX {
            let start = inner.lost.iter().map(|range| range.start).min();
            let end = inner.lost.iter().map(|range| range.end).max();
            inner.lost = start
                .zip(end)
                .map(|(start, end)| start..end)
                .into_iter()
                .collect();
        }
    }

    pub(super) fn set(&self, finished: bool) {
        let mut inner = self.inner();
        inner.lost.clear();
        inner.finished = finished;
        inner.died = None;
    }

    pub(super) fn is_finished(&self) -> bool {
        let inner = self.inner();
        inner.finished && inner.died.is_none() && inner.writing == 0 && inner.lost.is_empty()
    }

    pub(super) fn writers(&self) -> u64 {
        self.inner().writing
    }
}

#[cfg(test)]
mod tests {
    use super::Finish;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn what_could_not_be_written_is_written_again_first() {
        let finish = Finish::default();
        let full = || Err(Error::new(ErrorKind::NoSpace, "full"));
        let number = writer(&finish);
        finish.note(100..200, &full());
        finish.note(300..400, &full());
        finish.close(number, true, true);
        assert!(!finish.is_finished());
        let number = writer(&finish);
        finish.note(0..150, &Ok(()));
        finish.note(160..350, &Ok(()));
        finish.close(number, true, true);
        assert!(!finish.is_finished());
        finish.note(150..160, &Ok(()));
        assert!(!finish.is_finished());
        finish.note(340..1000, &Ok(()));
        assert!(finish.is_finished());
        finish.note(0..1, &Err(Error::new(ErrorKind::ReadOnly, "too late")));
        assert!(finish.is_finished());
    }

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
