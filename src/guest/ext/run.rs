//! The location of a file's bytes: its extent tree or block map as runs over the volume.
//!
//! # Invariants
//! - Every block lies on the filesystem, and no node of a tree is visited twice: a circular tree is damage.
//! - A block with a newer copy in the journal is `Encoded`: the bytes on the volume are not those that the
//!   kernel would show.
//!
//! # Why
//! The crate's own walk of the tree bounds its depth but not its work, and a hostile tree of depth 5 has 340^5 leaves.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeSet, HashSet};

use fs_ext4::Filesystem;
use fs_ext4::extent::{Extent, ExtentHeader, ExtentIdx};

use super::device::translate;
use crate::block::run::{Run, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::le32;
use crate::types::width::u64_from_usize;

/// LIMIT: deepest extent tree (Linux: `EXT4_MAX_EXTENT_DEPTH`).
const DEPTH_MAX: u16 = 5;
/// LIMIT: runs of one file (our limit: about 200 MB of memory; a file with one block in each run would have
/// 16 GiB).
const RUNS_MAX: usize = 4 << 20;
/// Bytes of a header, an index and a leaf entry of the tree.
const ENTRY_BYTES: usize = 12;

/// Gathers the runs of one file.
pub(super) struct Mapper<'a> {
    fs: &'a Filesystem,
    replayed: &'a BTreeSet<u64>,
    block_bytes: u64,
    /// The inode's number and generation, which the checksums of its nodes include.
    inode: (u32, u32),
    visited: HashSet<u64>,
    runs: Vec<Run<()>>,
}

fn corrupt(what: &'static str, found: impl std::fmt::Display) -> Error {
    Error::corrupt(what, "a sound one", found)
}

impl<'a> Mapper<'a> {
    /// A mapper; `replayed` are the blocks with a newer copy in the journal.
    pub(super) fn new(fs: &'a Filesystem, replayed: &'a BTreeSet<u64>, inode: (u32, u32)) -> Self {
        Self {
            fs,
            replayed,
            block_bytes: u64::from(fs.sb.block_size()),
            inode,
            visited: HashSet::new(),
            runs: Vec::new(),
        }
    }

