//! Headers of inodes of allocation groups (AGI), which reading does not need.
//!
//! # Why
//! The crate reads each at the mount of a clean filesystem, and refuses the filesystem if one is damaged or
//! lists files that were deleted while open. Those files have no name, and the kernel ignores them. It does
//! not ignore a damaged header (it reserves space by it even read-only). But a damaged header affects only
//! where new inodes go: files and directories have their own checksums.
//!
//! # On-disk layout
//! Linux, `fs/xfs/libxfs/xfs_format.h`, `struct xfs_agi`, the third sector of a group; big-endian: magic 0, version 4, group 8, blocks 12,
//! inodes 16, level of the tree 24, 64 lists of deleted inodes from 40 (all ones: empty), UUID 296, checksum 312 (little-endian).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use fs_core::BlockRead;
use fs_xfs::Superblock;
use fs_xfs::ag::Agi;

use crate::error::Result;
use crate::guest::device::device_error;

const MAGIC: u32 = 0x5841_4749;
const CHECKSUM_AT: usize = 312;
/// LIMIT: groups that a note names.
const NAMED_MAX: usize = 8;

/// Whether the crate has refused a filesystem because of such a header.
pub(super) fn is_refusal(error: &fs_xfs::Error) -> bool {
    use fs_xfs::Error as Xfs;
    match error {
        Xfs::DirtyLog => true,
        Xfs::ChecksumMismatch { what, .. } => *what == "AGI",
        Xfs::BlockIdentityMismatch { what, .. } => what.to_string().starts_with("AGI"),
        Xfs::BadSuperblock(what) => what.starts_with("AGI"),
        _ => false,
    }
}

/// A header of a group without inodes.
fn empty(superblock: &Superblock, group: u32) -> Vec<u8> {
    let mut sector = Vec::new();
    for word in [MAGIC, 1, group, superblock.agblocks, 0, 1, 1, 0] {
        sector.extend(word.to_be_bytes());
    }
    sector.resize(296, 0xff);
    sector.extend(superblock.meta_uuid);
    sector.resize(usize::from(superblock.sectsize).max(512), 0);
    let checksum = crc32c::crc32c(&sector).to_le_bytes();
    for (byte, place) in checksum.iter().zip(sector.iter_mut().skip(CHECKSUM_AT)) {
        *place = *byte;
    }
    sector
}

fn named(groups: &[u32]) -> String {
    let named: Vec<String> = groups.iter().take(NAMED_MAX).map(u32::to_string).collect();
    let more = if groups.len() > NAMED_MAX {
        ", ..."
    } else {
        ""
    };
    format!("{}{more}", named.join(", "))
}

/// Sectors by their offsets.
type Sectors = Vec<(u64, Vec<u8>)>;

/// The sectors, by their offsets, that the crate must see instead of the volume's own, with remarks.
pub(super) fn replace(
    device: &dyn BlockRead,
    superblock: &Superblock,
) -> Result<(Sectors, Vec<String>)> {
    let sector_bytes = u64::from(superblock.sectsize);
    let group_bytes =
        u64::from(superblock.agblocks).saturating_mul(u64::from(superblock.blocksize));
    let (mut sectors, mut damaged, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..superblock.agcount {
        let at = u64::from(group)
            .saturating_mul(group_bytes)
            .saturating_add(sector_bytes.saturating_mul(2));
        let mut sector = vec![0; usize::from(superblock.sectsize)];
        device
            .read_at(at, &mut sector)
            .map_err(|error| device_error(&error.to_string()))?;
        match Agi::parse(&sector, superblock, group) {
            Err(_) => damaged.push(group),
            Ok(agi) if agi.has_unlinked_inodes() => deleted.push(group),
            Ok(_) => continue,
        }
        sectors.push((at, empty(superblock, group)));
    }
    let mut notes = Vec::new();
    if !damaged.is_empty() {
        notes.push(format!(
            "the inode headers (AGI) of the allocation groups {} are damaged, so the kernel does not mount it before xfs_repair; files are read \
             without them",
            named(&damaged)
        ));
    }
    if !deleted.is_empty() {
        notes.push(format!(
            "files that were deleted while open are still there, without names, in the allocation groups {}",
            named(&deleted)
        ));
    }
    Ok((sectors, notes))
}
