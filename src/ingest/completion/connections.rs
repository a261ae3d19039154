//! The NBD connections of a disk: when their end leaves the disk finished.
//!
//! The disk is finished when its last connections ended with `NBD_CMD_DISC`. A connection that ends
//! otherwise makes the disk unfinished until a connection that was opened later ends with
//! `NBD_CMD_DISC`. A connection that neither wrote nor flushed has no effect.

/// The connections of one disk.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Connections opened so far; a connection's number is its position in this count.
    opened: u64,
    /// Connections open now that have written or flushed.
    writing: u64,
    /// The number of the newest connection at the time when one died.
    died: Option<u64>,
    finished: bool,
}

impl Connections {
    pub(super) const fn is_finished(&self) -> bool {
        self.finished && self.died.is_none() && self.writing == 0
    }

    pub(super) const fn writing(&self) -> u64 {
        self.writing
    }

    /// Opens a connection; returns its number.
    pub(super) const fn open(&mut self) -> u64 {
        self.opened += 1;
        self.opened
    }

    /// Records that a connection writes for the first time: the disk is not finished any more.
    pub(super) const fn begin_writing(&mut self) {
        self.writing += 1;
        self.finished = false;
    }

    pub(super) fn close(&mut self, number: u64, wrote: bool, clean: bool) {
        if !wrote {
            return;
        }
        self.writing = self.writing.saturating_sub(1);
        if !clean {
            self.died = Some(self.opened);
            self.finished = false;
        } else if self.died.is_none_or(|died| number > died) {
            self.died = None;
            self.finished = true;
        }
    }

    pub(super) const fn set(&mut self, finished: bool) {
        self.finished = finished;
        self.died = None;
    }
}

#[cfg(test)]
mod tests {
    use super::Connections;

    fn writer(finish: &mut Connections) -> u64 {
        let number = finish.open();
        finish.begin_writing();
        number
    }

    #[test]
    fn one_of_four_that_dies_leaves_the_disk_unfinished_until_a_later_one_ends_well() {
        for dying in 0..4 {
            let mut finish = Connections::default();
            let all: Vec<u64> = (0..4).map(|_| writer(&mut finish)).collect();
            for (ix, number) in all.iter().enumerate() {
                finish.close(*number, true, ix != dying);
            }
            assert!(!finish.is_finished(), "{dying}");
            let later = writer(&mut finish);
            assert!(!finish.is_finished());
            finish.close(later, true, true);
            assert!(finish.is_finished());
        }
    }

    #[test]
    fn a_disk_is_not_finished_while_somebody_still_writes() {
        let mut finish = Connections::default();
        let (first, second) = (writer(&mut finish), writer(&mut finish));
        finish.close(first, true, true);
        assert!(!finish.is_finished());
        finish.close(second, true, true);
        assert!(finish.is_finished());
    }

    #[test]
    fn a_look_says_nothing() {
        let mut finish = Connections::default();
        let look = finish.open();
        finish.close(look, false, true);
        assert!(!finish.is_finished());
        finish.set(true);
        let look = finish.open();
        finish.close(look, false, false);
        assert!(finish.is_finished());
    }
}
