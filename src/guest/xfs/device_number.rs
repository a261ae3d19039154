//! Device numbers that are only in the log.
//!
//! # Why
//! The crate replays inodes without the one field of a log item outside their core and forks: the number of a
//! device node. Without it, a node made shortly before the snapshot would show as device 0:0, which has
//! another meaning (a whiteout of overlayfs). So this module walks the log, which the crate has already
//! checked and replayed, once more for these numbers.
//!
//! # On-disk layout
//! An inode item begins with a body of 56 bytes: type 0x123b, fields at 4, inode at 16, device number at 24.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashMap;

use fs_xfs::Filesystem;

use super::log::{self, COMMIT, CONTINUED, CONTINUES, INODE_ITEM, Record, START, Walk};
use crate::error::{Error, Result};
use crate::guest::bytes::{le16, le32, le64};

/// LIMIT: bytes kept of a body that continues in the next record; more than any body of interest has.
const PART_BYTES_MAX: usize = 512;
/// Length of an inode item's first body, and the flag for "has a device number".
const FORMAT_BYTES: usize = 56;
const FIELD_DEVICE: u32 = 0x10;

/// The findings so far.
#[derive(Default)]
struct Found {
    committed: HashMap<u64, u32>,
    open: HashMap<u32, Vec<(u64, u32)>>,
    /// The first part of a body that continues in the next record.
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
            whole.truncate(PART_BYTES_MAX);
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
}

/// Device numbers by inode, in System V form, from the replayed log of a filesystem.
pub(super) fn device_numbers(fs: &Filesystem) -> Result<HashMap<u64, u32>> {
    let mut found = Found::default();
    let mut take = |record: &Record<'_>| {
        for operation in record.operations() {
            found.body(operation.transaction, operation.flags, operation.body);
        }
        Ok(())
    };
    match log::walk(fs.device(), fs.superblock(), &mut take)? {
        Walk::Whole => Ok(found.committed),
        Walk::Broken { block, reason } => Err(Error::corrupt(
            format!("XFS: the log at basic block {block}"),
            "a record",
            reason,
        )),
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
