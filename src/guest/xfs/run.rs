//! The location of the blocks of a fork: its list or tree of extents, as extents and as runs over the volume.
//!
//! # Invariants
//! - Every run lies in one allocation group of the filesystem, and no block of a tree is visited twice.
//! - An extent that was allocated but never written is a hole: the bytes there are another file's old data.
//!
//! # Why
//! The crate's own walk is bounded only by the inode's number of extents, which may have any value.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashSet;

use fs_xfs::extent::{self, Extent};
use fs_xfs::inode::Format;
use fs_xfs::{Filesystem, Superblock, bmbt};

use super::Node;
use super::failure::{guard, translate};
use crate::block::run::{Run, RunMap, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u32};

/// LIMIT: extents of one fork (our limit: about 200 MB of memory).
const EXTENTS_MAX: u64 = 4 << 20;

/// One of an inode's forks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// Content, directory entries, or the target of a symlink.
    Data,
    /// Extended attributes.
    Attribute,
}

/// The extents of a fork, in the order of its blocks.
pub(super) fn extents(fs: &Filesystem, node: &Node, fork: Fork) -> Result<Vec<Extent>> {
    let sb = fs.superblock();
    let inode = &node.inode;
    let (range, format, count) = match fork {
        Fork::Data => (
            Some(inode.data_fork_range(node.raw.len())),
            inode.format,
            inode.nextents,
        ),
        Fork::Attribute => (
            inode.attr_fork_range(node.raw.len()),
            inode.aformat,
            u64::from(inode.anextents),
        ),
    };
    let Some(bytes) = range.and_then(|(start, end)| node.raw.get(start..end)) else {
        return Ok(Vec::new());
    };
    if count > EXTENTS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("inode {} is in more than {EXTENTS_MAX} pieces", inode.ino),
        ));
    }
    let extents = guard(|| match format {
        Format::Extents => extent::parse_list(bytes, count).map_err(translate),
        Format::Btree => {
            let mut visited = HashSet::new();
            bmbt::walk(bytes, count, sb, inode.ino, |block| {
                read_node(fs, block, &mut visited)
            })
            .map_err(translate)
        }
        _ => Ok(Vec::new()),
    })?;
    for extent in &extents {
        check(sb, inode.ino, extent)?;
    }
    Ok(extents)
}

/// One block of the tree.
fn read_node(fs: &Filesystem, block: u64, visited: &mut HashSet<u64>) -> fs_xfs::Result<Vec<u8>> {
    if !visited.insert(block) {
        return Err(fs_xfs::Error::BadSuperblock(format!(
            "a tree of extents runs in a circle at block {block}"
        )));
    }
    let sb = fs.superblock();
    let mut bytes = vec![0; usize_from_u32(sb.blocksize)];
    fs.device().read_at(sb.fsblock_offset(block), &mut bytes)?;
    Ok(bytes)
}

/// Checks that an extent lies within one allocation group of the filesystem (Linux: `xfs_verify_fsbext`).
fn check(sb: &Superblock, ino: u64, extent: &Extent) -> Result<()> {
    let shift = u32::from(sb.agblklog);
    let group = extent.startblock.checked_shr(shift).unwrap_or(0);
    let first = group
        .checked_shl(shift)
        .and_then(|base| extent.startblock.checked_sub(base));
    let length = sb
        .dblocks
        .saturating_sub(group.saturating_mul(u64::from(sb.agblocks)))
        .min(u64::from(sb.agblocks));
    let end = first.and_then(|first| first.checked_add(extent.blockcount));
    if group < u64::from(sb.agcount) && first > Some(0) && end.is_some_and(|end| end <= length) {
        return Ok(());
    }
    Err(Error::corrupt(
        format!("an extent of inode {ino}"),
        "one within an allocation group",
        format!("{} blocks at {}", extent.blockcount, extent.startblock),
    ))
}

/// Total number of blocks of a fork.
pub(super) fn blocks(extents: &[Extent]) -> u64 {
    extents
        .iter()
        .fold(0, |sum, extent| extent.blockcount.saturating_add(sum))
}

/// The map of a regular file.
pub(super) fn map(fs: &Filesystem, node: &Node) -> Result<RunMap<()>> {
    let inode = &node.inode;
    if !matches!(inode.format, Format::Extents | Format::Btree) {
        return Err(Error::corrupt(
            format!("the format of file {}", inode.ino),
            "extents",
            format!("{:?}", inode.format),
        ));
    }
    if inode.is_realtime() {
        return Err(Error::unsupported(
            "XFS: the file lies on a realtime device",
        ));
    }
    let sb = fs.superblock();
    let block_bytes = u64::from(sb.blocksize);
    let bytes = |blocks: u64| blocks.saturating_mul(block_bytes);
    let runs = extents(fs, node, Fork::Data)?;
    let runs = runs
        .iter()
        .filter(|extent| !extent.unwritten)
        .map(|extent| Run {
            start: bytes(extent.startoff),
            length_bytes: bytes(extent.blockcount),
            target: Target::Source {
                source: (),
                offset: sb.fsblock_offset(extent.startblock),
            },
        });
    RunMap::new(inode.size, runs)
}

/// Weight of a map in a cache.
pub(super) fn weight(map: &RunMap<()>) -> usize {
    map.runs().len().saturating_add(1)
}

/// LIMIT: bytes of the entries of a directory (our limit).
const DIRECTORY_BYTES_MAX: u64 = 512 << 20;
/// Offset in a directory from which on there are no entries but their index (Linux: `XFS_DIR2_LEAF_OFFSET`).
const DIRECTORY_INDEX: u64 = 1 << 35;

/// Refuses a directory that is too large to read.
pub(super) fn check_directory(fs: &Filesystem, node: &Node) -> Result<()> {
    let block_bytes = u64::from(fs.superblock().blocksize);
    let extents = extents(fs, node, Fork::Data)?;
    let entries: Vec<Extent> = extents
        .into_iter()
        .filter(|extent| extent.startoff.saturating_mul(block_bytes) < DIRECTORY_INDEX)
        .collect();
    if blocks(&entries).saturating_mul(block_bytes) > DIRECTORY_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "directory {} has more than {DIRECTORY_BYTES_MAX} bytes in {} extents",
                node.inode.ino,
                u64_from_usize(entries.len())
            ),
        ));
    }
    Ok(())
}
