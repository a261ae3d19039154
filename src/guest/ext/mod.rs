//! ext2, ext3 and ext4, read through the crate rust-fs-ext4.
//!
//! # Invariants
//! - The volume is never written. A dirty journal is replayed in memory, as the kernel would do on the disk.
//!   The replayed blocks are known, and the parts of a file in them are `Encoded`.
//! - A panic inside the crate yields `Corrupt`.
//!
//! # Why
//! The crate refuses directories of ext2 and ext3 (block maps), returns ACLs in their on-disk form, lists the
//! attribute with inline data, reads 4 KiB at a time, ignores the checksums of directories and extent trees,
//! and refuses a filesystem for the checksum of one group. This module corrects all of these with the crate's
//! public functions.

mod attribute;
mod device;
mod journal;
mod names;
mod run;
mod view;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fs_ext4::Filesystem;
use fs_ext4::dir::DirEntry;
use fs_ext4::inode::{Inode, InodeFlags};
use lru::LruCache;

use super::directory::Directory;
use super::fs::{Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Xattr};
use crate::block::run::RunMap;
use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;
use device::{guard, translate};
use view::View;

/// LIMIT: inodes and directories kept per open filesystem.
const INODES_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const DIRECTORIES_KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();
/// LIMIT: block groups (our limit: 512 TiB of groups of 128 MiB). Their descriptors are all held in memory,
/// and a sparse disk may claim any number.
const GROUPS_MAX: u64 = 1 << 22;
/// The root directory.
const ROOT: u32 = 2;

/// An inode, parsed and raw.
struct Node {
    inode: Inode,
    raw: Vec<u8>,
}

struct ExtFs {
    fs: Filesystem,
    info: FsInfo,
    /// Blocks with a newer copy in the journal.
    replayed: BTreeSet<u64>,
    nodes: Mutex<LruCache<u32, Arc<Node>>>,
    directories: Mutex<LruCache<u32, Arc<Directory>>>,
}

/// Opens an ext filesystem.
///
/// # Errors
/// `Unsupported` naming the feature; `LimitExceeded`; `Corrupt`; `Io`.
pub fn open(devices: &[Arc<dyn ReadAt>]) -> Result<Box<dyn GuestFs>> {
    let volume = devices.first().ok_or_else(|| Error::invalid("no device"))?;
    let (fs, mut notes) = mount(volume)?;
    let replayed = guard(|| replayed_blocks(&fs))?;
    let sb = &fs.sb;
    if !replayed.is_empty() {
        notes.push(format!(
            "the journal was replayed in memory: {} blocks",
            replayed.len()
        ));
    }
    if sb.state & 2 != 0 {
        notes.push("the guest's kernel has marked the filesystem as having errors".to_owned());
    }
    let block_bytes = sb.block_size();
    let info = FsInfo {
        format: fs.flavor.name(),
        label: Some(sb.volume_name.clone()).filter(|label| !label.is_empty()),
        uuid: super::bytes::uuid(sb.uuid),
        block_bytes,
        total_bytes: sb.blocks_count.saturating_mul(block_bytes.into()),
        used_bytes: sb
            .blocks_count
            .saturating_sub(sb.free_blocks_count)
            .saturating_mul(block_bytes.into()),
        inodes: Some(sb.inodes_count.into()),
        inodes_free: Some(sb.free_inodes_count.into()),
        journal_replayed: Some(!replayed.is_empty()),
        notes,
    };
    Ok(Box::new(ExtFs {
        fs,
        info,
        replayed,
        nodes: Mutex::new(LruCache::new(INODES_KEPT)),
        directories: Mutex::new(LruCache::new(DIRECTORIES_KEPT)),
    }))
}

/// Mounts a volume as the kernel would read-only: faults that the kernel tolerates are tolerated and noted.
fn mount(volume: &Arc<dyn ReadAt>) -> Result<(Filesystem, Vec<String>)> {
    let mut view = View::new(volume)?;
    let groups = view.superblock.block_group_count();
    if groups > GROUPS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("the filesystem has {groups} block groups, at most {GROUPS_MAX} are read"),
        ));
    }
    journal::check_external(&view)?;
    let mut notes = Vec::new();
    let mut mounted = view.mount()?;
    if matches!(mounted, Err(fs_ext4::Error::BadChecksum { .. })) {
        let bad = view.pass_descriptors()?;
        if !bad.is_empty() {
            notes.push(bad_descriptors(&bad));
            mounted = view.mount()?;
        }
    }
    if matches!(mounted, Err(fs_ext4::Error::Unsupported(_)))
        && journal::pass_fast_commit(&mut view)?
    {
        mounted = view.mount()?;
    }
    let mut fs = mounted.map_err(translate)?;
    if journal::pass_unwanted(&mut view, &fs)? {
        notes.push(
            "the journal is not clean, but the filesystem does not ask for it: it was left alone, as the kernel does"
                .to_owned(),
        );
        fs = view.mount()?.map_err(translate)?;
    }
    Ok((fs, notes))
}

fn bad_descriptors(groups: &[u64]) -> String {
    let named: Vec<String> = groups.iter().take(8).map(u64::to_string).collect();
    let more = match groups.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "the descriptors of the block groups {}{more} have wrong checksums; they were taken as they are, as the kernel does read-only: \
         files whose inodes lie there may be wrong",
        named.join(", ")
    )
}

