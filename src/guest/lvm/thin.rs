//! The metadata of a thin pool (dm-thin): the chunks of the pool that belong to a thin volume.
//!
//! # On-disk layout
//! Linux, `drivers/md/dm-thin-metadata.c` and `persistent-data/dm-btree-internal.h`; blocks of 4096 bytes, little-endian. Each block
//! begins with its checksum: CRC-32C of the rest, not inverted, xor a constant of its kind.
//!
//! | superblock (block 0) | size | field |
//! |---|---|---|
//! | 4 | 4 | flags; 1: needs a check |
//! | 8 | 8 | own block, 0 |
//! | 32, 40 | 8, 4 | magic 27022010, version 1 or 2 |
//! | 48 | 8 | transaction |
//! | 320, 328 | 8 | roots: of the mappings, of the devices |
//! | 336, 340 | 4 | sectors of a chunk, of a metadata block (8) |
//! | 344 | 8 | metadata blocks |
//! | 360 | 4 | features that must be known: none is |
//!
//! | node | size | field |
//! |---|---|---|
//! | 4 | 4 | 1: inner, 2: leaf |
//! | 8 | 8 | own block |
//! | 16, 20, 24 | 4 | entries, room for entries, bytes of a value |
//! | 32 | 8 each | keys, in order; behind all the room for keys the values |
//!
//! The mappings are a tree of trees: from device number to the root of its own tree, and there from chunk of
//! the volume to chunk of the pool (40 bits from bit 24 on; the lower bits are the time).
//!
//! # Invariants
//! Every walk ends: depth is bounded, no block occurs twice in one tree, and a child's keys lie within the
//! bounds in its parent.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::cell::Cell;
use std::collections::HashSet;

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le32, le64};
use crate::types::width::{u64_from_usize, usize_from_u32};

const BLOCK_BYTES: usize = 4096;
const SECTOR_BYTES: u64 = 512;
const SUPERBLOCK_MAGIC: u64 = 27_022_010;
const SUPERBLOCK_XOR: u32 = 160_774;
const NODE_XOR: u32 = 121_107;
/// LIMIT: levels of a tree (our limit; 2^40 chunks need 6).
const DEPTH_MAX: u32 = 12;
/// LIMIT: pieces of one volume (our limit: a million of 64 KiB are 64 GiB without any adjacent ones; 40 MiB
/// of memory).
pub(super) const PIECES_MAX: usize = 2_000_000;
/// LIMIT: chunk numbers (40 bits of a mapping).
const CHUNKS_MAX: u64 = 1 << 40;

/// Contiguous chunks of a volume and of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// First chunk in the volume.
    pub(super) chunk: u64,
    /// First chunk in the pool.
    pub(super) at: u64,
    /// Number of chunks.
    pub(super) chunks: u64,
}

/// The metadata of a pool.
pub(super) struct Metadata<'a> {
    device: &'a dyn ReadAt,
    /// Bytes of a chunk.
    pub(super) chunk_bytes: u64,
    /// The last transaction that LVM committed to it.
    pub(super) transaction: u64,
    /// Whether the kernel has found an error in it.
    pub(super) needs_check: bool,
    mappings: u64,
    blocks: u64,
    nodes_read: Cell<u64>,
}

/// The kernel's CRC-32C: the usual one, but not inverted at the end.
fn checksum(block: &[u8], xor: u32) -> Option<u32> {
    Some(!crc32c::crc32c(block.get(4..)?) ^ xor)
}

fn short() -> Error {
    Error::corrupt("thin pool metadata", "a whole block", "less")
}

