//! Reads the bytes of files, checks them against the checksum tree, and decompresses them.
//!
//! # Invariants
//! A sector with a wrong checksum, or an unreadable one, is read from another copy; without a good copy it is
//! damage. A sector that must have a checksum and has none is damage too, as in the kernel.
//!
//! # Concurrency
//! Two threads may fetch the same checksums, or decode the same extent; the later result replaces the
//! earlier.
//!
//! # Why
//! Checksums are fetched for a MiB at once, and decoded extents are cached. So a file that is read in order
//! is decoded once, and the cost does not grow with the position in it.

use std::sync::Arc;

use fs_btrfs::chunk::DiskKey;
use fs_btrfs::csum::{EXTENT_CSUM_KEY, EXTENT_CSUM_OBJECTID};

use super::decode::decode;
use super::extent::{Extents, Kind};
use super::pool::Pool;
use crate::block::Weighted;
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes of data for which checksums are fetched at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// LIMIT: bytes of checksums, and of decoded extents, that are cached per open filesystem.
const CHECKSUM_BYTES_KEPT: usize = 4 << 20;
const DECODED_BYTES_KEPT: usize = 32 << 20;
/// LIMIT: bytes of data read at once.
const PART_BYTES: u64 = 1 << 20;

/// The checksums of the sectors of a window in order; missing ones are marked.
struct Window {
    bytes: Vec<u8>,
    is_there: Vec<bool>,
}

/// Reads checked bytes.
pub(super) struct Data {
    /// Root of the tree of checksums.
    checksums: Option<u64>,
    windows: Weighted<u64, Arc<Window>>,
    decoded: Weighted<u64, Arc<[u8]>>,
}

impl Data {
    /// A reader with `checksums` as the root of the checksum tree.
    pub(super) fn new(checksums: Option<u64>) -> Self {
        Self {
            checksums,
            windows: Weighted::new(CHECKSUM_BYTES_KEPT),
            decoded: Weighted::new(DECODED_BYTES_KEPT),
        }
    }