/// The blocks that the mount replayed: a second walk of the log, which is still on the volume.
fn replayed_blocks(fs: &Filesystem) -> Result<BTreeSet<u64>> {
    let Some(journal) = fs_ext4::jbd2::read_superblock(fs).map_err(translate)? else {
        return Ok(BTreeSet::new());
    };
    if journal.is_clean() {
        return Ok(BTreeSet::new());
    }
    let plan = fs_ext4::journal::walk(fs, &journal).map_err(translate)?;
    Ok(plan.writes.iter().map(|write| write.fs_block).collect())
}

impl ExtFs {
    fn node(&self, ino: GuestIno) -> Result<Arc<Node>> {
        let missing = || Error::not_found(format!("there is no inode {} in the guest", ino.0));
        let number = u32::try_from(ino.0)
            .ok()
            .filter(|n| *n <= self.fs.sb.inodes_count)
            .filter(|n| *n == ROOT || *n >= self.fs.sb.first_inode)
            .ok_or_else(missing)?;
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&number) {
            return Ok(Arc::clone(node));
        }
        drop(nodes);
        let (inode, raw) = guard(|| self.fs.read_inode_verified(number).map_err(translate))?;
        if inode.links_count == 0 || inode.mode == 0 {
            return Err(missing());
        }
        let node = Arc::new(Node { inode, raw });
        nodes = self.nodes.lock();
        nodes.put(number, Arc::clone(&node));
        Ok(node)
    }

    /// All entries, as the crate returns them.
    fn raw_entries(&self, number: u32, node: &Node) -> Result<Vec<DirEntry>> {
        if node.inode.has_inline_data() {
            return self.fs.read_dir_ino(number).map_err(translate);
        }
        names::load(&self.fs, number, &node.inode)
    }

    fn directory(&self, ino: GuestIno) -> Result<Arc<Directory>> {
        let node = self.node(ino)?;
        if !node.inode.is_dir() {
            return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        // `node` has checked that it fits.
        let number = u32::try_from(ino.0).unwrap_or(0);
        let lock = || self.directories.lock();
        if let Some(directory) = lock().get(&number) {
            return Ok(Arc::clone(directory));
        }
        let entries = guard(|| self.raw_entries(number, &node))?;
        let entries = entries.into_iter().map(|entry| Entry {
            name: entry.name,
            ino: GuestIno(entry.inode.into()),
        });
        let directory = Arc::new(Directory::new(ino.0, entries)?);
        lock().put(number, Arc::clone(&directory));
        Ok(directory)
    }

    fn regular(&self, ino: GuestIno) -> Result<Arc<Node>> {
        let node = self.node(ino)?;
        if attribute::file_type(&node.inode)? != FileType::Regular {
            return Err(Error::invalid("not a regular file"));
        }
        fs_ext4::file_io::refuse_encrypted(&node.inode).map_err(translate)?;
        Ok(node)
    }
}

impl GuestFs for ExtFs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn root(&self) -> GuestIno {
        GuestIno(ROOT.into())
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        let node = self.node(ino)?;
        let features = self.fs.sb.feature_ro_compat;
        attribute::attributes(ino, &node.inode, &node.raw, features, self.info.block_bytes)
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
        guard(|| {
            if node.inode.has_inline_data() {
                // The crate reads only the first 60 bytes of such a target.
                return fs_ext4::file_io::read_inline(&self.fs, &node.inode, &node.raw)
                    .map_err(translate);
            }
            self.fs
                .read_link(u32::try_from(ino.0).unwrap_or(0))
                .map_err(translate)
        })
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        let node = self.node(ino)?;
        guard(|| {
            let entries = fs_ext4::xattr::read_all_resolved(&self.fs, &node.inode, &node.raw);
            Ok(attribute::xattrs(entries.map_err(translate)?)?.into())
        })
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let node = self.regular(ino)?;
        let inode = &node.inode;
        let runs = guard(|| {
            if inode.has_inline_data() {
                let bytes = fs_ext4::file_io::read_inline(&self.fs, inode, &node.raw);
                return Ok(run::inline(bytes.map_err(translate)?));
            }
            let number = u32::try_from(ino.0).unwrap_or(0);
            let mapper = run::Mapper::new(&self.fs, &self.replayed, (number, inode.generation));
            if inode.flags & InodeFlags::EXTENTS.bits() != 0 {
                mapper.extents(&inode.block)
            } else {
                mapper.blocks(&inode.block, inode.size)
            }
        })?;
        RunMap::new(inode.size, runs).map(Arc::new)
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let node = self.regular(ino)?;
        let length = u64_from_usize(buf.len());
        check_range(node.inode.size, offset, length)?;
        let number = u32::try_from(ino.0).unwrap_or(0);
        let done = guard(|| {
            fs_ext4::file_io::read_with_raw_verified(
                &self.fs,
                &node.inode,
                &node.raw,
                number,
                offset,
                length,
                buf,
            )
            .map_err(translate)
        })?;
        if done == length {
            Ok(())
        } else {
            Err(Error::corrupt("bytes of a guest's file", length, done).at_offset(offset))
        }
    }
}
