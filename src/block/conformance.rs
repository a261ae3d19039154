//! The conformance suite: what every [`ReadAt`] and [`WriteAt`] promises, run against each implementation and filter.
//!
//! Public, so that integration tests run it too. It panics with a description of the fault and has no other
//! use.

use std::sync::Arc;

use super::{ReadAt, WriteAt};
use crate::error::ErrorKind;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Steps of the random comparison.
const STEPS: u32 = 400;
/// Upper bound of the disk size in the random comparison.
const SIZE_MAX: u64 = 300_000;

/// A small reproducible random sequence (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

fn read(disk: &dyn ReadAt, offset: u64, length: u64) -> Vec<u8> {
    // The buffer is not zero beforehand, so that a byte that the read skips is detected.
    let mut buf = vec![0xa5; usize_from_u64(length)];
    disk.read_at(offset, &mut buf).unwrap_or_else(|e| {
        panic!(
            "{length} bytes at {offset} of {} must be readable: {e:?}",
            disk.size_bytes()
        )
    });
    buf
}

fn part(bytes: &[u8], offset: u64, length: u64) -> &[u8] {
    &bytes[usize_from_u64(offset)..usize_from_u64(offset + length)]
}

/// Checks that `disk` holds exactly `expected`: read whole, in pieces, and at random offsets; and that its
/// extents are true.
///
/// # Panics
/// Panics with a description of the fault.
pub fn check_read_at(disk: &dyn ReadAt, expected: &[u8]) {
    let size = u64_from_usize(expected.len());
    assert_eq!(disk.size_bytes(), size, "the size");
    assert!(read(disk, 0, size) == expected, "the whole content differs");
    let mut random = Random(size);
    for _ in 0..50 {
        let offset = random.below(size);
        let length = random.below((size - offset + 1).min(10_000));
        assert!(
            read(disk, offset, length) == part(expected, offset, length),
            "{length} bytes at {offset} differ"
        );
    }
    check_bounds(disk);
    check_extents(disk, expected);
}

/// Checks that a range past the end is refused as a whole, and that an empty range at the end is accepted.
fn check_bounds(disk: &dyn ReadAt) {
    let size = disk.size_bytes();
    disk.read_at(size, &mut []).expect("nothing, at the end");
    for (offset, length) in [
        (size, 1),
        (size.saturating_sub(1), 2),
        (u64::MAX, 1),
        (u64::MAX, 2),
    ] {
        let error = disk
            .read_at(offset, &mut vec![0; length])
            .expect_err("a read past the end must fail");
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidInput,
            "read at {offset}: {error:?}"
        );
        let error = disk
            .extent_at(offset, u64_from_usize(length))
            .expect_err("an extent past the end must fail");
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidInput,
            "extent at {offset}: {error:?}"
        );
    }
    let error = disk
        .extent_at(0, 0)
        .expect_err("an extent of no bytes must fail");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// Checks that extents cover the disk, are never longer than requested, and call only zeroes zero.
fn check_extents(disk: &dyn ReadAt, expected: &[u8]) {
    let size = u64_from_usize(expected.len());
    for length_max in [u64::MAX, 1000] {
        let mut at = 0;
        while at < size {
            let asked = length_max.min(size - at);
            let extent = disk.extent_at(at, asked).expect("an extent");
            assert!(
                (1..=asked).contains(&extent.length_bytes),
                "an extent of {} where at most {asked} were asked for",
                extent.length_bytes
            );
            if extent.kind.reads_zero() {
                assert!(
                    part(expected, at, extent.length_bytes)
                        .iter()
                        .all(|b| *b == 0),
                    "{extent:?} at {at} has bytes that are not zero"
                );
            }
            at += extent.length_bytes;
        }
    }
}

