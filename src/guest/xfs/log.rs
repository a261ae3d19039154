//! Device numbers that only the log knows.
//!
//! # Why
//! The crate replays inodes without the one field of a log item that stands outside their core and forks: the number of a
//! device node. Left alone, a node made shortly before the snapshot would show as device 0:0, which is something
//! else (a whiteout of overlayfs). So the log that the crate has already checked and replayed is walked once more for them.
//!
//! # On-disk layout
//! Linux, `fs/xfs/libxfs/xfs_log_format.h`. A record is one or more header blocks, then its data, whose every block of 512 bytes has
//! its first word swapped with one in the header. Data is a sequence of operations: 12 bytes (transaction, length, client, flags),
//! then a body. An inode item begins with a body of 56 bytes, little-endian (the crate refuses another log): type 0x123b, fields
//! at 4, inode at 16, device number at 24.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashMap;

use fs_xfs::{Filesystem, log};

use super::device::{guard, translate};
use crate::error::{Error, Result};
use crate::guest::bytes::{array, be32, le16, le32, le64};
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};

const BLOCK_BYTES: usize = 512;
/// Words of data that one header block keeps.
const WORDS: usize = 64;
/// LIMIT: data of one record (Linux: `XLOG_MAX_RECORD_BSIZE`).
const RECORD_BYTES_MAX: usize = 256 << 10;
/// Flags of an operation: start of a transaction, its commit, continued in the next record, continued from the last one.
const START: u8 = 1;
const COMMIT: u8 = 2;
const CONTINUES: u8 = 4;
const CONTINUED: u8 = 8;
/// An inode item, the length of its first body, and its field that says "there is a device number".
const INODE_ITEM: u16 = 0x123b;
const FORMAT_BYTES: usize = 56;
const FIELD_DEVICE: u32 = 0x10;

fn corrupt(at: u64) -> Error {
    Error::corrupt("XFS: the log", "a record", "none").at_offset(at)
}

/// The ring of blocks.
struct Ring<'a> {
    fs: &'a Filesystem,
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
            self.fs
                .device()
                .read_at(self.start.saturating_add(at), part)
                .map_err(|error| translate(error.into()))?;
        }
        Ok(bytes)
    }
}

/// What the transactions have said so far.
#[derive(Default)]
struct Found {
    committed: HashMap<u64, u32>,
    open: HashMap<u32, Vec<(u64, u32)>>,
    /// The first part of a body that goes on in the next record.
    partial: HashMap<u32, Vec<u8>>,
}

impl Found {
    fn body(&mut self, transaction: u32, flags: u8, body: &[u8]) {
        if flags & START != 0 {
            self.open.insert(transaction, Vec::new());
            self.partial.remove(&transaction);
        }
        let mut whole = body.to_vec();
        if flags & CONTINUED != 0 {
            let mut before = self.partial.remove(&transaction).unwrap_or_default();
            before.append(&mut whole);
            whole = before;
        }
        if flags & CONTINUES != 0 {
            whole.truncate(BLOCK_BYTES);
            self.partial.insert(transaction, whole);
        } else if whole.len() == FORMAT_BYTES
            && le16(&whole, 0) == Some(INODE_ITEM)
            && le32(&whole, 4).is_some_and(|fields| fields & FIELD_DEVICE != 0)
            && let (Some(ino), Some(number)) = (le64(&whole, 16), le32(&whole, 24))
            && let Some(open) = self.open.get_mut(&transaction)
        {
            open.push((ino, number));
        }
        if flags & COMMIT != 0 {
            self.committed
                .extend(self.open.remove(&transaction).unwrap_or_default());
        }
    }

    /// All operations of a record.
    fn record(&mut self, mut data: &[u8], operations: u32) {
        for _ in 0..operations {
            let Some((head, rest)) = data.split_first_chunk::<12>() else {
                return;
            };
            let (Some(transaction), Some(length)) = (be32(head, 0), be32(head, 4)) else {
                return;
            };
            let Some((body, rest)) = rest.split_at_checked(usize_from_u32(length)) else {
                return;
            };
            self.body(transaction, head.get(9).copied().unwrap_or(0), body);
            data = rest;
        }
    }
}

