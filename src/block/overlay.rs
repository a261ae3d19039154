//! A writable disk over a read-only one: writes go to a scratch disk, and the disk below never changes.
//!
//! # Invariants
//! - Nothing is ever written to the disk below.
//! - A block (4 KiB) is read from the scratch disk once it is marked. It is marked only when all of it is
//!   there. So a failed write leaves unmarked blocks as they were; marked blocks may be half written, as on
//!   any disk.
//! - Marks are never taken back. The size never changes.
//!
//! # Concurrency
//! A lock guards the marks and is held for moments only. Writes to blocks that are all marked need no other
//! lock. The first write to a block takes the turns (one for each MiB, by number) of its whole range, in
//! order, so that two concurrent writes to parts of one block do not undo each other. The write holds its
//! turns during its I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, MutexGuard};

use super::{Extent, ReadAt, WriteAt, check_range};
use crate::error::{Error, Result};
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes covered by one mark. This is the usual unit of filesystem writes, so that few blocks must be
/// completed from below.
const BLOCK_BYTES: u64 = 4096;
/// Blocks of one piece of the map: 64 MiB, with 2 KiB of marks.
const PIECE_BLOCKS: u64 = 16_384;
const PIECE_WORDS: usize = 256;
/// Bytes covered by one turn.
const TURN_BYTES: u64 = 1 << 20;
/// LIMIT: locks for turns.
const TURNS: u64 = 64;

static ZEROES: [u8; 4096] = [0; 4096];

/// Marks of a piece.
enum Piece {
    /// Some blocks, and how many.
    Some(Box<[u64; PIECE_WORDS]>, u64),
    /// All of them.
    All,
}

/// LIMIT: marks take 1/32768 of the written bytes, and nothing where whole pieces were written.
#[derive(Default)]
struct Marks {
    pieces: BTreeMap<u64, Piece>,
}

/// Word and bit of a block within its piece.
fn position(block: u64) -> (usize, u64) {
    let within = block % PIECE_BLOCKS;
    (usize_from_u64(within / 64), 1 << (within % 64))
}

