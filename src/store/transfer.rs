//! Copies an object from one place to another, with its holes.

use crate::block::{ReadAt, WriteAt};
use crate::error::Result;
use crate::types::width::usize_from_u64;

/// LIMIT: bytes copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Copies `from` to `to`, which is empty. Ranges that read as zero become holes.
///
/// # Errors
/// Errors of reading and writing.
pub(super) fn copy(from: &dyn ReadAt, to: &dyn WriteAt) -> Result<()> {
    copy_object(from, to, &mut |_| Ok(()))
}

/// Copies `from` to `to`, which is empty; ranges that read as zero become holes. `before` hears of each piece, in bytes, before it is
/// copied; its error ends the copy.
///
/// # Errors
/// Errors of reading and writing; those of `before`.
pub fn copy_object(
    from: &dyn ReadAt,
    to: &dyn WriteAt,
    before: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let size = from.size_bytes();
    to.set_size(size)?;
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < size {
        let extent = from.extent_at(at, (size - at).min(PIECE_BYTES))?;
        if !extent.kind.reads_zero() {
            before(extent.length_bytes)?;
            bytes.resize(usize_from_u64(extent.length_bytes), 0);
            from.read_at(at, &mut bytes)?;
            // Some filesystems do not report their holes.
            if bytes.iter().any(|byte| *byte != 0) {
                to.write_at(at, &bytes)?;
            }
        }
        at = at.saturating_add(extent.length_bytes);
    }
    Ok(())
}
