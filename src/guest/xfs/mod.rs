//! XFS, read through the crate rust-fs-xfs.
//!
//! # Invariants
//! - The volume is never written. A log with pending work is replayed in memory, as the kernel would do on
//!   the disk. It contains only metadata, so a file's bytes are always those on the volume, and its runs are
//!   plain.
//! - A panic inside the crate yields `Corrupt`.
//! - Sizes claimed by a file are bounded here before the crate reads them: extents, directory entries,
//!   attributes.
//!
//! # Why
//! The crate's calls are stateless and each decodes the extents of a file again; this module decodes them
//! once and caches them.

mod attribute;
mod device;
mod device_number;
mod failure;
mod group;
mod item;
mod log;
mod run;

use std::collections::HashMap;
use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::inode::{Format, Inode};

use super::cache::PageCache;
use super::content;
use super::directory::Directory;
use super::fs::{Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Xattr};
use crate::block::run::RunMap;
use crate::block::{ReadAt, Weighted};
use crate::error::{Error, ErrorKind, Result};
use device::Mounted;
use failure::{guard, translate};
use run::Fork;

/// LIMIT: bytes of the volume cached per open filesystem.
const CACHE_BYTES: u64 = 8 << 20;
/// LIMIT: inodes, directory entries, and runs that are cached per open filesystem.
const INODES_KEPT: usize = 1024;
const ENTRIES_KEPT: usize = 1 << 18;
const RUNS_KEPT: usize = 1 << 18;

/// An inode, parsed and raw.
struct Node {
    inode: Inode,
    raw: Vec<u8>,
}

struct XfsFs {
    fs: Filesystem,
    volume: Arc<dyn ReadAt>,
    info: FsInfo,
    /// Numbers of device nodes that are newer in the log than in the inodes.
    numbers: HashMap<u64, u32>,
    nodes: Weighted<u64, Arc<Node>>,
    directories: Weighted<u64, Arc<Directory>>,
    maps: Weighted<u64, Arc<RunMap<()>>>,
}

/// Opens an XFS filesystem.
///
/// # Errors
/// `Unsupported` naming the feature; `LimitExceeded`; `Corrupt`; `Io`.
pub fn open(devices: &[Arc<dyn ReadAt>]) -> Result<Box<dyn GuestFs>> {
    let volume = devices.first().ok_or_else(|| Error::invalid("no device"))?;
    let volume: Arc<dyn ReadAt> = Arc::new(PageCache::new(Arc::clone(volume), CACHE_BYTES));
    let Mounted { fs, torn, notes } = device::mount(Arc::clone(&volume))?;
    let info = info(&fs, torn, notes)?;
    let numbers = if fs.was_replayed() {
        device_number::device_numbers(&fs)?
    } else {
        HashMap::new()
    };
    let opened = XfsFs {
        fs,
        volume,
        info,
        numbers,
        nodes: Weighted::new(INODES_KEPT),
        directories: Weighted::new(ENTRIES_KEPT),
        maps: Weighted::new(RUNS_KEPT),
    };
    if !opened.node(opened.root())?.inode.is_dir() {
        return Err(Error::corrupt(
            "the root of the filesystem",
            "a directory",
            "another file",
        ));
    }
    Ok(Box::new(opened))
}

fn info(fs: &Filesystem, torn: usize, mut notes: Vec<String>) -> Result<FsInfo> {
    let sb = fs.superblock();
    let (mut free_blocks, mut inodes, mut inodes_free) = (sb.fdblocks, sb.icount, sb.ifree);
    if fs.was_replayed() {
        notes.push("the log was replayed in memory".to_owned());
        // The superblock's counters are written only at an unmount.
        (free_blocks, inodes, inodes_free) = (0, 0, 0);
        let mut unknown = None;
        for group in 0..sb.agcount {
            let read = guard(|| {
                let space = fs.read_agf(group).map_err(translate)?;
                Ok((space, fs.read_agi(group).map_err(translate)?))
            });
            let (space, nodes) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    unknown.get_or_insert_with(|| error.report());
                    continue;
                }
                Err(error) => return Err(error),
            };
            for blocks in [space.freeblks, space.flcount, space.btreeblks] {
                free_blocks = free_blocks.saturating_add(u64::from(blocks));
            }
            inodes = inodes.saturating_add(u64::from(nodes.count));
            inodes_free = inodes_free.saturating_add(u64::from(nodes.freecount));
        }
        if let Some(report) = unknown {
            notes.push(format!("how much is in use is not known wholly: {report}"));
        }
    } else if let Some(report) = damaged_space(fs)? {
        notes.push(format!(
            "a header of free space (AGF) is damaged, so the kernel does not mount it before xfs_repair; files are read without it: {report}"
        ));
    }
    if torn > 0 {
        notes.push(format!(
            "the log ends with incomplete records, which were left out: {torn}"
        ));
    }
    if sb.has_case_insensitive_dirs() {
        notes.push("the guest finds names without regard to case; here they are exact".to_owned());
    }
    let block_bytes = u64::from(sb.blocksize);
    Ok(FsInfo {
        format: "xfs",
        label: Some(sb.fname.clone()).filter(|label| !label.is_empty()),
        uuid: super::bytes::uuid(sb.uuid),
        block_bytes: sb.blocksize,
        total_bytes: sb.dblocks.saturating_mul(block_bytes),
        used_bytes: sb
            .dblocks
            .saturating_sub(free_blocks)
            .saturating_mul(block_bytes),
        inodes: Some(inodes),
        inodes_free: Some(inodes_free),
        journal_replayed: Some(fs.was_replayed()),
        notes,
    })
}