fn load_block(device: &dyn ReadAt, number: u64, xor: u32) -> Result<Vec<u8>> {
    let offset = number.saturating_mul(u64_from_usize(BLOCK_BYTES));
    let end = offset.saturating_add(u64_from_usize(BLOCK_BYTES));
    if end > device.size_bytes() {
        let expected = format!("a block below {}", device.size_bytes());
        return Err(Error::corrupt("thin pool metadata", expected, number));
    }
    let mut block = vec![0; BLOCK_BYTES];
    device.read_at(offset, &mut block)?;
    let stored = le32(&block, 0).ok_or_else(short)?;
    let found = checksum(&block, xor).ok_or_else(short)?;
    if stored != found {
        let (expected, found) = (format!("{stored:08x}"), format!("{found:08x}"));
        let what = "thin pool metadata checksum";
        return Err(Error::corrupt(what, expected, found).at_offset(offset));
    }
    let own = le64(&block, 8).ok_or_else(short)?;
    if own != number {
        return Err(Error::corrupt("thin pool metadata: own block", number, own).at_offset(offset));
    }
    Ok(block)
}

struct Node {
    is_leaf: bool,
    /// Keys and values.
    entries: Vec<(u64, u64)>,
}

fn parse_node(block: &[u8]) -> Result<Node> {
    let word = |at| le32(block, at).ok_or_else(short);
    let (flags, entries, room, value_bytes) = (word(4)?, word(16)?, word(20)?, word(24)?);
    let is_leaf = match flags {
        1 => false,
        2 => true,
        other => {
            return Err(Error::corrupt(
                "thin pool metadata: kind of a node",
                "1 or 2",
                other,
            ));
        }
    };
    if value_bytes != 8 {
        return Err(Error::corrupt(
            "thin pool metadata: bytes of a value",
            8,
            value_bytes,
        ));
    }
    let room_bytes = u64::from(room).saturating_mul(16);
    if entries > room || room_bytes > u64_from_usize(BLOCK_BYTES.saturating_sub(32)) {
        let found = format!("{entries} of {room}");
        return Err(Error::corrupt(
            "thin pool metadata: entries of a node",
            "at most 254",
            found,
        ));
    }
    let body = block.get(32..).ok_or_else(short)?;
    let (keys, values) = body
        .split_at_checked(usize_from_u32(room).saturating_mul(8))
        .ok_or_else(short)?;
    let number = |chunk: &[u8]| le64(chunk, 0).unwrap_or(0);
    let entries: Vec<(u64, u64)> = keys
        .chunks_exact(8)
        .map(number)
        .zip(values.chunks_exact(8).map(number))
        .take(usize_from_u32(entries))
        .collect();
    let in_order = entries
        .iter()
        .zip(entries.iter().skip(1))
        .all(|((a, _), (b, _))| a < b);
    if !in_order {
        return Err(Error::corrupt(
            "thin pool metadata: keys",
            "in order",
            "not so",
        ));
    }
    Ok(Node { is_leaf, entries })
}

/// A walk over the leaves of a tree.
struct Walk<'a> {
    metadata: &'a Metadata<'a>,
    seen: HashSet<u64>,
}

impl Walk<'_> {
    /// Calls `leaf` with every key and value of the tree at `block` in order; keys are at least `start` and
    /// below `end`.
    fn tree(
        &mut self,
        block: u64,
        (start, end): (u64, u64),
        depth: u32,
        leaf: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let too_deep = || Error::corrupt("thin pool metadata", "a tree", "one that never ends");
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        if block >= self.metadata.blocks || !self.seen.insert(block) {
            let what = "thin pool metadata: a node's block";
            return Err(Error::corrupt(what, "a new one on the device", block));
        }
        let bytes = load_block(self.metadata.device, block, NODE_XOR)?;
        let node = parse_node(&bytes)?;
        let read = &self.metadata.nodes_read;
        read.set(read.get().saturating_add(1));
        let last = (u64::MAX, 0);
        for (n, (key, value)) in node.entries.iter().enumerate() {
            if *key < start || *key >= end {
                let expected = format!("{start} to {end}");
                return Err(Error::corrupt("thin pool metadata: a key", expected, key));
            }
            if node.is_leaf {
                leaf(*key, *value)?;
                continue;
            }
            let (next, _) = node.entries.get(n.saturating_add(1)).unwrap_or(&last);
            self.tree(*value, (*key, end.min(*next)), depth, leaf)?;
        }
        Ok(())
    }
}