/// Checks a writable disk; `make` gives a new, empty disk (of size 0) each time.
///
/// # Panics
/// Panics with a description of the fault.
pub fn check_write_at(make: &dyn Fn() -> Arc<dyn WriteAt>) {
    check_growth(&*make());
    check_punch(&*make());
    check_threads(&make());
    for seed in 0..3 {
        check_random(&*make(), seed);
    }
}

fn check_growth(disk: &dyn WriteAt) {
    assert_eq!(disk.size_bytes(), 0, "a new disk is empty");
    check_read_at(disk, &[]);
    disk.write_at(5000, b"hello")
        .expect("a write beyond the end");
    let mut expected = vec![0; 5000];
    expected.extend_from_slice(b"hello");
    check_read_at(disk, &expected);
    disk.write_at(3, b"xyz").expect("a write within");
    expected[3..6].copy_from_slice(b"xyz");
    check_read_at(disk, &expected);
    // Bytes that were cut off do not come back.
    disk.set_size(5002).expect("shrinking");
    disk.set_size(9000).expect("growing");
    expected.truncate(5002);
    expected.resize(9000, 0);
    check_read_at(disk, &expected);
    disk.flush().expect("a flush");
    check_read_at(disk, &expected);
    disk.set_size(0).expect("emptying");
    check_read_at(disk, &[]);
    assert!(disk.write_at(u64::MAX, b"xy").is_err(), "a write past 2^64");
}

fn check_punch(disk: &dyn WriteAt) {
    let mut expected = vec![7; 200_001];
    disk.write_at(0, &expected).expect("a write");
    for (offset, length) in [
        (0, 10),
        (4096, 8192),
        (65_530, 70_000),
        (199_000, 100_000),
        (500_000, 5),
        (9, 0),
    ] {
        disk.punch(offset, length).expect("a punch");
        let end = (offset + length).min(200_001);
        if offset < end {
            expected[usize_from_u64(offset)..usize_from_u64(end)].fill(0);
        }
        check_read_at(disk, &expected);
    }
}

fn check_threads(disk: &Arc<dyn WriteAt>) {
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || {
                for n in 0..50u64 {
                    let offset = (n * 4 + u64::from(thread)) * 777;
                    disk.write_at(offset, &[thread + 1; 777]).expect("a write");
                    assert_eq!(read(disk, offset, 777), [thread + 1; 777]);
                }
            });
        }
    });
    let expected: Vec<u8> = (0..200u32)
        .flat_map(|n| [u8::try_from(n % 4).unwrap_or(0) + 1; 777])
        .collect();
    check_read_at(disk, &expected);
}

fn check_random(disk: &dyn WriteAt, seed: u64) {
    let mut random = Random(seed);
    let mut model: Vec<u8> = Vec::new();
    for step in 0..STEPS {
        let offset = random.below(SIZE_MAX / 2);
        let long = random.below(8) == 0;
        let length = random.below(if long { SIZE_MAX / 2 } else { 3000 });
        match random.below(10) {
            0..6 => {
                let byte = u8::try_from(random.below(255)).unwrap_or(0) + 1;
                let bytes = vec![byte; usize_from_u64(length)];
                disk.write_at(offset, &bytes).expect("a write");
                if length > 0 {
                    let end = usize_from_u64(offset + length);
                    model.resize(model.len().max(end), 0);
                    model[usize_from_u64(offset)..end].fill(byte);
                }
            }
            6 | 7 => {
                disk.punch(offset, length).expect("a punch");
                let size = u64_from_usize(model.len());
                if offset < size {
                    model[usize_from_u64(offset)..usize_from_u64((offset + length).min(size))]
                        .fill(0);
                }
            }
            8 => {
                disk.set_size(offset).expect("a new size");
                model.resize(usize_from_u64(offset), 0);
            }
            _ => disk.flush().expect("a flush"),
        }
        assert_eq!(
            disk.size_bytes(),
            u64_from_usize(model.len()),
            "size at step {step} of seed {seed}"
        );
    }
    check_read_at(disk, &model);
}
