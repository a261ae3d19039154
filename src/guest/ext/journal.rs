//! Decides whether the journal must be replayed, and whether the crate can do it.
//!
//! # On-disk layout
//! Linux, `fs/ext4/ext4.h`, `include/linux/jbd2.h` (big-endian), `fs/ext4/fast_commit.h` (little-endian).
//!
//! | superblock of the journal, offset | size | field |
//! |---|---|---|
//! | 16 | 4 | blocks of the journal |
//! | 28 | 4 | first block of the log; 0: it is clean |
//! | 40 | 4 | incompatible features; 0x20: fast commits |
//! | 84 | 4 | blocks of the area of fast commits, at the end; 0: 256 |
//!
//! A used area of fast commits begins with tag 9 (2), length (2), features (4), and the number of the
//! transaction (4) that precedes them.
//!
//! # Why
//! Linux replays only if the superblock's `needs_recovery` is set, and wipes the journal otherwise
//! (`ext4_load_journal`); the crate examines only the journal. It also refuses each journal that may have
//! fast commits, though few have any: the area counts only when it begins with the number of the next
//! transaction.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use fs_ext4::Filesystem;
use fs_ext4::features::Incompat;
use fs_ext4::inode::Inode;
use fs_ext4::jbd2::{JbdIncompat, JournalSuperblock, journal_block_to_physical};

use super::device::{guard, translate};
use super::view::View;
use crate::error::{Error, Result};
use crate::guest::bytes::{array, le16, le32, uuid};
use crate::types::width::usize_from_u64;

/// `EXT4_FEATURE_COMPAT_HAS_JOURNAL`.
const COMPAT_HAS_JOURNAL: u32 = 0x4;
/// UUID of the journal's device in the superblock.
const JOURNAL_UUID_AT: usize = 0xd0;
const BLOCKS_AT: u64 = 16;
const START_AT: u64 = 28;
const FEATURES_AT: u64 = 40;
/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS` and `JBD2_MIN_JOURNAL_BLOCKS`.
const FAST_BLOCKS: u32 = 256;
const BLOCKS_MIN: u32 = 1024;
const TAG_HEAD: u16 = 9;

/// Refuses a filesystem that needs recovery from a journal on another device. A clean filesystem needs none.
pub(super) fn check_external(view: &View) -> Result<()> {
    let sb = &view.superblock;
    let is_elsewhere = sb.feature_compat & COMPAT_HAS_JOURNAL != 0 && sb.journal_inode == 0;
    if !is_elsewhere || !view.has(Incompat::RECOVER) {
        return Ok(());
    }
    let device = array(&sb.raw, JOURNAL_UUID_AT).and_then(uuid);
    Err(Error::unsupported(format!(
        "ext: the filesystem was in use and its journal, on another device (UUID {}), has to be replayed first: \
         map the disks with `restorefs map --scratch` and mount the filesystem there",
        device.unwrap_or_else(|| "unknown".to_owned())
    )))
}

/// The journal's superblock and its place.
fn locate(fs: &Filesystem, number: u32) -> Result<(JournalSuperblock, u64)> {
    guard(|| {
        let raw = fs.read_inode_raw(number).map_err(translate)?;
        let inode = Inode::parse(&raw).map_err(translate)?;
        let block = journal_block_to_physical(fs, &inode, 0).map_err(translate)?;
        let block = block.ok_or_else(|| Error::corrupt("the journal", "a first block", "none"))?;
        let bytes = u64::from(fs.sb.block_size());
        let at = block.saturating_mul(bytes);
        let mut buf = vec![0; usize_from_u64(bytes)];
        fs.dev.read_at(at, &mut buf).map_err(translate)?;
        let journal = JournalSuperblock::parse(&buf).map_err(translate)?;
        Ok((journal, at))
    })
}

/// Hides a journal that Linux would wipe from the crate. Returns whether there was one; `fs` is the
/// filesystem as the crate mounted it.
pub(super) fn pass_unwanted(view: &mut View, fs: &Filesystem) -> Result<bool> {
    if fs.sb.journal_inode == 0 || view.has(Incompat::RECOVER) {
        return Ok(false);
    }
    let (journal, at) = locate(fs, fs.sb.journal_inode)?;
    if journal.is_clean() {
        return Ok(false);
    }
    view.patch(at.saturating_add(START_AT), &[0; 4]);
    Ok(true)
}

/// Lets the crate read a journal that may have fast commits, when none of them counts. Returns whether it was
/// such a journal.
///
/// # Errors
/// `Unsupported` when there are fast commits to replay.
pub(super) fn pass_fast_commit(view: &mut View) -> Result<bool> {
    let number = view.superblock.journal_inode;
    if number == 0 {
        return Ok(false);
    }
    let bare = view.mount_without_journal()?;
    let (journal, at) = locate(&bare, number)?;
    let fast = JbdIncompat::FAST_COMMIT.bits();
    if journal.unsupported_incompat() != fast {
        return Ok(false);
    }
    if !view.has(Incompat::RECOVER) {
        view.patch(at.saturating_add(START_AT), &[0; 4]);
        return Ok(true);
    }
    let blocks = match journal.num_fc_blocks {
        0 => FAST_BLOCKS,
        blocks => blocks,
    };
    // As in Linux, the log ends before the area.
    let last = journal
        .max_len
        .checked_sub(blocks)
        .filter(|last| *last >= BLOCKS_MIN)
        .unwrap_or(journal.max_len);
    let features = journal.feature_incompat & !fast;
    view.patch(at.saturating_add(FEATURES_AT), &features.to_be_bytes());
    view.patch(at.saturating_add(BLOCKS_AT), &last.to_be_bytes());
    let next = guard(|| {
        let mut plain = journal.clone();
        plain.feature_incompat = features;
        plain.max_len = last;
        let mut bare = bare;
        bare.sb.journal_inode = number;
        let plan = fs_ext4::journal::walk(&bare, &plain).map_err(translate)?;
        let next = plan.next_sequence.unwrap_or(journal.sequence);
        let first = fast_head(&bare, number, u64::from(last).saturating_add(1))?;
        Ok((next, first))
    })?;
    match next {
        (next, Some(first)) if next == first => Err(Error::unsupported(
            "ext: the filesystem was in use with the feature fast_commit, and its journal ends with fast commits, which are not \
             replayed: map the disk with `restorefs map --scratch` and mount the filesystem there",
        )),
        _ => Ok(true),
    }
}

/// The transaction that precedes the fast commits at `block` of the journal, if there are any.
fn fast_head(fs: &Filesystem, number: u32, block: u64) -> Result<Option<u32>> {
    let raw = fs.read_inode_raw(number).map_err(translate)?;
    let inode = Inode::parse(&raw).map_err(translate)?;
    let Some(block) = journal_block_to_physical(fs, &inode, block).map_err(translate)? else {
        return Ok(None);
    };
    let mut head = [0; 12];
    let at = block.saturating_mul(u64::from(fs.sb.block_size()));
    fs.dev.read_at(at, &mut head).map_err(translate)?;
    Ok(le32(&head, 8).filter(|_| le16(&head, 0) == Some(TAG_HEAD)))
}
