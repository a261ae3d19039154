//! btrfs, read through public parts of the crate rust-fs-btrfs.
//!
//! # Invariants
//! - The volume is never written, and is shown in the state of its last commit.
//! - A subvolume is a directory in the tree of its parent. A `GuestIno` packs a subvolume and an inode
//!   (`btrfs/subvolume.rs`).
//! - Data with checksums are `Encoded`, and checked when they are read. Bytes in trees are `Inline`.
//! - A panic inside the crate yields `Corrupt`.

mod attribute;
mod data;
mod decode;
mod extent;
mod failure;
mod pool;
mod subvolume;
mod superblock;

use std::sync::Arc;

use fs_btrfs::chunk::DiskKey;
use fs_btrfs::inode::{INODE_ITEM_KEY, Inode};
use fs_btrfs::{dir, xattr};

use super::content;
use super::directory::Directory;
use super::fs::{Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Subvolume, Xattr};
use crate::block::run::RunMap;
use crate::block::{ReadAt, Weighted, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};
use data::Data;
use extent::Extents;
use pool::Pool;
use subvolume::{EMPTY, ROOT, Subvolumes, pack, unpack};

/// LIMIT: inodes, directory entries, extents and runs that are cached per open filesystem.
const INODES_KEPT: usize = 4096;
const ENTRIES_KEPT: usize = 1 << 18;
const EXTENTS_KEPT: usize = 1 << 18;
const RUNS_KEPT: usize = 1 << 18;
/// LIMIT: names of one directory (our limit).
const ENTRIES_MAX: usize = 4 << 20;
/// LIMIT: bytes of one inode's extended attributes (our limit; each must fit into a node).
const XATTR_BYTES_MAX: usize = 16 << 20;
/// LIMIT: bytes of a symlink's target (Linux: `PATH_MAX`).
const TARGET_BYTES_MAX: u64 = 4096;
/// Types of items: extended attribute, name in a directory.
const XATTR_ITEM: u8 = 24;
const DIR_INDEX: u8 = 96;

struct BtrfsFs {
    pool: Pool,
    volume: Arc<dyn ReadAt>,
    subvolumes: Subvolumes,
    data: Data,
    info: FsInfo,
    /// Subvolumes whose roots have the generation that the root tree states.
    checked: Weighted<usize, ()>,
    inodes: Weighted<GuestIno, Arc<Inode>>,
    directories: Weighted<GuestIno, Arc<Directory>>,
    extents: Weighted<GuestIno, Arc<Extents>>,
    maps: Weighted<GuestIno, Arc<RunMap<()>>>,
}

/// Opens a btrfs filesystem; the devices may come in any order.
///
/// # Errors
/// `Unsupported` naming the feature or the missing device; `LimitExceeded`; `Corrupt`; `Io`.
pub fn open(devices: &[Arc<dyn ReadAt>]) -> Result<Box<dyn GuestFs>> {
    let volume = devices.first().ok_or_else(|| Error::invalid("no device"))?;
    let pool = Pool::open(devices)?;
    let subvolumes = Subvolumes::load(&pool)?;
    let sb = &pool.superblock;
    let mut notes = pool.notes.clone();
    if sb.has_error_flag() {
        notes.push("the guest's kernel has marked the filesystem as having errors".to_owned());
    }
    if let Some((root, generation)) = subvolumes.checksums {
        pool.with_trees(|tree| tree.read_child(root, generation).map(drop))?;
    }
    let info = FsInfo {
        format: "btrfs",
        label: Some(sb.label.clone()).filter(|label| !label.is_empty()),
        uuid: super::bytes::uuid(sb.fsid),
        block_bytes: sb.sectorsize,
        total_bytes: sb.total_bytes,
        used_bytes: sb.bytes_used,
        inodes: None,
        inodes_free: None,
        journal_replayed: None,
        notes,
    };
    let opened = BtrfsFs {
        data: Data::new(subvolumes.checksums.map(|(root, _)| root)),
        volume: Arc::clone(volume),
        pool,
        subvolumes,
        info,
        checked: Weighted::new(INODES_KEPT),
        inodes: Weighted::new(INODES_KEPT),
        directories: Weighted::new(ENTRIES_KEPT),
        extents: Weighted::new(EXTENTS_KEPT),
        maps: Weighted::new(RUNS_KEPT),
    };
    if !opened.inode(opened.root())?.is_dir() {
        return Err(Error::corrupt(
            "the root of the filesystem",
            "a directory",
            "another file",
        ));
    }
    Ok(Box::new(opened))
}

