//! Checks the items of a log that needs replay, before the crate replays them.
//!
//! # Why
//! The crate trusts the target place in an item: it panics at a place that is not on a basic block, wraps
//! around at a block number that is too high, and allocates as many inodes as an item requests. The kernel
//! refuses such an item; so does this module, by name and place.
//!
//! # On-disk layout
//! Linux, `fs/xfs/libxfs/xfs_log_format.h`, little-endian. Every item begins with its type (u16) and the number of its regions (u16).
//! A buffer (0x123c): flags at 4, basic blocks 6, block 8. An inode (0x123b): inode 16, block of its buffer 40, basic blocks 48, offset
//! in the buffer 52. A dquot (0x123d): block 8. New inodes (0x123f), big-endian: group 4, block 8, count 12, bytes of each 16, blocks 20.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashMap;

use fs_core::BlockRead;
use fs_xfs::{Superblock, log::LogState};

use super::failure::{guard, translate};
use super::log::{
    self, BLOCK_BYTES, COMMIT, CONTINUED, ENDED, INODE_ITEM, Operation, Record, START, UNMOUNT,
    Walk,
};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{be32, le16, le32, le64};
use crate::types::width::u64_from_usize;

const BUFFER: u16 = 0x123c;
const DQUOT: u16 = 0x123d;
const CREATE: u16 = 0x123f;
/// Flag of a buffer that was freed: earlier items for it are void.
const CANCEL: u16 = 2;
/// Magic number and length of the beginning of a transaction.
const TRANSACTION_MAGIC: u32 = 0x5452_414e;
const TRANSACTION_BYTES: usize = 16;
/// LIMIT: basic blocks of one buffer (Linux: `XFS_MAX_BLOCKSIZE`; clusters of inodes are no larger).
const BUFFER_BLOCKS_MAX: u64 = 128;
/// LIMIT: inodes that are created together (Linux: `XFS_INODES_PER_CHUNK`, or those of one block).
const INODES_MAX: u32 = 64;
/// LIMIT: bytes kept of an item's first region; the longest is a buffer's, whose bitmap has 16 words.
const REGION_BYTES_MAX: usize = 256;

/// The valid target places of items.
struct Bounds {
    volume_bytes: u64,
    block_bytes: u64,
    inode_bytes: u64,
    groups: u32,
    group_blocks: u32,
    inodes_max: u32,
}

/// An item as the crate assembles it, without the regions that are only data.
struct Item {
    first: Vec<u8>,
    regions: usize,
    total: usize,
}

fn refuse(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("XFS: the log: {what}"), expected, found)
}

impl Bounds {
    /// Checks that `bytes` at basic block `block` lie on the volume.
    fn check_place(&self, what: &str, block: u64, bytes: u64) -> Result<u64> {
        let at = block.checked_mul(u64_from_usize(BLOCK_BYTES));
        let end = at.and_then(|at| at.checked_add(bytes));
        match (at, end) {
            (Some(at), Some(end)) if end <= self.volume_bytes => Ok(at),
            _ => Err(refuse(
                &format!("the place of {what}"),
                format!("within {} bytes", self.volume_bytes),
                format!("{bytes} bytes at basic block {block}"),
            )),
        }
    }

    fn check_length(what: &str, blocks: u64) -> Result<u64> {
        if blocks > BUFFER_BLOCKS_MAX {
            return Err(refuse(
                &format!("the length of {what}"),
                format!("at most {BUFFER_BLOCKS_MAX} basic blocks"),
                blocks,
            ));
        }
        Ok(blocks.saturating_mul(u64_from_usize(BLOCK_BYTES)))
    }

    fn check_buffer(&self, item: &[u8]) -> Option<Result<()>> {
        let (flags, blocks, block) = (le16(item, 4)?, le16(item, 6)?, le64(item, 8)?);
        if flags & CANCEL != 0 {
            return None;
        }
        Some(
            Self::check_length("a buffer", blocks.into())
                .and_then(|bytes| self.check_place("a buffer", block, bytes).map(|_| ())),
        )
    }

    fn check_inode(&self, item: &[u8]) -> Option<Result<()>> {
        let (ino, block) = (le64(item, 16)?, le64(item, 40)?);
        let (blocks, offset) = (u64::from(le32(item, 48)?), u64::from(le32(item, 52)?));
        let what = format!("the buffer of inode {ino}");
        let check = || {
            let bytes = Self::check_length(&what, blocks)?;
            self.check_place(&what, block, bytes)?;
            let end = offset.saturating_add(self.inode_bytes);
            let is_slot = offset.checked_rem(self.inode_bytes) == Some(0);
            if !is_slot || end > bytes {
                return Err(refuse(
                    &format!("the offset of inode {ino} in its buffer"),
                    format!(
                        "a multiple of {} below {bytes}, with room behind it",
                        self.inode_bytes
                    ),
                    offset,
                ));
            }
            if offset.checked_rem(u64_from_usize(BLOCK_BYTES)) != Some(0) {
                return Err(Error::unsupported(format!(
                    "XFS: the log was not emptied and holds inodes of {} bytes, which cannot be replayed",
                    self.inode_bytes
                ))
                .advise(
                    "map the disks with `restorefs map --scratch` and mount the filesystem there",
                ));
            }
            Ok(())
        };
        Some(check())
    }

    fn check_dquot(&self, item: &[u8]) -> Option<Result<()>> {
        let block = le64(item, 8)?;
        Some(
            self.check_place("a dquot", block, self.block_bytes)
                .map(|_| ()),
        )
    }

