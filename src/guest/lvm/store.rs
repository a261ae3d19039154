//! The exception store of a thick snapshot (dm-snapshot, persistent): the chunks that were saved before the
//! origin changed them.
//!
//! # On-disk layout
//! Linux, `drivers/md/dm-snap-persistent.c`; little-endian. Chunk 0 is the header. Areas follow, each with
//! one chunk of exceptions (16 bytes: old chunk, new chunk) and as many chunks of data as that has entries.
//! The first exception whose new chunk is 0 ends the list.
//!
//! | header offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `SnAp` |
//! | 4 | 4 | 1: valid; 0: it overflowed and is lost |
//! | 8 | 4 | version 1 |
//! | 12 | 4 | sectors of a chunk |
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le32, le64};
use crate::types::width::usize_from_u64;

const MAGIC: u32 = 0x7041_6e53;
const SECTOR_BYTES: u64 = 512;
const EXCEPTION_BYTES: u64 = 16;
/// LIMIT: bytes of a chunk (LVM allows 512 KiB).
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// LIMIT: exceptions (our limit: 8 GiB of changes in chunks of 4 KiB).
const EXCEPTIONS_MAX: usize = 2_000_000;

/// The saved chunks.
pub(super) struct Exceptions {
    /// Bytes of a chunk.
    pub(super) chunk_bytes: u64,
    /// Chunk of the snapshot to chunk of the store.
    pub(super) chunks: BTreeMap<u64, u64>,
}

/// Reads all exceptions.
///
/// # Errors
/// `Corrupt`, also when the snapshot has overflowed; `Unsupported`; `LimitExceeded`; `Io`.
pub(super) fn load(store: &dyn ReadAt) -> Result<Exceptions> {
    let mut header = [0; 512];
    if store.size_bytes() < SECTOR_BYTES {
        return Err(Error::corrupt("snapshot store", "a header", "none"));
    }
    store.read_at(0, &mut header)?;
    let word = |at| le32(&header, at).unwrap_or(0);
    if word(0) != MAGIC {
        let found = format!("{:08x}", word(0));
        return Err(Error::corrupt(
            "snapshot store magic",
            format!("{MAGIC:08x}"),
            found,
        ));
    }
    if word(4) == 0 {
        return Err(Error::corrupt(
            "snapshot",
            "a valid one",
            "one that has overflowed",
        ));
    }
    if word(8) != 1 {
        return Err(Error::unsupported(format!(
            "snapshot store version {}",
            word(8)
        )));
    }
    let chunk_bytes = u64::from(word(12)).saturating_mul(SECTOR_BYTES);
    if chunk_bytes == 0 || chunk_bytes > CHUNK_BYTES_MAX || !chunk_bytes.is_power_of_two() {
        return Err(Error::corrupt(
            "snapshot chunk bytes",
            "a power of two",
            chunk_bytes,
        ));
    }
    let mut exceptions = Exceptions {
        chunk_bytes,
        chunks: BTreeMap::new(),
    };
    let store_chunks = store.size_bytes().checked_div(chunk_bytes).unwrap_or(0);
    let per_area = chunk_bytes.checked_div(EXCEPTION_BYTES).unwrap_or(0);
    let mut area_chunk = 1u64;
    let mut area = vec![0; usize_from_u64(chunk_bytes)];
    // LIMIT: areas, bounded by the size of the store.
    while area_chunk < store_chunks {
        store.read_at(area_chunk.saturating_mul(chunk_bytes), &mut area)?;
        for exception in area.chunks_exact(16) {
            let pair = le64(exception, 0).zip(le64(exception, 8));
            let (old, new) = pair.unwrap_or((0, 0));
            if new == 0 {
                return Ok(exceptions);
            }
            let is_area = new.checked_rem(per_area.saturating_add(1)) == Some(1);
            if new >= store_chunks || is_area {
                let what = "snapshot store: a saved chunk";
                return Err(Error::corrupt(what, format!("below {store_chunks}"), new));
            }
            if exceptions.chunks.len() >= EXCEPTIONS_MAX {
                let what = format!("a snapshot with more than {EXCEPTIONS_MAX} saved chunks");
                return Err(Error::new(ErrorKind::LimitExceeded, what));
            }
            exceptions.chunks.insert(old, new);
        }
        area_chunk = area_chunk.saturating_add(per_area).saturating_add(1);
    }
    Ok(exceptions)
}