impl Marks {
    fn has(&self, block: u64) -> bool {
        match self.pieces.get(&(block / PIECE_BLOCKS)) {
            None => false,
            Some(Piece::All) => true,
            Some(Piece::Some(words, _)) => {
                let (word, bit) = position(block);
                words.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }

    /// Whether `block` is marked, and for how many blocks, at most `max`, this holds.
    fn run(&self, block: u64, max: u64) -> (bool, u64) {
        let is_marked = self.has(block);
        let mut length = 0;
        while length < max {
            let at = block.saturating_add(length);
            let left = PIECE_BLOCKS - at % PIECE_BLOCKS;
            match self.pieces.get(&(at / PIECE_BLOCKS)) {
                None if is_marked => break,
                None => length += left,
                Some(Piece::All) if is_marked => length += left,
                Some(Piece::All) => break,
                Some(Piece::Some(..)) if self.has(at) == is_marked => length += 1,
                Some(Piece::Some(..)) => break,
            }
        }
        (is_marked, length.min(max))
    }

    fn mark(&mut self, first: u64, end: u64) {
        let mut block = first;
        while block < end {
            let index = block / PIECE_BLOCKS;
            let piece_end = (index + 1).saturating_mul(PIECE_BLOCKS).min(end);
            if piece_end - block == PIECE_BLOCKS {
                self.pieces.insert(index, Piece::All);
                block = piece_end;
                continue;
            }
            let piece = self
                .pieces
                .entry(index)
                .or_insert_with(|| Piece::Some(Box::new([0; PIECE_WORDS]), 0));
            if let Piece::Some(words, count) = piece {
                for block in block..piece_end {
                    let (word, bit) = position(block);
                    if let Some(word) = words.get_mut(word)
                        && *word & bit == 0
                    {
                        *word |= bit;
                        *count += 1;
                    }
                }
                if *count == PIECE_BLOCKS {
                    *piece = Piece::All;
                }
            }
            block = piece_end;
        }
    }
}

/// A writable disk over a read-only one.
pub struct Overlay {
    below: Arc<dyn ReadAt>,
    scratch: Arc<dyn WriteAt>,
    size_bytes: u64,
    marks: RwLock<Marks>,
    turns: Vec<Mutex<()>>,
}

impl Overlay {
    /// Lays an empty scratch disk over another disk; the scratch disk grows to the same size.
    ///
    /// # Errors
    /// `InvalidInput` when the scratch disk is not empty; errors of setting its size.
    pub fn new(below: Arc<dyn ReadAt>, scratch: Arc<dyn WriteAt>) -> Result<Self> {
        if scratch.size_bytes() != 0 {
            return Err(Error::invalid("a scratch disk must be empty"));
        }
        let size_bytes = below.size_bytes();
        scratch.set_size(size_bytes)?;
        Ok(Self {
            below,
            scratch,
            size_bytes,
            marks: RwLock::default(),
            turns: (0..TURNS).map(|_| Mutex::new(())).collect(),
        })
    }

    /// Whether the block at an offset is marked, and for how many bytes, at most `length_max`, this holds.
    fn run(&self, offset: u64, length_max: u64) -> (bool, u64) {
        let block = offset / BLOCK_BYTES;
        let skipped = offset % BLOCK_BYTES;
        let blocks = skipped.saturating_add(length_max).div_ceil(BLOCK_BYTES);
        let marks = self.marks.read();
        let (is_marked, blocks) = marks.run(block, blocks);
        let length = (blocks * BLOCK_BYTES).saturating_sub(skipped);
        (is_marked, length.min(length_max))
    }

    fn is_marked(&self, offset: u64, length_bytes: u64) -> bool {
        self.run(offset, length_bytes) == (true, length_bytes)
    }

    fn mark(&self, offset: u64, end: u64) {
        let mut marks = self.marks.write();
        marks.mark(offset / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES));
    }

    /// Takes the turns of a range, in the order of their numbers.
    fn take_turns(&self, offset: u64, length_bytes: u64) -> Vec<MutexGuard<'_, ()>> {
        let first = offset / TURN_BYTES;
        let last = offset.saturating_add(length_bytes.saturating_sub(1)) / TURN_BYTES;
        let mut numbers: Vec<u64> = if last - first >= TURNS {
            (0..TURNS).collect()
        } else {
            (first..=last).map(|turn| turn % TURNS).collect()
        };
        numbers.sort_unstable();
        numbers
            .into_iter()
            .filter_map(|number| self.turns.get(usize_from_u64(number)))
            .map(|turn| turn.lock())
            .collect()
    }

    /// Copies the unmarked part of the range, which lies within one block, from the disk below.
    fn complete(&self, offset: u64, end: u64) -> Result<()> {
        if offset >= end || self.is_marked(offset, end - offset) {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        let part = bytes
            .get_mut(..usize_from_u64(end - offset))
            .unwrap_or_default();
        self.below.read_at(offset, part)?;
        self.scratch.write_at(offset, part)
    }

    /// The end, on this disk, of the block that `offset` lies in or that ends at `offset`.
    fn block_end(&self, offset: u64) -> u64 {
        let end = offset.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES);
        end.min(self.size_bytes)
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({} bytes)", self.size_bytes)
    }
}

impl ReadAt for Overlay {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes, offset, u64_from_usize(buf.len()))?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (is_marked, length) = self.run(at, u64_from_usize(rest.len()));
            let (part, tail) = rest.split_at_mut(usize_from_u64(length));
            if is_marked {
                self.scratch.read_at(at, part)?;
            } else {
                self.below.read_at(at, part)?;
            }
            at += length;
            rest = tail;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        match self.run(offset, length_max) {
            (true, length) => self.scratch.extent_at(offset, length),
            (false, length) => self.below.extent_at(offset, length),
        }
    }
}