    fn check_new_inodes(&self, item: &[u8]) -> Option<Result<()>> {
        let (group, block, count) = (be32(item, 4)?, be32(item, 8)?, be32(item, 12)?);
        let (bytes, blocks) = (u64::from(be32(item, 16)?), be32(item, 20)?);
        let end = u64::from(block).saturating_add(blocks.into());
        Some(
            if group >= self.groups || end > u64::from(self.group_blocks) {
                Err(refuse(
                    "the place of new inodes",
                    format!(
                        "within {} groups of {} blocks",
                        self.groups, self.group_blocks
                    ),
                    format!("{blocks} blocks at block {block} of group {group}"),
                ))
            } else if count > self.inodes_max {
                Err(refuse(
                    "the number of new inodes",
                    format!("at most {}", self.inodes_max),
                    count,
                ))
            } else if bytes != self.inode_bytes
                || bytes.checked_rem(u64_from_usize(BLOCK_BYTES)) != Some(0)
            {
                Err(refuse(
                    "the size of new inodes",
                    format!("{} bytes, whole basic blocks", self.inode_bytes),
                    bytes,
                ))
            } else {
                Ok(())
            },
        )
    }

    /// Checks an item. The crate itself refuses an item that is too short for its type.
    fn check(&self, item: &Item) -> Result<()> {
        let first = &item.first;
        let checked = match le16(first, 0) {
            Some(BUFFER) => self.check_buffer(first),
            Some(INODE_ITEM) => self.check_inode(first),
            Some(DQUOT) => self.check_dquot(first),
            Some(CREATE) => self.check_new_inodes(first),
            _ => None,
        };
        checked.unwrap_or(Ok(()))
    }
}

/// Open transactions with their items, assembled exactly as in the crate.
#[derive(Default)]
struct Open(HashMap<u32, Vec<Item>>);

impl Open {
    /// The items of the transaction that this operation commits.
    fn operation(&mut self, operation: &Operation<'_>) -> Vec<Item> {
        let flags = operation.flags;
        if flags & UNMOUNT != 0 {
            return Vec::new();
        }
        if flags & START != 0 {
            self.0.insert(operation.transaction, Vec::new());
            return Vec::new();
        }
        if flags & COMMIT != 0 {
            return self.0.remove(&operation.transaction).unwrap_or_default();
        }
        if let Some(items) = self.0.get_mut(&operation.transaction) {
            Self::region(items, operation);
        }
        Vec::new()
    }

    fn region(items: &mut Vec<Item>, operation: &Operation<'_>) {
        let body = operation.body;
        let kept = |room: usize| body.get(..room.min(body.len())).unwrap_or_default();
        if operation.flags & (CONTINUED | ENDED) != 0 {
            if let Some(item) = items.last_mut().filter(|item| item.regions == 1) {
                let room = REGION_BYTES_MAX.saturating_sub(item.first.len());
                item.first.extend_from_slice(kept(room));
            }
            return;
        }
        let is_head = items.is_empty()
            && body.len() >= TRANSACTION_BYTES
            && le32(body, 0) == Some(TRANSACTION_MAGIC);
        if body.is_empty() || is_head {
            return;
        }
        match items.last_mut() {
            Some(item) if item.regions < item.total => {
                item.regions = item.regions.saturating_add(1);
            }
            _ => items.push(Item {
                first: kept(REGION_BYTES_MAX).to_vec(),
                regions: 1,
                total: le16(body, 2)
                    .filter(|_| body.len() >= 4)
                    .map_or(1, |total| usize::from(total).max(1)),
            }),
        }
    }
}

/// Checks everything that the crate would replay. Returns the fault of a log that is incomplete, or that has
/// an invalid item in a record without a checksum: the end of the log may have been in flight to the disk.
///
/// # Errors
/// `Corrupt` or `Unsupported` naming the item; `Io`.
pub(super) fn check(device: &dyn BlockRead, sb: &Superblock) -> Result<Option<String>> {
    let state = guard(|| Ok(fs_xfs::log::inspect(device, sb)))?;
    match state {
        Ok(LogState::NeedsReplay) => {}
        Ok(_) => return Ok(None),
        Err(fs_xfs::Error::Io(text)) => return Err(translate(fs_xfs::Error::Io(text))),
        // The mount returns the same error.
        Err(_) => return Ok(None),
    }
    let bounds = Bounds {
        volume_bytes: device.size_bytes(),
        block_bytes: sb.blocksize.into(),
        inode_bytes: sb.inodesize.into(),
        groups: sb.agcount,
        group_blocks: sb.agblocks,
        inodes_max: u32::from(sb.inopblock).max(INODES_MAX),
    };
    let log_at = sb.fsblock_offset(sb.logstart);
    let mut open = Open::default();
    let mut unsealed = None;
    let mut check = |record: &Record<'_>| {
        let place = record.block.saturating_mul(u64_from_usize(BLOCK_BYTES));
        for operation in record.operations() {
            for item in open.operation(&operation) {
                let Err(error) = bounds.check(&item) else {
                    continue;
                };
                if record.is_sealed || error.kind() != ErrorKind::Corrupt {
                    return Err(error.at_offset(log_at.saturating_add(place)));
                }
                unsealed.get_or_insert_with(|| error.report());
            }
        }
        Ok(())
    };
    match log::walk(device, sb, &mut check)? {
        Walk::Whole => Ok(unsealed),
        Walk::Broken { block, reason } => Ok(Some(format!(
            "the log at basic block {block}: expected a record, found {reason}"
        ))),
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test stops at the first surprise"
)]
mod tests;