fn missing(ino: GuestIno) -> Error {
    Error::not_found(format!("there is no inode {} in the guest", ino.0))
}

impl BtrfsFs {
    /// The subvolume of an inode number, the root of its tree, and the inode in it.
    fn place(&self, ino: GuestIno) -> Result<(usize, u64, u64)> {
        let (index, number) = unpack(ino).ok_or_else(|| missing(ino))?;
        let subvolume = self.subvolumes.get(index).ok_or_else(|| missing(ino))?;
        let (root, generation) = (subvolume.root, subvolume.generation);
        self.checked.get_or(index, || {
            self.pool
                .with_trees(|tree| tree.read_child(root, generation).map(drop))?;
            Ok(((), 1))
        })?;
        Ok((index, root, number))
    }

    fn inode(&self, ino: GuestIno) -> Result<Arc<Inode>> {
        self.inodes.get_or(ino, || {
            let (_, root, number) = self.place(ino)?;
            let key = DiskKey {
                objectid: number,
                key_type: INODE_ITEM_KEY,
                offset: 0,
            };
            let inode = self.pool.with_trees(|tree| {
                let item = tree.search(root, &key)?;
                item.map(|item| Inode::parse(&item.data, number))
                    .transpose()
            })?;
            let inode = inode
                .filter(|inode| inode.nlink > 0)
                .ok_or_else(|| missing(ino))?;
            Ok((Arc::new(inode), 1))
        })
    }

    /// Whether the number is that of an empty directory in place of a subvolume.
    fn is_empty_directory(&self, ino: GuestIno) -> bool {
        unpack(ino)
            .is_some_and(|(index, number)| number == EMPTY && self.subvolumes.get(index).is_some())
    }

    /// Visits the items of an inode of one type, until `visit` breaks.
    fn items(
        &self,
        root: u64,
        number: u64,
        key_type: u8,
        mut visit: impl FnMut(&[u8]) -> fs_btrfs::Result<bool>,
    ) -> Result<()> {
        let first = DiskKey {
            objectid: number,
            key_type,
            offset: 0,
        };
        self.pool.with_trees(|tree| {
            tree.for_each_from(root, &first, &mut |key: &DiskKey, data: &[u8]| {
                Ok(key.objectid == number && key.key_type == key_type && visit(data)?)
            })
        })
    }

    fn directory(&self, ino: GuestIno) -> Result<Arc<Directory>> {
        if !self.is_empty_directory(ino) && !self.inode(ino)?.is_dir() {
            return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        self.directories.get_or(ino, || {
            let (index, root, number) = self.place(ino)?;
            let mut found = Vec::new();
            if number != EMPTY {
                self.items(root, number, DIR_INDEX, |data| {
                    found.extend(dir::parse_dir_items(data)?);
                    Ok(found.len() <= ENTRIES_MAX)
                })?;
            }
            if found.len() > ENTRIES_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("a directory has more than {ENTRIES_MAX} entries"),
                ));
            }
            let mut entries = Vec::with_capacity(found.len());
            for entry in found {
                let ino = if entry.is_inode() {
                    pack(index, entry.ino)?
                } else {
                    self.subvolumes
                        .cross(index, number, &entry.name, entry.ino)?
                };
                entries.push(Entry {
                    name: entry.name,
                    ino,
                });
            }
            let directory = Directory::new(ino.0, entries)?;
            let weight = directory.weight();
            Ok((Arc::new(directory), weight))
        })
    }

    fn extents_of(&self, ino: GuestIno, inode: &Inode) -> Result<Arc<Extents>> {
        self.extents.get_or(ino, || {
            let (_, root, number) = self.place(ino)?;
            let is_checked = attribute::is_checked(inode);
            let extents = Extents::load(&self.pool, root, number, inode.size, is_checked)?;
            let weight = extents.list.len() + 1;
            Ok((Arc::new(extents), weight))
        })
    }

    fn file(&self, ino: GuestIno) -> Result<Arc<Extents>> {
        let not_a_file = || Error::invalid("not a regular file");
        if self.is_empty_directory(ino) {
            return Err(not_a_file());
        }
        let inode = self.inode(ino)?;
        if attribute::file_type(&inode)? != FileType::Regular {
            return Err(not_a_file());
        }
        self.extents_of(ino, &inode)
    }
}

