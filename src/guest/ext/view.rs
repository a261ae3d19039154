//! The crate's view of a volume: a few bytes that it would refuse, but the kernel accepts, are replaced.
//!
//! # Invariants
//! The volume itself is never written. The view changes only metadata, never the content of files.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use fs_ext4::checksum::{Checksummer, group_desc_csum, linux_crc32c};
use fs_ext4::features::{Incompat, RoCompat};
use fs_ext4::{Filesystem, Superblock};

use super::device::{ExtVolume, guard, translate};
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::guest::bytes::le16;
use crate::guest::cache::PageCache;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of the volume cached per open filesystem.
const CACHE_BYTES: u64 = 8 << 20;
/// LIMIT: group descriptors with a wrong checksum (our limit): with more, the table is something else.
const DESCRIPTORS_MAX: usize = 4096;
/// Offset of the superblock, and its length.
const SUPERBLOCK: (u64, usize) = (1024, 1024);
/// `s_journal_inum`, the checksum of the superblock, and that of a descriptor, each as an offset in its
/// structure.
const JOURNAL_INODE_AT: usize = 0xe0;
const SUPERBLOCK_CHECKSUM_AT: usize = 0x3fc;
const DESCRIPTOR_CHECKSUM_AT: usize = 0x1e;

/// The volume, and the bytes that replace its own.
struct Patched {
    below: Arc<dyn ReadAt>,
    patches: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Patched {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.below.read_at(offset, buf)?;
        let end = offset.saturating_add(u64_from_usize(buf.len()));
        for (at, bytes) in &self.patches {
            for (place, byte) in (*at..end).zip(bytes) {
                let target = place
                    .checked_sub(offset)
                    .and_then(|n| buf.get_mut(usize_from_u64(n)));
                if let Some(target) = target {
                    *target = *byte;
                }
            }
        }
        Ok(())
    }
}

/// A volume with the crate's view of it.
pub(super) struct View {
    volume: Arc<dyn ReadAt>,
    pub(super) superblock: Superblock,
    patches: Vec<(u64, Vec<u8>)>,
}

impl View {
    /// Reads the superblock of a volume.
    pub(super) fn new(volume: &Arc<dyn ReadAt>) -> Result<Self> {
        let device = ExtVolume(Arc::clone(volume));
        let superblock = guard(|| Superblock::read(&device).map_err(translate))?;
        Ok(Self {
            volume: Arc::clone(volume),
            superblock,
            patches: Vec::new(),
        })
    }

    /// Replaces the volume's bytes at `offset` with `bytes`.
    pub(super) fn patch(&mut self, offset: u64, bytes: &[u8]) {
        self.patches.push((offset, bytes.to_vec()));
    }

    fn with(&self, more: &[(u64, Vec<u8>)]) -> fs_ext4::Result<Filesystem> {
        let mut patches = self.patches.clone();
        patches.extend_from_slice(more);
        let below = Arc::clone(&self.volume);
        let patched: Arc<dyn ReadAt> = if patches.is_empty() {
            below
        } else {
            Arc::new(Patched { below, patches })
        };
        let cached = Arc::new(PageCache::new(patched, CACHE_BYTES));
        Filesystem::mount(Arc::new(ExtVolume(cached)))
    }

    /// Mounts it; the inner error is the crate's own, so that the caller can work around it.
    pub(super) fn mount(&self) -> Result<fs_ext4::Result<Filesystem>> {
        guard(|| Ok(self.with(&[])))
    }

    /// Mounts it as if it had no journal, without replay.
    pub(super) fn mount_without_journal(&self) -> Result<Filesystem> {
        let mut raw = self.superblock.raw.clone();
        if let Some(inode) = raw.get_mut(JOURNAL_INODE_AT..JOURNAL_INODE_AT.saturating_add(4)) {
            inode.fill(0);
        }
        let has_checksum = self.superblock.feature_ro_compat & RoCompat::METADATA_CSUM.bits() != 0;
        if let (true, Some(bytes)) = (has_checksum, raw.get(..SUPERBLOCK_CHECKSUM_AT)) {
            let checksum = linux_crc32c(!0, bytes).to_le_bytes();
            if let Some(field) = raw.get_mut(SUPERBLOCK_CHECKSUM_AT..SUPERBLOCK.1) {
                field.copy_from_slice(&checksum);
            }
        }
        guard(|| self.with(&[(SUPERBLOCK.0, raw.clone())]).map_err(translate))
    }

    /// Makes the crate accept group descriptors with wrong checksums, as the kernel does for a read-only
    /// mount; returns their groups. The structures to which they point are still checked.
    pub(super) fn pass_descriptors(&mut self) -> Result<Vec<u64>> {
        let sb = &self.superblock;
        let checksummer = Checksummer::from_superblock(sb);
        let block_bytes = u64::from(sb.block_size());
        let mut block = vec![0; usize_from_u64(block_bytes)];
        let (mut held, mut found, mut patches) = (None, Vec::new(), Vec::new());
        for group in 0..sb.block_group_count() {
            let (number, at) = sb.descriptor_location(group);
            let start = number.saturating_mul(block_bytes);
            if held != Some(number) {
                self.volume.read_at(start, &mut block)?;
                held = Some(number);
            }
            let bytes = usize::from(sb.desc_size);
            let descriptor = block.get(at..at.saturating_add(bytes)).unwrap_or_default();
            let group32 = u32::try_from(group).unwrap_or(u32::MAX);
            let wanted = group_desc_csum(sb, &checksummer, group32, descriptor);
            let stored = le16(descriptor, DESCRIPTOR_CHECKSUM_AT);
            let Some(wanted) = wanted.filter(|wanted| Some(*wanted) != stored) else {
                continue;
            };
            if found.len() >= DESCRIPTORS_MAX {
                return Err(Error::corrupt(
                    "the checksums of group descriptors",
                    format!("at most {DESCRIPTORS_MAX} that are not right"),
                    "more",
                ));
            }
            let place = at.saturating_add(DESCRIPTOR_CHECKSUM_AT);
            patches.push((
                start.saturating_add(u64_from_usize(place)),
                wanted.to_le_bytes().to_vec(),
            ));
            found.push(group);
        }
        self.patches.append(&mut patches);
        Ok(found)
    }

    /// Whether the superblock has this incompatible feature.
    pub(super) const fn has(&self, feature: Incompat) -> bool {
        self.superblock.feature_incompat & feature.bits() != 0
    }
}
