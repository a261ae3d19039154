//! Conversions between integer widths that lose nothing on a 64-bit target (checked in `lib.rs`).

/// Lossless: `usize` holds every `u64` here.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "lib.rs refuses targets whose usize is not 64 bits"
)]
pub const fn usize_from_u64(n: u64) -> usize {
    n as usize
}

/// Lossless: `usize` holds every `u32`.
#[must_use]
pub const fn usize_from_u32(n: u32) -> usize {
    n as usize
}

/// Lossless: `u64` holds every `usize` here.
#[must_use]
pub const fn u64_from_usize(n: usize) -> u64 {
    n as u64
}