impl GuestFs for BtrfsFs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        GuestIno(ROOT)
    }

    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        let none = || Error::not_found("there is no such subvolume");
        let by_id = |id| pack(self.subvolumes.index(id).ok_or_else(none)?, ROOT);
        match which {
            Subvolume::Default => by_id(self.subvolumes.default),
            Subvolume::Id(id) => by_id(*id),
            Subvolume::Path(path) => {
                let found = path
                    .split(|byte| *byte == b'/')
                    .filter(|name| !name.is_empty() && *name != b".")
                    .try_fold(self.root(), |dir, name| self.lookup(dir, name))?;
                // A directory below the root of a subvolume is not a subvolume.
                unpack(found)
                    .filter(|(_, number)| *number == ROOT)
                    .map(|_| found)
                    .ok_or_else(none)
            }
        }
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        if self.is_empty_directory(ino)
            && let Some((index, _)) = unpack(ino)
        {
            let root = self.attributes(pack(index, ROOT)?)?;
            return Ok(attribute::empty_directory(ino, &root));
        }
        attribute::attributes(ino, &*self.inode(ino)?, self.info.block_bytes)
    }

    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        Ok(self.directory(ino)?.entries())
    }

    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        self.directory(ino)?.lookup(name)
    }

    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        let is_empty = self.is_empty_directory(ino);
        let inode = if is_empty {
            None
        } else {
            Some(self.inode(ino)?)
        };
        let Some(inode) = inode.filter(|inode| inode.is_symlink()) else {
            return Err(Error::invalid("not a symbolic link"));
        };
        if inode.size > TARGET_BYTES_MAX {
            return Err(Error::corrupt(
                "the target of a symbolic link",
                format!("at most {TARGET_BYTES_MAX} bytes"),
                inode.size,
            ));
        }
        let extents = self.extents_of(ino, &inode)?;
        let mut target = vec![0; usize_from_u64(inode.size)];
        self.data.read(&self.pool, &extents, 0, &mut target)?;
        Ok(target)
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        if self.is_empty_directory(ino) {
            return Ok(Arc::new([]));
        }
        self.inode(ino)?;
        let (_, root, number) = self.place(ino)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.items(root, number, XATTR_ITEM, |data| {
            bytes += data.len();
            found.extend(xattr::parse_xattr_items(data)?);
            Ok(bytes <= XATTR_BYTES_MAX)
        })?;
        if bytes > XATTR_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("an inode has more than {XATTR_BYTES_MAX} bytes of attributes"),
            ));
        }
        Ok(found
            .into_iter()
            .map(|entry| Xattr {
                name: entry.name,
                value: entry.value,
            })
            .collect())
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let extents = self.file(ino)?;
        self.maps.get_or(ino, || {
            let map = extents.map(&self.pool)?;
            let weight = map.runs().len() + 1;
            Ok((Arc::new(map), weight))
        })
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let extents = self.file(ino)?;
        check_range(extents.size_bytes, offset, u64_from_usize(buf.len()))?;
        let map = self.runs(ino)?;
        content::read(&map, &self.volume, offset, buf, |at, part| {
            self.data.read(&self.pool, &extents, at, part)
        })
    }
}
