//! Reads a file that lies unencoded on its volume, by its runs.

use crate::block::run::{RunMap, Target};
use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Fills `buf` with the bytes from `offset` on; `encoded` provides the runs that are not plain.
///
/// # Errors
/// `InvalidInput` past the end; errors of reading the volume.
pub(super) fn read(
    map: &RunMap<()>,
    volume: &dyn ReadAt,
    offset: u64,
    buf: &mut [u8],
    mut encoded: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    check_range(map.size_bytes(), offset, u64_from_usize(buf.len()))?;
    let gap = |at| Error::new(ErrorKind::Corrupt, "the run map has a gap").at_offset(at);
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let run = map
            .run_at(at, u64_from_usize(rest.len()))
            .ok_or_else(|| gap(at))?;
        let (part, after) = rest
            .split_at_mut_checked(usize_from_u64(run.length_bytes))
            .ok_or_else(|| gap(at))?;
        match run.target {
            Target::Source { offset, .. } => {
                volume.read_at(offset, part).map_err(|error| {
                    // A file outside its volume is damage of the filesystem.
                    if error.kind() == ErrorKind::InvalidInput {
                        error.with_kind(ErrorKind::Corrupt)
                    } else {
                        error
                    }
                })?;
            }
            Target::Hole => part.fill(0),
            Target::Encoded => encoded(at, part)?,
            Target::Inline(bytes) => {
                part.copy_from_slice(bytes.get(..part.len()).ok_or_else(|| gap(at))?);
            }
        }
        at = at.saturating_add(run.length_bytes);
        rest = after;
    }
    Ok(())
}