impl WriteAt for Overlay {
    /// As on a device, a write past the end is refused.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let length = u64_from_usize(buf.len());
        check_range(self.size_bytes, offset, length)?;
        if buf.is_empty() {
            return Ok(());
        }
        if self.is_marked(offset, length) {
            return self.scratch.write_at(offset, buf);
        }
        let _turns = self.take_turns(offset, length);
        let end = offset + length;
        // Both ends may lie in the same block; each call skips what was written before.
        self.complete(offset - offset % BLOCK_BYTES, offset)?;
        self.complete(end, self.block_end(end))?;
        self.scratch.write_at(offset, buf)?;
        self.mark(offset, end);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.scratch.flush()
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        if size_bytes == self.size_bytes {
            return Ok(());
        }
        Err(Error::invalid(
            "a disk that is mapped cannot change its size",
        ))
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let length_bytes = length_bytes.min(self.size_bytes.saturating_sub(offset));
        if length_bytes == 0 {
            return Ok(());
        }
        let end = offset + length_bytes;
        // Whole blocks; the last block of the disk may be short.
        let whole = offset.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES);
        let whole_end = if end == self.size_bytes {
            end
        } else {
            end - end % BLOCK_BYTES
        };
        if whole >= whole_end {
            // The range lies within two blocks.
            let middle = self.block_end(offset).min(end);
            self.write_zeroes(offset, middle)?;
            return self.write_zeroes(middle, end);
        }
        self.write_zeroes(offset, whole)?;
        self.write_zeroes(whole_end, end)?;
        let _turns = self.take_turns(whole, whole_end - whole);
        self.scratch.punch(whole, whole_end - whole)?;
        self.mark(whole, whole_end);
        Ok(())
    }
}

