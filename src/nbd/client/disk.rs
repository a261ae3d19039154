//! Implements the disk traits for an export.

use std::sync::atomic::Ordering;

use super::window::Window;
use super::{Client, Want};
use crate::block::piece::Changes;
use crate::block::{Extent, ExtentKind, ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::command::Command;
use crate::nbd::proto::flag::TransmissionFlags;
use crate::types::width::{u64_from_usize, usize_from_u64};

impl ReadAt for Client {
    fn size_bytes(&self) -> u64 {
        self.facts.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.facts.size_bytes, offset, u64_from_usize(buf.len()))?;
        self.read_pieces(offset, buf).at_path(self.uri.shown())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.facts.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        let unknown = |length: u64| Extent {
            kind: ExtentKind::Data,
            length_bytes: length.min(length_max),
        };
        if self.is_blind.load(Ordering::Relaxed) {
            return Ok(unknown(length_max));
        }
        let known = |window: &Window| window.at(offset, length_max);
        if let Some(extent) = known(&self.window.lock()) {
            return Ok(extent);
        }
        let generation = self.generation.load(Ordering::SeqCst);
        let window = match self.load_window(offset) {
            Ok(window) => window,
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) => {
                tracing::warn!(uri = %self.uri.shown(), error = %e.report(), "the NBD server does not report holes: everything is read");
                self.is_blind.store(true, Ordering::Relaxed);
                return Ok(unknown(length_max));
            }
            Err(e) => return Err(e.at_path(self.uri.shown())),
        };
        // An extent shorter than a block is ignored.
        let extent = known(&window).unwrap_or_else(|| unknown(self.block_bytes()));
        let mut kept = self.window.lock();
        if self.generation.load(Ordering::SeqCst) == generation {
            *kept = window;
        }
        Ok(extent)
    }
}

impl WriteAt for Client {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let length = u64_from_usize(buf.len());
        self.check_write(offset, length)?;
        let end = offset + length;
        let (whole, stop) = self.split(offset, end);
        let part = |from: u64, to: u64| {
            buf.get(usize_from_u64(from - offset)..usize_from_u64(to - offset))
                .unwrap_or_default()
        };
        self.changing(|| {
            self.merge(offset, whole, |bytes| {
                bytes.copy_from_slice(part(offset, whole));
            })?;
            self.write_pieces(whole, part(whole, stop))?;
            self.merge(stop, end, |bytes| bytes.copy_from_slice(part(stop, end)))
        })
    }

    fn flush(&self) -> Result<()> {
        if !self.facts.flags.contains(TransmissionFlags::SEND_FLUSH) || self.is_read_only() {
            return Ok(());
        }
        self.send(Command::Flush, 0, 0, &[], Want::Nothing)
            .and_then(|flight| flight.done())
            .at_path(self.uri.shown())
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        if size_bytes == self.facts.size_bytes {
            return Ok(());
        }
        Err(
            Error::unsupported("the size of an NBD export cannot be changed")
                .at_path(self.uri.shown()),
        )
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let end = offset
            .saturating_add(length_bytes)
            .min(self.facts.size_bytes);
        if offset >= end {
            return Ok(());
        }
        self.check_write(offset, end - offset)?;
        let (whole, stop) = self.split(offset, end);
        self.changing(|| {
            self.merge(offset, whole, |bytes| bytes.fill(0))?;
            if whole < stop {
                self.zero_blocks(whole, stop)?;
            }
            self.merge(stop, end, |bytes| bytes.fill(0))
        })
    }
}

impl Changes for Client {
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        self.dirty_at(offset, length_max)
    }
}
