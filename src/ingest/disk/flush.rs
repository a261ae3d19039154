//! Making written data durable, and changing the size of a disk.

use std::sync::atomic::Ordering;

use super::DiskWriter;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::record::Record;
use crate::types::width::{u64_from_usize, usize_from_u64};

impl DiskWriter {
    /// Makes all earlier writes durable: data first, then the records that name it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: writes since the last flush may then be lost; `Corrupt` (the parent).
    pub fn flush(&self) -> Result<()> {
        let _gate = self.gate.read();
        if self.sealed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.flush_gated()
    }

    /// [`DiskWriter::flush`] for a caller that holds the gate.
    pub(in crate::ingest) fn flush_gated(&self) -> Result<()> {
        self.check_durable()?;
        let statement = self.completion.unlogged();
        for cluster in self.gather.clusters() {
            self.complete(cluster)?;
        }
        // Flushes take turns: a second flush must not answer before the first one's records are
        // durable.
        let mut log = self.log.lock();
        let mut taken = std::mem::take(&mut *self.pending.lock());
        let stored = self.counters.stored.load(Ordering::Relaxed);
        let synced = self.draft.flush();
        if synced.is_err() {
            self.is_unsure.store(true, Ordering::SeqCst);
        }
        let statement = statement.filter(|statement| self.completion.carry(*statement));
        if let Some(statement) = statement {
            taken.push(statement.record());
        }
        let done = synced.and_then(|()| {
            if taken.is_empty() {
                Ok(())
            } else {
                log.append(&taken)
            }
        });
        self.completion.carried(done.is_ok());
        if done.is_ok() {
            self.counters.flushed.fetch_max(stored, Ordering::Relaxed);
        } else {
            if statement.is_some() {
                // The statement is made again if it still holds then.
                taken.pop();
            }
            self.pending.lock().put_back(taken);
        }
        done.at_path(self.meta.layer.open_file())
    }

    /// Bytes written to the layer since the last flush.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        let flushed = self.counters.flushed.load(Ordering::Relaxed);
        self.stats().stored_bytes.saturating_sub(flushed)
    }

    /// Whether there is anything to flush.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        let pending = self.pending.lock();
        !pending.is_empty()
            || self.completion.unlogged().is_some()
            || !self.gather.is_empty()
            || self.unflushed_bytes() > 0
    }

    /// Sets the size: `source_bytes` is what the tree and restore show; the guest's disk is padded
    /// to a multiple of 512. When the disk grows again, bytes beyond its smallest size in between
    /// read as zero.
    ///
    /// # Errors
    /// `ReadOnly` once sealed; `InvalidInput` for a size that QCOW2 cannot have; `NoSpace`, `Io`.
    pub fn set_size(&self, source_bytes: u64) -> Result<()> {
        let _turn = self.sizing.lock();
        self.resize(source_bytes)
    }

    /// Writes bytes as into a file: a write beyond the end makes the disk grow.
    ///
    /// # Errors
    /// As [`DiskWriter::write`] and [`DiskWriter::set_size`].
    pub fn write_growing(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.grow(offset, u64_from_usize(bytes.len()))?;
        self.write(offset, bytes)
    }

    /// Grows the disk, if needed, so that it holds `length_bytes` at `offset`.
    ///
    /// # Errors
    /// As [`DiskWriter::set_size`].
    pub fn grow(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let end = offset
            .checked_add(length_bytes)
            .ok_or_else(|| Error::new(ErrorKind::TooLarge, "the file would be too large"))?;
        if end <= self.source_bytes() {
            return Ok(());
        }
        let _turn = self.sizing.lock();
        if end > self.source_bytes() {
            self.resize(end)?;
        }
        Ok(())
    }

    fn resize(&self, source_bytes: u64) -> Result<()> {
        let size_bytes = source_bytes
            .checked_next_multiple_of(512)
            .filter(|size| *size <= crate::qcow2::writer::SIZE_BYTES_MAX)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::TooLarge,
                    format!("{source_bytes} bytes are too large for QCOW2"),
                )
            })?;
        let (old, shown) = (self.size_bytes(), self.source_bytes());
        if source_bytes < shown {
            self.zero(source_bytes, old - source_bytes)?;
            self.flush()?;
        } else {
            self.zero_padding(shown, old)?;
        }
        let _gate = self.enter()?;
        // The layer keeps the largest size until the seal: it must not forget zeroes beyond the
        // end.
        if size_bytes > self.draft.size_bytes() {
            self.draft.set_size(size_bytes)?;
        }
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
        self.source_bytes.store(source_bytes, Ordering::SeqCst);
        self.note_change();
        self.push_record(Record::Size {
            size_bytes,
            source_bytes,
        });
        Ok(())
    }

    /// Zeroes the bytes between the end of the source and the end of its last sector: a client that
    /// sees whole sectors may have written there.
    fn zero_padding(&self, from: u64, end: u64) -> Result<()> {
        let mut padding = vec![0; usize_from_u64(end.saturating_sub(from))];
        self.read_at(from, &mut padding)?;
        if padding.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.zero(from, end - from)
    }
}