/// Device numbers by inode, in the form of System V, that the log of a filesystem holds which was replayed.
pub(super) fn device_numbers(fs: &Filesystem) -> Result<HashMap<u64, u32>> {
    let sb = fs.superblock();
    let head = guard(|| log::head(fs.device(), sb).map_err(translate))?;
    let bytes = u64::from(sb.logblocks).saturating_mul(u64::from(sb.blocksize));
    let ring = Ring {
        fs,
        start: sb.fsblock_offset(sb.logstart),
        blocks: bytes.checked_div(u64_from_usize(BLOCK_BYTES)).unwrap_or(0),
    };
    let newest = u64::from(head.prev_block);
    // The tail's sequence number: cycle above, block below.
    let mut at = be32(&ring.read(newest, 1)?, 28).map_or(0, u64::from);
    let mut found = Found::default();
    for _ in 0..ring.blocks {
        let first = ring.read(at, 1)?;
        let (Some(magic), Some(version), Some(length), Some(operations), Some(buffer)) = (
            array::<4>(&first, 0),
            be32(&first, 8),
            be32(&first, 12),
            be32(&first, 40),
            be32(&first, 320),
        ) else {
            return Err(corrupt(at));
        };
        let length = usize_from_u32(length);
        if magic != [0xfe, 0xed, 0xba, 0xbe] || length > RECORD_BYTES_MAX {
            return Err(corrupt(at));
        }
        let headers = if version & 2 != 0 {
            usize_from_u32(buffer)
                .div_ceil(WORDS.saturating_mul(BLOCK_BYTES))
                .clamp(1, 8)
        } else {
            1
        };
        let blocks = length.div_ceil(BLOCK_BYTES);
        let headers_read = ring.read(at, headers)?;
        let data_at = at.saturating_add(u64_from_usize(headers));
        let mut data = ring.read(data_at, blocks)?;
        restore_words(&headers_read, &mut data);
        found.record(data.get(..length).unwrap_or_default(), operations);
        if at == newest {
            return Ok(found.committed);
        }
        let next = data_at.saturating_add(u64_from_usize(blocks));
        at = next.checked_rem(ring.blocks).unwrap_or(0);
    }
    Err(corrupt(at))
}

/// Puts the first word of each block back.
fn restore_words(headers: &[u8], data: &mut [u8]) {
    let first = usize_from_u64(44);
    for (block, n) in data.chunks_exact_mut(BLOCK_BYTES).zip(0usize..) {
        let (header, word) = (
            n.checked_div(WORDS).unwrap_or(0),
            n.checked_rem(WORDS).unwrap_or(0),
        );
        let base = if header == 0 { first } else { 4 };
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

#[cfg(test)]
mod tests {
    use super::{COMMIT, CONTINUED, CONTINUES, Found, START};

    fn item(ino: u64, number: u32) -> Vec<u8> {
        let mut body = 0x0003_123b_u32.to_le_bytes().to_vec();
        body.extend(0x11_u32.to_le_bytes());
        body.extend([0; 8]);
        body.extend(ino.to_le_bytes());
        body.extend(number.to_le_bytes());
        body.resize(56, 0);
        body
    }

    #[test]
    fn committed_numbers_count_and_the_last_one_holds() {
        let mut found = Found::default();
        for (transaction, number) in [(1, 10), (2, 20)] {
            found.body(transaction, START, &[]);
            found.body(transaction, 0, &item(7, number));
            found.body(transaction, COMMIT, &[]);
        }
        found.body(3, START, &[]);
        found.body(3, 0, &item(7, 30));
        assert_eq!(found.committed.get(&7), Some(&20));
    }

    #[test]
    fn an_item_split_between_records_is_put_together() {
        let mut found = Found::default();
        let body = item(7, 10);
        let (before, after) = body.split_at(30);
        found.body(1, START, &[]);
        found.body(1, CONTINUES, before);
        found.body(1, CONTINUED, after);
        found.body(1, COMMIT, &[]);
        assert_eq!(found.committed.get(&7), Some(&10));
    }
}