    /// Fills `buf` with a file's bytes from `offset` on; the whole range is in extents or holes.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` when a device is missing, `Io`.
    pub(super) fn read(
        &self,
        pool: &Pool,
        extents: &Extents,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let wanted = u64_from_usize(rest.len());
            let extent = extents.at(at);
            let here = extent.filter(|extent| extent.start <= at);
            let length = match (here, extent) {
                (Some(extent), _) => extent.start + extent.length - at,
                (None, Some(next)) => next.start - at,
                (None, None) => wanted,
            };
            let length = length.min(wanted).min(PART_BYTES);
            let (part, after) = rest
                .split_at_mut_checked(usize_from_u64(length))
                .unwrap_or_default();
            match here {
                None => part.fill(0),
                Some(extent) => {
                    let within = at - extent.start;
                    self.read_kind(pool, &extent.kind, within, extents.is_checked, part)?;
                }
            }
            at += length;
            rest = after;
        }
        Ok(())
    }

    /// Fills `buf` from offset `within` of an extent on.
    fn read_kind(
        &self,
        pool: &Pool,
        kind: &Kind,
        within: u64,
        is_checked: bool,
        buf: &mut [u8],
    ) -> Result<()> {
        let slice = |bytes: &[u8], from: u64, buf: &mut [u8]| {
            let from = usize_from_u64(from);
            let part = bytes.get(from..).and_then(|rest| rest.get(..buf.len()));
            let part = part.ok_or_else(|| {
                Error::corrupt("btrfs: a decoded extent", "more bytes", bytes.len())
            })?;
            buf.copy_from_slice(part);
            Ok(())
        };
        match kind {
            Kind::Inline(bytes) => slice(bytes, within, buf),
            Kind::Plain(logical) => self.read_aligned(pool, logical + within, is_checked, buf),
            Kind::Packed {
                logical,
                length,
                decoded,
                offset,
                method,
            } => {
                let bytes = self.decoded.get_or(*logical, || {
                    let mut packed = vec![0; usize_from_u64(*length)];
                    self.read_checked(pool, *logical, is_checked, &mut packed)?;
                    let sector = u64::from(pool.superblock.sectorsize);
                    let bytes: Arc<[u8]> = decode(*method, &packed, *decoded, sector)?.into();
                    let weight = bytes.len();
                    Ok((bytes, weight))
                })?;
                slice(&bytes, offset + within, buf)
            }
        }
    }

    /// Reads any range; for checked data, the whole sectors around it.
    fn read_aligned(
        &self,
        pool: &Pool,
        logical: u64,
        is_checked: bool,
        buf: &mut [u8],
    ) -> Result<()> {
        let sector = u64::from(pool.superblock.sectorsize);
        let length = u64_from_usize(buf.len());
        let first = logical - logical % sector;
        let end = (logical + length).next_multiple_of(sector);
        if first == logical && end == logical + length {
            return self.read_checked(pool, logical, is_checked, buf);
        }
        let mut whole = vec![0; usize_from_u64(end - first)];
        self.read_checked(pool, first, is_checked, &mut whole)?;
        let from = usize_from_u64(logical - first);
        if let Some(part) = whole.get(from..from + buf.len()) {
            buf.copy_from_slice(part);
        }
        Ok(())
    }

    /// Reads whole sectors, each from a copy with the right checksum.
    fn read_checked(
        &self,
        pool: &Pool,
        logical: u64,
        is_checked: bool,
        buf: &mut [u8],
    ) -> Result<()> {
        let sector = u64::from(pool.superblock.sectorsize);
        // Reads the range from one copy, the first readable one (a device may be missing). A chunk may end
        // within the range, and the next chunk may have fewer copies: then sector by sector.
        let mut read = pool.read_data(logical, 0, buf);
        for copy in 1..pool.copies(logical)? {
            if read.is_ok() || pool.read_data(logical, copy, buf).is_err() {
                continue;
            }
            read = Ok(());
        }
        if read.is_ok() && !is_checked {
            return Ok(());
        }
        for (part, n) in buf.chunks_mut(usize_from_u64(sector)).zip(0..) {
            let at = logical + n * sector;
            if read.is_ok() && self.is_good(pool, at, part)? {
                continue;
            }
            self.read_sector(pool, at, is_checked, part).map_err(
                |error| match std::mem::replace(&mut read, Ok(())) {
                    Err(first) => first,
                    Ok(()) => error,
                },
            )?;
        }
        Ok(())
    }

    /// Reads a sector from any good copy.
    fn read_sector(
        &self,
        pool: &Pool,
        logical: u64,
        is_checked: bool,
        sector: &mut [u8],
    ) -> Result<()> {
        let mut first: Option<Error> = None;
        for copy in 0..pool.copies(logical)? {
            let error = match pool.read_data(logical, copy, sector) {
                Ok(()) if !is_checked || self.is_good(pool, logical, sector)? => return Ok(()),
                Ok(()) => Error::corrupt("btrfs: a sector of a file", "its checksum", "another")
                    .at_offset(logical),
                Err(error) => error,
            };
            first.get_or_insert(error);
        }
        Err(first.unwrap_or_else(|| Error::new(ErrorKind::Corrupt, "btrfs: data without a copy")))
    }

    /// Whether a sector matches its stored checksum.
    fn is_good(&self, pool: &Pool, logical: u64, sector: &[u8]) -> Result<bool> {
        let start = logical - logical % WINDOW_BYTES;
        let window = self.windows.get_or(start, || self.fetch(pool, start))?;
        let kind = pool.superblock.csum_type;
        let n = usize_from_u64((logical - start) / u64::from(pool.superblock.sectorsize));
        let stored = window
            .bytes
            .get(n * kind.digest_len()..(n + 1) * kind.digest_len());
        match (window.is_there.get(n), stored) {
            (Some(true), Some(stored)) => Ok(kind.verify(sector, stored)),
            _ => Err(
                Error::corrupt("btrfs: the checksum of a sector of a file", "one", "none")
                    .at_offset(logical),
            ),
        }
    }

    /// The checksums of a window.
    fn fetch(&self, pool: &Pool, start: u64) -> Result<(Arc<Window>, usize)> {
        let sector = u64::from(pool.superblock.sectorsize);
        let digest = pool.superblock.csum_type.digest_len();
        let count = usize_from_u64(WINDOW_BYTES / sector);
        let mut window = Window {
            bytes: vec![0; count * digest],
            is_there: vec![false; count],
        };
        let root = self.checksums.ok_or_else(|| {
            Error::corrupt("btrfs: the tree of roots", "a tree of checksums", "none")
        })?;
        let key = |offset| DiskKey {
            objectid: EXTENT_CSUM_OBJECTID,
            key_type: EXTENT_CSUM_KEY,
            offset,
        };
        let end = start.saturating_add(WINDOW_BYTES);
        pool.with_trees(|tree| {
            // An item covers many sectors: one that begins before the window may reach into it.
            let leaf = tree.descend(root, &key(start))?;
            let before = leaf.body.items().unwrap_or_default().iter().filter(|item| {
                item.key.objectid == EXTENT_CSUM_OBJECTID
                    && item.key.key_type == EXTENT_CSUM_KEY
                    && item.key.offset <= start
            });
            let from = before.map(|item| item.key.offset).max().unwrap_or(start);
            tree.for_each_from(root, &key(from), &mut |key: &DiskKey, data: &[u8]| {
                if key.objectid != EXTENT_CSUM_OBJECTID
                    || key.key_type != EXTENT_CSUM_KEY
                    || key.offset >= end
                {
                    return Ok(false);
                }
                for (bytes, n) in data.chunks_exact(digest).zip(0u64..) {
                    let at = key.offset.saturating_add(n.saturating_mul(sector));
                    let Some(n) = at.checked_sub(start).map(|at| usize_from_u64(at / sector))
                    else {
                        continue;
                    };
                    let place = window.bytes.get_mut(n.saturating_mul(digest)..);
                    if let Some(is_there) = window.is_there.get_mut(n)
                        && let Some(place) = place.and_then(|rest| rest.get_mut(..digest))
                    {
                        *is_there = true;
                        place.copy_from_slice(bytes);
                    }
                }
                Ok(true)
            })
        })?;
        let weight = window.bytes.len() + count;
        Ok((Arc::new(window), weight))
    }
}