/// The fault of the first damaged free-space header. Reading does not need these headers, so the crate reads
/// none.
fn damaged_space(fs: &Filesystem) -> Result<Option<String>> {
    for group in 0..fs.superblock().agcount {
        match guard(|| fs.read_agf(group).map_err(translate)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Some(error.report())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl XfsFs {
    fn node(&self, ino: GuestIno) -> Result<Arc<Node>> {
        self.nodes.get_or(ino.0, || {
            let missing = || Error::not_found(format!("there is no inode {} in the guest", ino.0));
            let sb = self.fs.superblock();
            let (_, block, _) = sb.split_ino(ino.0);
            let group_bits = u32::from(sb.inopblog) + u32::from(sb.agblklog);
            let group = ino.0.checked_shr(group_bits).unwrap_or(u64::MAX);
            if ino.0 == 0 || group >= u64::from(sb.agcount) || block >= sb.agblocks {
                return Err(missing());
            }
            let (inode, raw) = guard(|| self.fs.read_inode_raw(ino.0).map_err(translate))?;
            let mut node = Node { inode, raw };
            if let Some(number) = self.numbers.get(&ino.0)
                && let Some(field) = node.raw.get_mut(node.inode.data_fork_offset()..)
                && node.inode.format == Format::Dev
                && let Some(field) = field.first_chunk_mut()
            {
                *field = number.to_be_bytes();
            }
            if node.inode.mode == 0 || attribute::links(&node) == 0 {
                return Err(missing());
            }
            Ok((Arc::new(node), 1))
        })
    }

    fn directory(&self, ino: GuestIno) -> Result<Arc<Directory>> {
        let node = self.node(ino)?;
        if !node.inode.is_dir() {
            return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        self.directories.get_or(ino.0, || {
            run::check_directory(&self.fs, &node)?;
            let entries = guard(|| self.fs.read_dir(&node.inode, &node.raw).map_err(translate))?;
            let entries = entries.into_iter().map(|entry| Entry {
                name: entry.name,
                ino: GuestIno(entry.ino),
            });
            let directory = Directory::new(ino.0, entries)?;
            let weight = directory.weight();
            Ok((Arc::new(directory), weight))
        })
    }
}

impl GuestFs for XfsFs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        GuestIno(self.fs.superblock().rootino)
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        attribute::attributes(ino, &*self.node(ino)?, self.info.block_bytes)
    }

    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        Ok(self.directory(ino)?.entries())
    }

    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        self.directory(ino)?.lookup(name)
    }

    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if !node.inode.is_symlink() {
            return Err(Error::invalid("not a symbolic link"));
        }
        run::extents(&self.fs, &node, Fork::Data)?;
        guard(|| self.fs.read_link(&node.inode, &node.raw).map_err(translate))
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        let node = self.node(ino)?;
        guard(|| {
            attribute::check_xattrs(&self.fs, &node)?;
            let entries = self
                .fs
                .list_xattrs(&node.inode, &node.raw)
                .map_err(translate)?;
            Ok(entries
                .into_iter()
                .map(|entry| Xattr {
                    name: entry.name,
                    value: entry.value,
                })
                .collect())
        })
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let node = self.node(ino)?;
        if attribute::file_type(&node.inode)? != FileType::Regular {
            return Err(Error::invalid("not a regular file"));
        }
        self.maps.get_or(ino.0, || {
            let map = run::map(&self.fs, &node)?;
            let weight = run::weight(&map);
            Ok((Arc::new(map), weight))
        })
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let map = self.runs(ino)?;
        content::read(&map, &self.volume, offset, buf, |at, _| {
            Err(Error::new(ErrorKind::Corrupt, "a run that is not plain").at_offset(at))
        })
    }
}