impl Overlay {
    /// Writes zeroes over a part of one block.
    fn write_zeroes(&self, offset: u64, end: u64) -> Result<()> {
        let length = usize_from_u64(end.saturating_sub(offset));
        self.write_at(offset, ZEROES.get(..length).unwrap_or(&ZEROES))
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, Overlay, PIECE_BLOCKS};
    use crate::block::conformance::check_read_at;
    use crate::block::filter::{Fault, OpKind};
    use crate::block::{ExtentKind, MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
    use std::sync::Arc;

    /// A multiple of the sector size, but not of the block size.
    const SIZE: usize = 9 * 4096 + 1536;

    fn pattern(seed: u8, length: usize) -> Vec<u8> {
        (0..length)
            .map(|n| (n / 7).to_le_bytes()[0] ^ seed | 1)
            .collect()
    }

    fn made() -> (Arc<MemoryDisk>, Overlay) {
        let below = Arc::new(MemoryDisk::from_bytes(&pattern(3, SIZE)));
        let overlay = Overlay::new(below.clone(), Arc::new(MemoryDisk::new())).unwrap();
        (below, overlay)
    }

    #[derive(Debug, Clone)]
    enum Op {
        Write(usize, usize, u8),
        Punch(usize, usize),
        Read(usize, usize),
    }

    /// Any range of the disk; about half of the ends are aligned.
    fn range() -> impl Strategy<Value = (usize, usize)> {
        let place = prop_oneof![
            0..=SIZE,
            (0..=SIZE / 512).prop_map(|n| n * 512),
            (0..=SIZE / 4096).prop_map(|n| n * 4096)
        ];
        (place.clone(), place).prop_map(|(a, b)| (a.min(b), a.max(b) - a.min(b)))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (range(), any::<u8>()).prop_map(|((at, length), seed)| Op::Write(at, length, seed)),
            range().prop_map(|(at, length)| Op::Punch(at, length)),
            range().prop_map(|(at, length)| Op::Read(at, length)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_disk_of_its_own(ops in prop::collection::vec(op(), 1..40)) {
            let (below, overlay) = made();
            let mut model = pattern(3, SIZE);
            for op in ops {
                match op {
                    Op::Write(at, length, seed) => {
                        let bytes = pattern(seed, length);
                        overlay.write_at(at as u64, &bytes).unwrap();
                        model[at..at + length].copy_from_slice(&bytes);
                    }
                    Op::Punch(at, length) => {
                        overlay.punch(at as u64, length as u64).unwrap();
                        model[at..at + length].fill(0);
                    }
                    Op::Read(at, length) => {
                        let mut bytes = vec![0xa5; length];
                        overlay.read_at(at as u64, &mut bytes).unwrap();
                        assert_eq!(bytes, model[at..at + length]);
                    }
                }
            }
            check_read_at(&overlay, &model);
            assert_eq!(below.to_bytes(), pattern(3, SIZE), "the disk below changed");
        }

        /// Checks that a failed operation changes nothing outside its own range.
        #[test]
        fn a_scratch_disk_that_fails_spoils_nothing_else(
            ops in prop::collection::vec((range(), any::<u8>()), 1..20), failing in 0u64..30
        ) {
            let below = Arc::new(MemoryDisk::from_bytes(&pattern(3, SIZE)));
            let scratch = Arc::new(Fault::new(Arc::new(MemoryDisk::new())));
            let overlay = Overlay::new(below, scratch.clone()).unwrap();
            scratch.fail_nth(OpKind::Write, failing, ErrorKind::NoSpace);
            let mut model: Vec<Option<u8>> = pattern(3, SIZE).into_iter().map(Some).collect();
            for ((at, length), seed) in ops {
                let bytes = pattern(seed, length);
                let written = overlay.write_at(at as u64, &bytes);
                if let Err(error) = &written {
                    assert_eq!(error.kind(), ErrorKind::NoSpace);
                }
                for (to, from) in model[at..at + length].iter_mut().zip(bytes) {
                    // Where the write failed, old and new bytes are both right.
                    *to = written.is_ok().then_some(from);
                }
            }
            let mut bytes = vec![0; SIZE];
            overlay.read_at(0, &mut bytes).unwrap();
            for (n, (byte, expected)) in bytes.iter().zip(&model).enumerate() {
                assert!(expected.is_none_or(|expected| expected == *byte), "byte {n}");
            }
        }
    }

    #[test]
    fn the_end_is_that_of_the_disk_below() {
        let (_, overlay) = made();
        let size = SIZE as u64;
        let error = overlay.write_at(size - 1, b"xx").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        overlay.write_at(size, b"").unwrap();
        overlay.write_at(size - 1, b"x").unwrap();
        overlay.set_size(size).unwrap();
        assert!(overlay.set_size(size + 512).is_err() && overlay.set_size(512).is_err());
        overlay.punch(size - 100, u64::MAX).unwrap();
        assert_eq!(overlay.size_bytes(), size);
        let full = Arc::new(MemoryDisk::from_bytes(b"x"));
        assert!(Overlay::new(full.clone(), full).is_err());
    }

    #[test]
    fn whole_pieces_take_one_mark() {
        let piece = PIECE_BLOCKS * BLOCK_BYTES;
        let below = Arc::new(MemoryDisk::sparse(4 * piece));
        let overlay = Overlay::new(below, Arc::new(MemoryDisk::new())).unwrap();
        // First across the border of two pieces, then all but the first block of the first piece, then that
        // block.
        overlay.write_at(piece - 4096, &[1; 8192]).unwrap();
        overlay.punch(4096, piece - 4096).unwrap();
        assert_eq!(overlay.run(0, piece), (false, 4096));
        assert_eq!(overlay.run(4096, 4 * piece - 4096), (true, piece));
        overlay.write_at(0, &[2; 4096]).unwrap();
        assert_eq!(overlay.run(0, 4 * piece), (true, piece + 4096));
        overlay.punch(2 * piece, 2 * piece).unwrap();
        assert_eq!(
            overlay.run(2 * piece + 1, 2 * piece - 1),
            (true, 2 * piece - 1)
        );
        assert_eq!(
            overlay.run(piece + 4096, 3 * piece - 4096),
            (false, piece - 4096)
        );
        let extent = overlay.extent_at(2 * piece, 2 * piece).unwrap();
        assert_ne!(extent.kind, ExtentKind::Data);
        let mut byte = [0; 2];
        overlay.read_at(piece + 4095, &mut byte).unwrap();
        assert_eq!(byte, [1, 0]);
    }

    #[test]
    fn parts_of_one_block_written_at_once_are_all_kept() {
        for round in 0..50u8 {
            let (_, overlay) = made();
            std::thread::scope(|scope| {
                for part in 0..8u8 {
                    let overlay = &overlay;
                    scope.spawn(move || {
                        overlay
                            .write_at(4096 + u64::from(part) * 512, &[round ^ part; 512])
                            .unwrap();
                    });
                }
            });
            let mut bytes = [0; 4096];
            overlay.read_at(4096, &mut bytes).unwrap();
            for (part, chunk) in (0..).zip(bytes.chunks(512)) {
                assert!(
                    chunk.iter().all(|byte| *byte == round ^ part),
                    "part {part}"
                );
            }
        }
    }
}
