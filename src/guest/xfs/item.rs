//! The items of a log that needs replay, checked before the crate replays them.
//!
//! # Why
//! The crate believes where an item says that its bytes belong: it panics at a place that is not on a basic block, wraps around at a
//! block number that is too high, and makes as many inodes in memory as an item orders. The kernel refuses such an item; so does this
//! module, by name and place.
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

use super::device::{guard, translate};
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
/// Flag of a buffer: it was freed, and earlier items for it are void.
const CANCEL: u16 = 2;
/// Magic number and length of what a transaction begins with.
const TRANSACTION_MAGIC: u32 = 0x5452_414e;
const TRANSACTION_BYTES: usize = 16;
/// LIMIT: basic blocks of one buffer (Linux: `XFS_MAX_BLOCKSIZE`; clusters of inodes are no larger).
const BUFFER_BLOCKS_MAX: u64 = 128;
/// LIMIT: inodes that are made together (Linux: `XFS_INODES_PER_CHUNK`, or those of one block).
const INODES_MAX: u32 = 64;
/// LIMIT: bytes kept of an item's first region; the longest is a buffer's, whose bitmap has 16 words.
const REGION_BYTES_MAX: usize = 256;

/// Where items may put bytes.
struct Bounds {
    volume_bytes: u64,
    block_bytes: u64,
    inode_bytes: u64,
    groups: u32,
    group_blocks: u32,
    inodes_max: u32,
}

/// An item as the crate gathers it, without the regions that are only bytes to be put somewhere.
struct Item {
    first: Vec<u8>,
    regions: usize,
    total: usize,
}

fn refuse(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("XFS: the log: {what}"), expected, found)
}

impl Bounds {
    /// That `bytes` at basic block `block` lie on the volume.
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

    /// An item that is too short for its type is refused by the crate itself.
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

/// Transactions that have begun, with their items, gathered exactly as the crate gathers them.
#[derive(Default)]
struct Open(HashMap<u32, Vec<Item>>);

impl Open {
    /// The items of the transaction that the operation commits.
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

/// Checks all that the crate would replay. Answers what is wrong with the log when it is not whole, or has an item that makes no sense in a
/// record without a checksum: its end may then have been on its way to the disk.
///
/// # Errors
/// `Corrupt` or `Unsupported` naming the item; `Io`.
pub(super) fn check(device: &dyn BlockRead, sb: &Superblock) -> Result<Option<String>> {
    let state = guard(|| Ok(fs_xfs::log::inspect(device, sb)))?;
    match state {
        Ok(LogState::NeedsReplay) => {}
        Ok(_) => return Ok(None),
        Err(fs_xfs::Error::Io(text)) => return Err(translate(fs_xfs::Error::Io(text))),
        // The mount answers the same.
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
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use fs_core::BlockRead;
    use fs_xfs::Superblock;

    use super::{BUFFER, Bounds, CREATE, DQUOT, Item, log};
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::{Error, ErrorKind};
    use crate::guest::bytes::{be32, le16};
    use crate::guest::device::Device;
    use crate::guest::xfs::log::INODE_ITEM;
    use crate::guest::xfs::open;

    /// The sectors that are not zero of a filesystem that Linux did not unmount: each its number (u32) and 512 bytes.
    const DIRTY: &[u8] = include_bytes!("../../../tests/fuzz/corpus/xfs/dirty");

    /// Where bytes go in the first body of an item, and the bytes.
    type Field<'a> = (u64, &'a [u8]);

    fn dirty() -> Arc<MemoryDisk> {
        let disk = MemoryDisk::sparse(320 << 20);
        for sector in DIRTY.chunks_exact(516) {
            let (number, bytes) = sector.split_first_chunk::<4>().unwrap();
            let at = u64::from(u32::from_le_bytes(*number)) * 512;
            disk.write_at(at, bytes).unwrap();
        }
        Arc::new(disk)
    }

    fn superblock(disk: &MemoryDisk) -> Superblock {
        let mut head = vec![0; 4096];
        disk.read_at(0, &mut head).unwrap();
        Superblock::parse(&head).unwrap()
    }

    fn refusal(disk: Arc<MemoryDisk>) -> Option<Error> {
        open(&[disk as Arc<dyn ReadAt>]).err()
    }

    /// Where on the volume the first bodies of items lie, by type, with the record that holds each.
    fn places(disk: &Arc<MemoryDisk>) -> BTreeMap<u16, Vec<(u64, u64)>> {
        let sb = superblock(disk);
        let device = Device(Arc::clone(disk) as Arc<dyn ReadAt>);
        let log_at = sb.fsblock_offset(sb.logstart);
        let mut found = BTreeMap::<u16, Vec<(u64, u64)>>::new();
        let mut take = |record: &log::Record<'_>| {
            let at = log_at + record.block * 512;
            let mut body_at = at + 512;
            for operation in record.operations() {
                body_at += 12;
                let kind = le16(operation.body, 0).unwrap_or(0);
                let is_item = [BUFFER, INODE_ITEM, DQUOT, CREATE].contains(&kind)
                    && operation.body.len() < 200;
                if is_item {
                    found.entry(kind).or_default().push((at, body_at));
                }
                body_at += u64::try_from(operation.body.len()).unwrap();
            }
            Ok(())
        };
        log::walk(&device, &sb, &mut take).unwrap();
        found
    }

