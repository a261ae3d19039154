//! The subvolumes of a filesystem: their trees, and their places in each other.
//!
//! # Invariants
//! An inode number consists of a subvolume's position in the list, sorted by id, and an inode in it. The top
//! level (id 5) is the first.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, HashMap};

use fs_btrfs::chunk::DiskKey;
use fs_btrfs::dir;

use super::pool::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le16, le32, le64};
use crate::guest::fs::GuestIno;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: subvolumes and snapshots (as many as fit into an inode number).
const SUBVOLUMES_MAX: usize = 1 << 19;
/// Types of items in the tree of roots.
const DIR_ITEM: u8 = 84;
const ROOT_ITEM: u8 = 132;
const ROOT_REF: u8 = 156;
/// The directory of the root tree, which names the default subvolume; the top level's id; that of the
/// checksum tree.
const ROOT_DIRECTORY: u64 = 6;
const TOP_LEVEL: u64 = 5;
const CHECKSUMS: u64 = 7;
/// Ids of subvolumes other than the top level (Linux: `BTRFS_FIRST_FREE_OBJECTID`, `BTRFS_LAST_FREE_OBJECTID`).
const IDS: std::ops::RangeInclusive<u64> = 256..=u64::MAX - 256;
/// The root directory of every subvolume.
pub(super) const ROOT: u64 = 256;
/// The empty directory that the kernel shows in place of a subvolume when its parent was copied.
pub(super) const EMPTY: u64 = 2;

/// One tree of files.
#[derive(Debug, Clone)]
pub(super) struct Subvolume {
    pub(super) id: u64,
    /// Logical address of its tree's root, and the transaction that wrote it.
    pub(super) root: u64,
    pub(super) generation: u64,
    /// Number of its names; none when it is being deleted.
    references: u32,
}

/// All subvolumes.
#[derive(Debug, Default)]
pub(super) struct Subvolumes {
    /// By id.
    list: Vec<Subvolume>,
    /// Directory and name by parent's id and own id.
    places: HashMap<(u64, u64), (u64, Vec<u8>)>,
    /// The id of the subvolume that a mount without options shows.
    pub(super) default: u64,
    /// The root of the checksum tree, and the transaction that wrote it.
    pub(super) checksums: Option<(u64, u64)>,
}

/// Packs a position in the list and an inode number.
///
/// # Errors
/// `Unsupported` when they do not fit.
pub(super) fn pack(index: usize, ino: u64) -> Result<GuestIno> {
    let index = u64_from_usize(index);
    if ino < 1 << 24 && index < 256 {
        return Ok(GuestIno((index << 24) | ino));
    }
    if ino < 1 << 44 && index < 1 << 19 {
        return Ok(GuestIno((1 << 63) | (index << 44) | ino));
    }
    Err(Error::unsupported(format!(
        "btrfs: inode {ino} of the subvolume at place {index}"
    )))
}

/// Reverses [`pack`]; `None` for a number that it never returns.
pub(super) fn unpack(number: GuestIno) -> Option<(usize, u64)> {
    let (index, ino) = if number.0 >> 63 == 0 {
        (number.0 >> 24, number.0 & 0xff_ffff)
    } else {
        ((number.0 >> 44) & 0x7_ffff, number.0 & 0xfff_ffff_ffff)
    };
    let index = usize_from_u64(index);
    (pack(index, ino).ok()? == number).then_some((index, ino))
}

/// Logical address, generation and reference count in a root item (Linux: `struct btrfs_root_item`).
fn parse_root(data: &[u8]) -> Option<(u64, u64, u32)> {
    Some((le64(data, 176)?, le64(data, 160)?, le32(data, 216)?))
}

/// Directory and name in a root reference: directory, sequence, length of the name, name.
fn parse_place(data: &[u8]) -> Option<(u64, Vec<u8>)> {
    let length = usize::from(le16(data, 16)?);
    let name = data.get(18..)?.get(..length)?;
    Some((le64(data, 0)?, name.to_vec()))
}

