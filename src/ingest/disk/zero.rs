//! Zeroes and discards: they store no data, and no mapping where no parent data could be read
//! through.

use super::DiskWriter;
use crate::block::check_range;
use crate::error::Result;
use crate::repo::content::{CLUSTER_BYTES, REGION_BYTES};
use crate::types::width::usize_from_u64;

impl DiskWriter {
    /// Writes zeroes. Also handles TRIM: discarded bytes read as zero.
    ///
    /// # Errors
    /// As [`DiskWriter::write`].
    pub fn zero(&self, offset: u64, length_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset, length_bytes)?;
        if length_bytes == 0 {
            return Ok(());
        }
        let end = offset + length_bytes;
        let zeroed = self.zero_range(offset, end);
        self.completion.note_range(offset..end, &zeroed);
        zeroed
    }

    fn zero_range(&self, offset: u64, end: u64) -> Result<()> {
        let _gate = self.enter()?;
        let zeroed = self.zero_regions(offset, end);
        self.note_change();
        zeroed?;
        self.relieve()
    }

    /// Zeroes one region at a time, so that zeroing a disk does not hold all of its ranges at once.
    fn zero_regions(&self, offset: u64, end: u64) -> Result<()> {
        let mut at = offset;
        while at < end {
            let stop = ((at / REGION_BYTES + 1) * REGION_BYTES).min(end);
            self.zero_in_region(at, stop)?;
            at = stop;
        }
        Ok(())
    }

    fn zero_in_region(&self, from: u64, end: u64) -> Result<()> {
        let _range = self
            .ranges
            .hold(from / CLUSTER_BYTES, end.div_ceil(CLUSTER_BYTES));
        let whole_from = from.next_multiple_of(CLUSTER_BYTES);
        let whole_end = if end == self.size_bytes() {
            end.next_multiple_of(CLUSTER_BYTES)
        } else {
            end - end % CLUSTER_BYTES
        };
        if whole_from >= whole_end {
            return self.zero_part(from, end);
        }
        if from < whole_from {
            self.zero_part(from, whole_from)?;
        }
        let (first, last) = (whole_from / CLUSTER_BYTES, whole_end / CLUSTER_BYTES);
        self.draft.zero(first..last, self)?;
        self.gather.forget(first, last);
        if whole_end < end {
            self.zero_part(whole_end, end)
        } else {
            Ok(())
        }
    }

    /// Zeroes a range that lies within one or two clusters and covers none.
    fn zero_part(&self, from: u64, end: u64) -> Result<()> {
        static ZEROES: [u8; 65_536] = [0; 65_536];
        let mut at = from;
        while at < end {
            let stop = ((at / CLUSTER_BYTES + 1) * CLUSTER_BYTES).min(end);
            self.write_part(
                at,
                ZEROES.get(..usize_from_u64(stop - at)).unwrap_or(&ZEROES),
            )?;
            at = stop;
        }
        Ok(())
    }
}