    /// Stores at each `at` of a body, and puts the checksum of its record right, or takes it away.
    fn bent(place: (u64, u64), fields: &[Field<'_>], is_sealed: bool) -> Arc<MemoryDisk> {
        let disk = dirty();
        let (record_at, body_at) = place;
        for (at, bytes) in fields {
            for (at, byte) in (body_at + at..).zip(*bytes) {
                // The first word of a block of data stands in the header.
                let block = (at - record_at) / 512 - 1;
                let word = at % 512;
                let home = if word < 4 {
                    record_at + 44 + block * 4 + word
                } else {
                    at
                };
                disk.write_at(home, &[*byte]).unwrap();
            }
        }
        let mut header = vec![0; 512];
        disk.read_at(record_at, &mut header).unwrap();
        let length = usize::try_from(be32(&header, 12).unwrap()).unwrap();
        let mut data = vec![0; length];
        disk.read_at(record_at + 512, &mut data).unwrap();
        let checksum = fs_xfs::log::record_checksum(&header, &data);
        let checksum = if is_sealed { checksum } else { 0 };
        disk.write_at(record_at + 32, &checksum.to_le_bytes())
            .unwrap();
        disk
    }

    #[test]
    fn what_linux_logged_passes() {
        let disk = dirty();
        let places = places(&disk);
        for kind in [BUFFER, INODE_ITEM, CREATE] {
            assert!(places[&kind].len() > 1, "{kind:x}");
        }
        assert!(refusal(disk).is_none());
        // What is checked is what the crate reads: stored again, it passes.
        for place in [places[&BUFFER][0], places[&CREATE][0]] {
            assert!(refusal(bent(place, &[], true)).is_none());
        }
    }

    #[test]
    fn a_field_that_lies_is_refused_by_name_and_place() {
        let sb = superblock(&dirty());
        let far = (1_u64 << 55).to_le_bytes();
        let behind = ((320_u64 << 20) / 512).to_le_bytes();
        let more = (sb.agcount).to_be_bytes();
        let cases: [(u16, &[Field<'_>], &str); 11] = [
            (BUFFER, &[(8, &far)], "the place of a buffer"),
            (BUFFER, &[(8, &behind)], "the place of a buffer"),
            (BUFFER, &[(6, &[0xff, 0xff])], "the length of a buffer"),
            (
                INODE_ITEM,
                &[(52, &[0x80, 0, 0, 0])],
                "the offset of inode ",
            ),
            (
                INODE_ITEM,
                &[(52, &[0, 0, 0, 0x10])],
                "the offset of inode ",
            ),
            (
                INODE_ITEM,
                &[(40, &far)],
                "the place of the buffer of inode ",
            ),
            (
                INODE_ITEM,
                &[(48, &[0, 0, 1, 0])],
                "the length of the buffer of inode ",
            ),
            (CREATE, &[(4, &more)], "the place of new inodes"),
            (CREATE, &[(8, &[0x7f, 0, 0, 0])], "the place of new inodes"),
            (
                CREATE,
                // As many as fill the blocks that it names.
                &[(12, &[0, 0, 2, 0]), (20, &[0, 0, 0, 64])],
                "the number of new inodes",
            ),
            (CREATE, &[(16, &[0, 0, 1, 0])], "the size of new inodes"),
        ];
        let places = places(&dirty());
        for (kind, fields, what) in cases {
            // The last record may be on its way; the first one is not.
            let place = places[&kind][0];
            let error = refusal(bent(place, fields, true)).unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
            assert!(error.what().contains(what), "{error} for {what}");
            assert_eq!(error.context().offset, Some(place.0), "{what}");
            assert!(error.context().expected.is_some(), "{what}");
        }
    }

    #[test]
    fn an_item_that_lies_at_the_end_of_a_log_without_checksums_ends_it() {
        let (record, _) = places(&dirty())[&BUFFER][0];
        let newest = places(&dirty())[&INODE_ITEM].last().copied().unwrap();
        assert_ne!(record, newest.0);
        let disk = bent(newest, &[(52, &[1, 0, 0, 0])], false);
        let opened = open(&[disk as Arc<dyn ReadAt>]).unwrap();
        let notes = &opened.info().notes;
        assert!(
            notes.iter().any(|note| note.contains("left out: 1")),
            "{notes:?}"
        );
    }

    #[test]
    fn inodes_smaller_than_a_basic_block_are_beyond_the_crate() {
        let bounds = Bounds {
            volume_bytes: 1 << 30,
            block_bytes: 4096,
            inode_bytes: 256,
            groups: 4,
            group_blocks: 1 << 16,
            inodes_max: 64,
        };
        let mut first = vec![0; 56];
        first[..2].copy_from_slice(&INODE_ITEM.to_le_bytes());
        first[48] = 16;
        let item = |offset: u16| {
            let mut first = first.clone();
            first[52..54].copy_from_slice(&offset.to_le_bytes());
            Item {
                first,
                regions: 1,
                total: 1,
            }
        };
        assert!(bounds.check(&item(512)).is_ok());
        let kind = |offset| bounds.check(&item(offset)).unwrap_err().kind();
        assert_eq!(kind(256), ErrorKind::Unsupported);
        assert_eq!(kind(100), ErrorKind::Corrupt);
        assert_eq!(kind(16 * 512), ErrorKind::Corrupt);
    }

    #[test]
    fn a_dquot_lies_on_the_volume() {
        let disk = dirty();
        let sb = superblock(&disk);
        let bounds = Bounds {
            volume_bytes: Device(disk as Arc<dyn ReadAt>).size_bytes(),
            block_bytes: sb.blocksize.into(),
            inode_bytes: sb.inodesize.into(),
            groups: sb.agcount,
            group_blocks: sb.agblocks,
            inodes_max: 64,
        };
        let dquot = |block: u64| {
            let mut first = DQUOT.to_le_bytes().to_vec();
            first.resize(8, 0);
            first.extend(block.to_le_bytes());
            let item = Item {
                first,
                regions: 1,
                total: 2,
            };
            bounds.check(&item).is_ok()
        };
        assert!(dquot(0) && dquot((320 << 11) - 8));
        assert!(!dquot((320 << 11) - 7) && !dquot(1 << 55) && !dquot(u64::MAX >> 1));
    }
}