    fn push(&mut self, run: Run<()>) -> Result<()> {
        if self.runs.len() >= RUNS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the file is in more than {RUNS_MAX} pieces"),
            ));
        }
        self.runs.push(run);
        Ok(())
    }

    /// Adds `count` blocks from `logical` on, which lie at `physical` and after.
    fn add(&mut self, logical: u64, physical: u64, count: u64) -> Result<()> {
        let end = physical
            .checked_add(count)
            .filter(|end| *end <= self.fs.sb.blocks_count && physical > 0)
            .ok_or_else(|| {
                Error::corrupt(
                    "a file's block",
                    format!("one of the {} blocks", self.fs.sb.blocks_count),
                    physical,
                )
            })?;
        let mut at = physical;
        // The pieces between replayed blocks.
        for block in self.replayed.range(physical..end).copied().chain([end]) {
            let start = logical.saturating_add(at.saturating_sub(physical));
            self.add_plain(start, at, block.saturating_sub(at))?;
            if block < end {
                let start = logical.saturating_add(block.saturating_sub(physical));
                self.push(Run {
                    start: start.saturating_mul(self.block_bytes),
                    length_bytes: self.block_bytes,
                    target: Target::Encoded,
                })?;
            }
            at = block.saturating_add(1);
        }
        Ok(())
    }

    fn add_plain(&mut self, logical: u64, physical: u64, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        // Block numbers are below 2^48 and blocks have at most 64 KiB: no product exceeds 2^64.
        let start = logical.saturating_mul(self.block_bytes);
        let offset = physical.saturating_mul(self.block_bytes);
        let length_bytes = count.saturating_mul(self.block_bytes);
        if let Some(last) = self.runs.last_mut()
            && let Target::Source { offset: before, .. } = last.target
            && before.saturating_add(last.length_bytes) == offset
            && last.start.saturating_add(last.length_bytes) == start
        {
            last.length_bytes = last.length_bytes.saturating_add(length_bytes);
            return Ok(());
        }
        self.push(Run {
            start,
            length_bytes,
            target: Target::Source { source: (), offset },
        })
    }

    fn read_node(&mut self, block: u64) -> Result<Vec<u8>> {
        if block == 0 || block >= self.fs.sb.blocks_count {
            return Err(corrupt("a block of a file's map lies outside", block));
        }
        if !self.visited.insert(block) {
            return Err(corrupt("a file's map runs in a circle at block", block));
        }
        self.fs.read_block(block).map_err(translate)
    }

    /// The runs of the extent tree with the root `root`.
    pub(super) fn extents(mut self, root: &[u8]) -> Result<Vec<Run<()>>> {
        let depth = ExtentHeader::parse(root).map_err(translate)?.depth;
        if depth > DEPTH_MAX {
            return Err(corrupt("the depth of an extent tree", depth));
        }
        self.node(root, depth)?;
        Ok(self.runs)
    }

    fn node(&mut self, node: &[u8], depth: u16) -> Result<()> {
        let header = ExtentHeader::parse(node).map_err(translate)?;
        if header.depth != depth {
            return Err(corrupt(
                "the depth of a node of an extent tree",
                header.depth,
            ));
        }
        let entries = node
            .get(ENTRY_BYTES..)
            .unwrap_or_default()
            .chunks_exact(ENTRY_BYTES);
        if usize::from(header.entries) > entries.len() {
            return Err(corrupt("the number of extents in a node", header.entries));
        }
        for entry in entries.take(usize::from(header.entries)) {
            match depth.checked_sub(1) {
                None => {
                    let extent = Extent::parse(entry).map_err(translate)?;
                    // Allocated but never written: it reads as zero, and the bytes on the volume are another
                    // file's old data.
                    if !extent.uninitialized {
                        self.add(
                            u64::from(extent.logical_block),
                            extent.physical_block,
                            u64::from(extent.length),
                        )?;
                    }
                }
                Some(below) => {
                    let index = ExtentIdx::parse(entry).map_err(translate)?;
                    let child = self.read_node(index.leaf_block)?;
                    let (number, generation) = self.inode;
                    if !self.fs.csum.verify_extent_tail(number, generation, &child) {
                        let what = "a node of an extent tree has another checksum, at block";
                        return Err(corrupt(what, index.leaf_block));
                    }
                    self.node(&child, below)?;
                }
            }
        }
        Ok(())
    }

    /// The runs of the direct and indirect blocks in `map`, up to `size_bytes`.
    pub(super) fn blocks(mut self, map: &[u8], size_bytes: u64) -> Result<Vec<Run<()>>> {
        let blocks = size_bytes.div_ceil(self.block_bytes.max(1));
        let pointers = self.block_bytes.checked_div(4).unwrap_or(0);
        let mut logical = 0;
        // Twelve direct pointers, then one for each of one, two and three levels.
        for slot in 0..15usize {
            let level = slot.saturating_sub(11).min(3);
            let pointer = le32(map, slot.saturating_mul(4)).unwrap_or(0);
            let span = (0..level).fold(1u64, |span, _| span.saturating_mul(pointers));
            if logical < blocks {
                self.pointer(u64::from(pointer), level, logical, blocks, pointers)?;
            }
            logical = logical.saturating_add(span);
        }
        Ok(self.runs)
    }

    fn pointer(
        &mut self,
        pointer: u64,
        level: usize,
        logical: u64,
        blocks: u64,
        pointers: u64,
    ) -> Result<()> {
        if pointer == 0 {
            return Ok(());
        }
        let Some(below) = level.checked_sub(1) else {
            return self.add(logical, pointer, 1);
        };
        let node = self.read_node(pointer)?;
        let span = (0..below).fold(1u64, |span, _| span.saturating_mul(pointers));
        for (entry, n) in node.chunks_exact(4).zip(0u64..) {
            let at = logical.saturating_add(n.saturating_mul(span));
            if at >= blocks {
                break;
            }
            self.pointer(
                u64::from(le32(entry, 0).unwrap_or(0)),
                below,
                at,
                blocks,
                pointers,
            )?;
        }
        Ok(())
    }
}

/// A run that contains `bytes` itself.
pub(super) fn inline(bytes: Vec<u8>) -> Vec<Run<()>> {
    vec![Run {
        start: 0,
        length_bytes: u64_from_usize(bytes.len()),
        target: Target::Inline(bytes.into()),
    }]
}
