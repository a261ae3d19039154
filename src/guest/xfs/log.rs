//! Reads the records of the log between its tail and its head, in the order in which they were written.
//!
//! # On-disk layout
//! Linux, `fs/xfs/libxfs/xfs_log_format.h`. A record is one or more header blocks, then its data, whose every block of 512 bytes has
//! its first word swapped with one in the header. A header, big-endian: magic 0xfeedbabe at 0, version 8, bytes of data 12, sequence
//! number 16, that of the tail 24 (cycle above, block below), checksum 32 (little-endian; 0: none), operations 40, words from 44, UUID
//! 304, size 320. Data is a sequence of operations: 12 bytes (transaction, length, client, flags), then a body. Bodies are in the byte
//! order of the guest; the crate refuses a log that is not little-endian.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use fs_core::BlockRead;
use fs_xfs::{Superblock, log};

use super::failure::{guard, translate};
use crate::error::Result;
use crate::guest::bytes::{array, be32, le32};
use crate::types::width::{u64_from_usize, usize_from_u32};

pub(super) const BLOCK_BYTES: usize = 512;
/// Words of data whose original is in one header block.
const WORDS: usize = 64;
/// LIMIT: data of one record (Linux: `XLOG_MAX_RECORD_BSIZE`).
const RECORD_BYTES_MAX: usize = 256 << 10;
/// LIMIT: header blocks of one record, by its data.
const HEADERS_MAX: usize = 8;
/// Flags of an operation: start of a transaction, its commit, continued in the next record, continued from
/// the last one, end of a continued one, unmount.
pub(super) const START: u8 = 1;
pub(super) const COMMIT: u8 = 2;
pub(super) const CONTINUES: u8 = 4;
pub(super) const CONTINUED: u8 = 8;
pub(super) const ENDED: u8 = 16;
pub(super) const UNMOUNT: u8 = 32;
/// The type of an inode item.
pub(super) const INODE_ITEM: u16 = 0x123b;

/// The end of a walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// At the newest record.
    Whole,
    /// At an invalid record: the kernel ends the log before it when it is one of the newest.
    Broken {
        /// Basic block of the log.
        block: u64,
        /// The fault.
        reason: String,
    },
}

/// A record with a right checksum, if it has one.
pub(super) struct Record<'a> {
    /// Basic block of the log at which it begins.
    pub(super) block: u64,
    /// Whether it has a checksum.
    pub(super) is_sealed: bool,
    count: u32,
    data: &'a [u8],
}

/// An operation of a record.
pub(super) struct Operation<'a> {
    pub(super) transaction: u32,
    pub(super) flags: u8,
    pub(super) body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its complete operations.
    pub(super) fn operations(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut data = self.data;
        let count = usize_from_u32(self.count);
        std::iter::from_fn(move || {
            let (head, rest) = data.split_first_chunk::<12>()?;
            let (body, rest) = rest.split_at_checked(usize_from_u32(be32(head, 4)?))?;
            data = rest;
            Some(Operation {
                transaction: be32(head, 0)?,
                flags: head.get(9).copied()?,
                body,
            })
        })
        .take(count)
    }
}

/// The ring of blocks.
struct Ring<'a> {
    device: &'a dyn BlockRead,
    start: u64,
    blocks: u64,
}

impl Ring<'_> {
    /// `count` blocks from `block` on.
    fn read(&self, block: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count.saturating_mul(BLOCK_BYTES)];
        for (part, n) in bytes.chunks_exact_mut(BLOCK_BYTES).zip(0..) {
            let block = block.saturating_add(n).checked_rem(self.blocks);
            let at = block
                .unwrap_or(0)
                .saturating_mul(u64_from_usize(BLOCK_BYTES));
            self.device
                .read_at(self.start.saturating_add(at), part)
                .map_err(|error| translate(error.into()))?;
        }
        Ok(bytes)
    }
}

/// Header and data of a record, or its fault.
struct Read {
    headers: Vec<u8>,
    data: Vec<u8>,
    length: usize,
    count: u32,
    is_sealed: bool,
}