impl Subvolumes {
    /// Reads the root tree.
    pub(super) fn load(pool: &Pool) -> Result<Self> {
        let mut all = Self {
            default: TOP_LEVEL,
            ..Self::default()
        };
        let mut found = BTreeMap::new();
        let mut too_many = false;
        let sb = &pool.superblock;
        pool.with_trees(|tree| {
            tree.read_child(sb.root, sb.generation)?;
            tree.for_each(sb.root, &mut |key: &DiskKey, data: &[u8]| {
                all.item(key, data, &mut found)?;
                too_many = found.len() > SUBVOLUMES_MAX || all.places.len() > SUBVOLUMES_MAX;
                Ok(!too_many)
            })
        })?;
        if too_many {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the filesystem has more than {SUBVOLUMES_MAX} subvolumes"),
            ));
        }
        all.list = found.into_values().collect();
        if all.list.first().is_none_or(|first| first.id != TOP_LEVEL) {
            return Err(Error::corrupt(
                "btrfs: the tree of roots",
                "a top level",
                "none",
            ));
        }
        Ok(all)
    }

    fn item(
        &mut self,
        key: &DiskKey,
        data: &[u8],
        found: &mut BTreeMap<u64, Subvolume>,
    ) -> fs_btrfs::Result<()> {
        let short =
            || fs_btrfs::Error::BadSuperblock("a short item in the tree of roots".to_owned());
        let is_subvolume = key.objectid == TOP_LEVEL || IDS.contains(&key.objectid);
        match key.key_type {
            ROOT_ITEM if key.objectid == CHECKSUMS => {
                let (root, generation, _) = parse_root(data).ok_or_else(short)?;
                self.checksums = Some((root, generation));
            }
            // Of several items the last one counts.
            ROOT_ITEM if is_subvolume => {
                let (root, generation, references) = parse_root(data).ok_or_else(short)?;
                let subvolume = Subvolume {
                    id: key.objectid,
                    root,
                    generation,
                    references,
                };
                found.insert(key.objectid, subvolume);
            }
            ROOT_REF => {
                let place = parse_place(data).ok_or_else(short)?;
                self.places.insert((key.objectid, key.offset), place);
            }
            DIR_ITEM if key.objectid == ROOT_DIRECTORY => {
                for entry in dir::parse_dir_items(data)? {
                    if entry.name == b"default" {
                        self.default = entry.ino;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The subvolume at a position in the list.
    pub(super) fn get(&self, index: usize) -> Option<&Subvolume> {
        self.list.get(index)
    }

    /// The position in the list of a subvolume that is not being deleted.
    pub(super) fn index(&self, id: u64) -> Option<usize> {
        let index = self.list.binary_search_by_key(&id, |s| s.id).ok()?;
        let subvolume = self.list.get(index)?;
        (subvolume.references > 0 || id == TOP_LEVEL).then_some(index)
    }

    /// The directory for an entry that names subvolume `child`: its root directory, if the subvolume belongs
    /// there, else an empty directory.
    ///
    /// # Errors
    /// As [`pack`].
    pub(super) fn cross(
        &self,
        parent: usize,
        directory: u64,
        name: &[u8],
        child: u64,
    ) -> Result<GuestIno> {
        let id = self.get(parent).map_or(0, |subvolume| subvolume.id);
        let hangs_here = self
            .places
            .get(&(id, child))
            .is_some_and(|(at, called)| *at == directory && called == name);
        match self.index(child).filter(|_| hangs_here) {
            Some(index) => pack(index, ROOT),
            None => pack(parent, EMPTY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{pack, unpack};
    use crate::error::ErrorKind;
    use crate::guest::fs::GuestIno;

    #[test]
    fn numbers_pack_both_ways() {
        for (index, ino, packed) in [
            (0, 256, 256),
            (255, 0xff_ffff, 0xffff_ffff),
            (256, 1, (1 << 63) | (256 << 44) | 1),
            (3, 1 << 24, (1 << 63) | (3 << 44) | (1 << 24)),
        ] {
            assert_eq!(pack(index, ino).unwrap(), GuestIno(packed));
            assert_eq!(unpack(GuestIno(packed)), Some((index, ino)));
        }
        for (index, ino) in [(0, 1 << 44), (1 << 19, 1)] {
            assert_eq!(pack(index, ino).unwrap_err().kind(), ErrorKind::Unsupported);
        }
        // Each inode has one number: the long form of a number that has a short form is invalid.
        assert_eq!(unpack(GuestIno((1 << 63) | 256)), None);
        assert_eq!(unpack(GuestIno(1 << 40)), None);
    }
}
