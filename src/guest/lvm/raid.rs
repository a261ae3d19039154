//! The state that dm-raid stores beside each image: it tells which images of a mirror hold current data.
//!
//! # On-disk layout
//! Linux, `drivers/md/dm-raid.c`, `struct dm_raid_superblock`; little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `DmRd` |
//! | 12 | 4 | position of this image |
//! | 16 | 8 | events: the highest is the newest |
//! | 24 | 8 | images that have failed, as bits |
//! | 32 | 8 | how far this image is rebuilt; all ones: wholly |
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::segment::Image;
use crate::block::ReadAt;
use crate::guest::bytes::{le32, le64};
use crate::guest::remark::Remarks;

const MAGIC: u32 = 0x6452_6d44;

/// The content of one image's superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    position: u32,
    events: u64,
    failed: u64,
    is_rebuilt: bool,
}

/// Reads the superblock; `None` when there is none or it cannot be read.
pub(super) fn load_state(volume: &dyn ReadAt) -> Option<State> {
    let mut block = [0; 512];
    volume.read_at(0, &mut block).ok()?;
    if le32(&block, 0)? != MAGIC {
        return None;
    }
    Some(State {
        position: le32(&block, 12)?,
        events: le64(&block, 16)?,
        failed: le64(&block, 24)?,
        is_rebuilt: le64(&block, 32)? == u64::MAX,
    })
}

/// The current images, in order; empty when all have failed or are being rebuilt.
pub(super) fn order<'a>(
    images: &'a [Image],
    state: impl Fn(&str) -> Option<State>,
    notes: &mut Remarks,
) -> Vec<&'a Image> {
    let states: Vec<Option<State>> = images
        .iter()
        .map(|image| image.state.as_deref().and_then(&state))
        .collect();
    let newest = states.iter().flatten().max_by_key(|state| state.events);
    let is_current = |state: &Option<State>| match (state, newest) {
        // A volume that was never activated has no superblocks yet.
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(state), Some(newest)) => {
            let bit = 1u64.checked_shl(state.position).unwrap_or(0);
            // As in the kernel, a difference of one event is an array that was in use when it was captured.
            let is_new = state.events.saturating_add(1) >= newest.events;
            state.is_rebuilt && is_new && newest.failed & bit == 0
        }
    };
    let mut current = Vec::new();
    for (image, state) in images.iter().zip(&states) {
        if is_current(state) {
            current.push(image);
        } else {
            notes.push(format!("raid1: {} is not current", image.data));
        }
    }
    current
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]
mod tests {
    use super::{Image, MAGIC, Remarks, load_state, order};
    use crate::block::MemoryDisk;

    fn superblock(position: u32, events: u64, failed: u64, rebuilt: u64) -> MemoryDisk {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes.extend(position.to_le_bytes());
        for n in [events, failed, rebuilt] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.resize(4096, 0);
        MemoryDisk::from_bytes(&bytes)
    }

    /// Positions of the usable images.
    fn tried(disks: &[MemoryDisk]) -> Vec<usize> {
        let images: Vec<Image> = (0..disks.len())
            .map(|n| Image {
                state: Some(n.to_string()),
                data: n.to_string(),
            })
            .collect();
        let state = |name: &str| load_state(&disks[name.parse::<usize>().unwrap()]);
        order(&images, state, &mut Remarks::default())
            .iter()
            .map(|image| image.data.parse().unwrap())
            .collect()
    }

    #[test]
    fn only_current_images_are_read() {
        let good = |n| superblock(n, 5, 0, u64::MAX);
        assert_eq!(tried(&[good(0), good(1)]), [0, 1]);
        assert_eq!(tried(&[superblock(0, 4, 0, u64::MAX), good(1)]), [0, 1]);
        assert_eq!(tried(&[superblock(0, 3, 0, u64::MAX), good(1)]), [1]);
        assert_eq!(tried(&[superblock(0, 5, 0, 100), good(1)]), [1]);
        assert_eq!(tried(&[good(0), superblock(1, 5, 1, u64::MAX)]), [1]);
        assert_eq!(tried(&[MemoryDisk::sparse(4096), good(1)]), [1]);
        let never = || MemoryDisk::sparse(4096);
        assert_eq!(tried(&[never(), never()]), [0, 1]);
        assert!(tried(&[superblock(0, 5, 3, 0), superblock(1, 5, 3, 0)]).is_empty());
        assert!(tried(&[superblock(0, 5, 1, u64::MAX)]).is_empty());
    }
}