fn read(ring: &Ring<'_>, sb: &Superblock, at: u64) -> Result<std::result::Result<Read, String>> {
    let first = ring.read(at, 1)?;
    let (Some(magic), Some(version), Some(length), Some(checksum), Some(count), Some(buffer)) = (
        array::<4>(&first, 0),
        be32(&first, 8),
        be32(&first, 12),
        le32(&first, 32),
        be32(&first, 40),
        be32(&first, 320),
    ) else {
        return Ok(Err("none".to_owned()));
    };
    if magic != [0xfe, 0xed, 0xba, 0xbe] || array(&first, 304) != Some(sb.uuid) {
        return Ok(Err("none".to_owned()));
    }
    let length = usize_from_u32(length);
    if length > RECORD_BYTES_MAX {
        return Ok(Err(format!(
            "one of {length} bytes, at most {RECORD_BYTES_MAX} are one"
        )));
    }
    let is_multiple = version & 2 != 0;
    let headers = if is_multiple {
        usize_from_u32(buffer)
            .div_ceil(WORDS.saturating_mul(BLOCK_BYTES))
            .max(1)
    } else {
        1
    };
    let needed = length.div_ceil(WORDS.saturating_mul(BLOCK_BYTES));
    if headers > HEADERS_MAX || (is_multiple && needed > headers) {
        return Ok(Err(format!(
            "one of {length} bytes behind {headers} header blocks"
        )));
    }
    let blocks = length.div_ceil(BLOCK_BYTES);
    let headers_read = ring.read(at, headers)?;
    let data = ring.read(at.saturating_add(u64_from_usize(headers)), blocks)?;
    let covered = data.get(..length).unwrap_or_default();
    let is_sealed = checksum != 0;
    if is_sealed && guard(|| Ok(log::record_checksum(&headers_read, covered)))? != checksum {
        return Ok(Err("one whose checksum is another".to_owned()));
    }
    Ok(Ok(Read {
        headers: headers_read,
        data,
        length,
        count,
        is_sealed,
    }))
}

/// Passes each record to `visit`, from the tail, which the newest record names, to the newest record.
///
/// # Errors
/// `Io`; `Corrupt` when the log has no records; errors of `visit`.
pub(super) fn walk(
    device: &dyn BlockRead,
    sb: &Superblock,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<()>,
) -> Result<Walk> {
    let head = guard(|| log::head(device, sb).map_err(translate))?;
    let bytes = u64::from(sb.logblocks).saturating_mul(u64::from(sb.blocksize));
    let ring = Ring {
        device,
        start: sb.fsblock_offset(sb.logstart),
        blocks: bytes.checked_div(u64_from_usize(BLOCK_BYTES)).unwrap_or(0),
    };
    let newest = u64::from(head.prev_block);
    let broken = |block: u64, reason: String| Ok(Walk::Broken { block, reason });
    if newest >= ring.blocks {
        return broken(newest, "none".to_owned());
    }
    let mut at = be32(&ring.read(newest, 1)?, 28).map_or(0, u64::from);
    // Records with more blocks than the ring would overlap.
    let mut left = ring.blocks;
    loop {
        let mut record = match read(&ring, sb, at)? {
            Ok(record) => record,
            Err(reason) => return broken(at, reason),
        };
        let blocks = record.headers.len().saturating_add(record.data.len());
        let blocks = u64_from_usize(blocks.checked_div(BLOCK_BYTES).unwrap_or(0));
        let Some(rest) = left.checked_sub(blocks) else {
            return broken(at, "one that lies on others".to_owned());
        };
        left = rest;
        restore_words(&record.headers, &mut record.data);
        visit(&Record {
            block: at,
            is_sealed: record.is_sealed,
            count: record.count,
            data: record.data.get(..record.length).unwrap_or_default(),
        })?;
        if at == newest {
            return Ok(Walk::Whole);
        }
        let next = at.saturating_add(blocks);
        at = next.checked_rem(ring.blocks).unwrap_or(0);
    }
}

/// Restores the first word of each block.
fn restore_words(headers: &[u8], data: &mut [u8]) {
    for (block, n) in data.chunks_exact_mut(BLOCK_BYTES).zip(0usize..) {
        let (header, word) = (
            n.checked_div(WORDS).unwrap_or(0),
            n.checked_rem(WORDS).unwrap_or(0),
        );
        let base = if header == 0 { 44 } else { 4 };
        let at = header
            .saturating_mul(BLOCK_BYTES)
            .saturating_add(base)
            .saturating_add(word.saturating_mul(4));
        if let (Some(to), Some(from)) = (block.get_mut(..4), headers.get(at..at.saturating_add(4)))
        {
            to.copy_from_slice(from);
        }
    }
}
