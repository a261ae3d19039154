//! Big-endian fields of a byte slice, read without panics.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::types::width::usize_from_u64;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The `u8` at byte `at`.
pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The big-endian `u16` at byte `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The big-endian `u32` at byte `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// The big-endian `u64` at byte `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Writes a big-endian `u64` at byte `at`; false when it does not fit.
pub(super) fn set_u64(bytes: &mut [u8], at: usize, value: u64) -> bool {
    set(bytes, at, &value.to_be_bytes())
}

/// Copies `value` to byte `at`; false when it does not fit.
pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) -> bool {
    let place = at
        .checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end));
    match place {
        Some(place) => {
            place.copy_from_slice(value);
            true
        }
        None => false,
    }
}

/// Byte position of element `index` in an array of `element_bytes`-byte elements.
pub(super) fn position(index: u64, element_bytes: u64) -> Option<usize> {
    index.checked_mul(element_bytes).map(usize_from_u64)
}