impl<'a> Metadata<'a> {
    /// Reads the superblock of a pool's metadata.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported`; `Io`.
    pub(super) fn load(device: &'a dyn ReadAt) -> Result<Self> {
        let block = load_block(device, 0, SUPERBLOCK_XOR)?;
        let magic = le64(&block, 32).ok_or_else(short)?;
        if magic != SUPERBLOCK_MAGIC {
            return Err(Error::corrupt(
                "thin pool superblock magic",
                SUPERBLOCK_MAGIC,
                magic,
            ));
        }
        let word = |at| le32(&block, at).ok_or_else(short);
        let (version, incompatible) = (word(40)?, word(360)?);
        if !(1..=2).contains(&version) || incompatible != 0 {
            return Err(Error::unsupported(format!(
                "thin pool metadata version {version}, features 0x{incompatible:x}"
            )));
        }
        let (chunk, metadata_sectors) = (word(336)?, word(340)?);
        if metadata_sectors != 8 || chunk == 0 {
            let found = format!("{chunk}, {metadata_sectors}");
            return Err(Error::corrupt(
                "thin pool block sizes in sectors",
                "some, 8",
                found,
            ));
        }
        let claimed = le64(&block, 344).ok_or_else(short)?;
        let there = device.size_bytes().checked_div(u64_from_usize(BLOCK_BYTES));
        Ok(Self {
            device,
            chunk_bytes: u64::from(chunk).saturating_mul(SECTOR_BYTES),
            transaction: le64(&block, 48).ok_or_else(short)?,
            needs_check: word(4)? & 1 != 0,
            mappings: le64(&block, 320).ok_or_else(short)?,
            blocks: claimed.min(there.unwrap_or(0)),
            nodes_read: Cell::new(0),
        })
    }

    /// Number of nodes read so far: the cost of the walks.
    pub(super) fn nodes_read(&self) -> u64 {
        self.nodes_read.get()
    }

    fn walk(&self) -> Walk<'_> {
        Walk {
            metadata: self,
            seen: HashSet::new(),
        }
    }

    /// The pieces of thin device `number` within its first `chunks` chunks, in order.
    ///
    /// # Errors
    /// `NotFound` when the pool has no such device; `LimitExceeded`; `Corrupt`; `Io`.
    pub(super) fn pieces(&self, number: u64, chunks: u64) -> Result<Vec<Piece>> {
        let mut root = None;
        let all = (0, u64::MAX);
        self.walk()
            .tree(self.mappings, all, DEPTH_MAX, &mut |device, block| {
                if device == number {
                    root = Some(block);
                }
                Ok(())
            })?;
        let root = root.ok_or_else(|| {
            Error::not_found(format!("the thin pool's metadata has no device {number}"))
        })?;
        let mut pieces: Vec<Piece> = Vec::new();
        self.walk()
            .tree(root, (0, CHUNKS_MAX), DEPTH_MAX, &mut |chunk, value| {
                let at = value >> 24;
                if chunk >= chunks {
                    return Ok(());
                }
                if let Some(last) = pieces.last_mut() {
                    let follows = |first: u64| first.saturating_add(last.chunks);
                    if follows(last.chunk) == chunk && follows(last.at) == at {
                        last.chunks = last.chunks.saturating_add(1);
                        return Ok(());
                    }
                }
                if pieces.len() >= PIECES_MAX {
                    let what = format!("a thin volume in more than {PIECES_MAX} pieces");
                    return Err(Error::new(ErrorKind::LimitExceeded, what));
                }
                pieces.push(Piece {
                    chunk,
                    at,
                    chunks: 1,
                });
                Ok(())
            })?;
        Ok(pieces)
    }
}
