//! Adapter for the XFS crate: mounts a volume, and translates the crate's errors.
//!
//! # Why
//! A snapshot of a running guest may contain the last log records only in part, or one without its
//! predecessor, because they were being written when it was taken. The kernel finds the place from which the
//! log is invalid and recovers up to there; the crate refuses the log. So the newest record is hidden from
//! the crate and the mount repeated, at most as often as the kernel has log writes in flight.

use std::sync::Arc;

use fs_core::BlockRead;
use fs_xfs::{Filesystem, Superblock, log};

use super::failure::{guard, translate};
use super::{group, item};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::device::{VolumeBytes, device_error};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: records at the end of the log that may be incomplete (Linux: `XLOG_MAX_ICLOGS`).
const TORN_MAX: usize = 8;
/// LIMIT: allocation groups (our limit). A mount reads the header of each; a filesystem that grew from a
/// small one has thousands.
const GROUPS_MAX: u32 = 1 << 16;
/// LIMIT: bytes of the log (Linux: `XFS_MAX_LOG_BYTES`).
const LOG_BYTES_MAX: u64 = 1 << 31;
/// Bytes of a basic block, the unit of the log.
const BASIC_BYTES: u64 = 512;

/// The volume without the magic numbers of hidden log records, and with replaced sectors.
struct Volume {
    device: VolumeBytes,
    hidden: Mutex<Vec<u64>>,
    replaced: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// A mounted filesystem, and the deviations that the mount tolerated.
pub(super) struct Mounted {
    pub(super) fs: Filesystem,
    /// Number of records that were hidden at the end of the log.
    pub(super) torn: usize,
    /// Remarks for people.
    pub(super) notes: Vec<String>,
}

impl BlockRead for Volume {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.device.read_at(offset, buf)?;
        let replaced = self.replaced.lock();
        for (at, sector) in replaced.iter() {
            let end = offset.saturating_add(u64_from_usize(buf.len()));
            for (place, byte) in (*at..end).zip(sector) {
                if let Some(from) = place.checked_sub(offset)
                    && let Some(target) = buf.get_mut(usize_from_u64(from))
                {
                    *target = *byte;
                }
            }
        }
        drop(replaced);
        for at in self.hidden.lock().iter() {
            // Records begin on basic blocks, and so do the reads that search for them.
            if let Some(from) = at.checked_sub(offset)
                && let Some(magic) = buf.get_mut(usize_from_u64(from)..)
            {
                magic.iter_mut().take(4).for_each(|byte| *byte = 0);
            }
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }
}

/// Refuses a filesystem whose mount alone would be too much work.
fn check_bounds(superblock: &Superblock) -> Result<()> {
    if superblock.agcount > GROUPS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "the filesystem has {} allocation groups, at most {GROUPS_MAX} are read",
                superblock.agcount
            ),
        ));
    }
    let log_bytes = u64::from(superblock.logblocks).saturating_mul(u64::from(superblock.blocksize));
    if log_bytes > LOG_BYTES_MAX {
        return Err(Error::corrupt(
            "the size of the log",
            format!("at most {LOG_BYTES_MAX}"),
            log_bytes,
        ));
    }
    Ok(())
}

/// Mounts a volume as the kernel would read-only.
pub(super) fn mount(volume: Arc<dyn ReadAt>) -> Result<Mounted> {
    let volume = Arc::new(Volume {
        device: VolumeBytes(volume),
        hidden: Mutex::new(Vec::new()),
        replaced: Mutex::new(Vec::new()),
    });
    let mut head = vec![0; 4096];
    let superblock = guard(|| {
        volume
            .read_at(0, &mut head)
            .map_err(|error| device_error(&error.to_string()))?;
        Superblock::parse(&head).map_err(translate)
    })?;
    check_bounds(&superblock)?;
    let log_start = superblock.fsblock_offset(superblock.logstart);
    let mut torn = 0;
    let mut notes = Vec::new();
    loop {
        let device: Arc<dyn BlockRead> = Arc::<Volume>::clone(&volume);
        // The crate's own cache holds blocks; the one below holds pages and reads ahead.
        let mounted = match item::check(&*volume, &superblock)? {
            Some(reason) => Err(fs_xfs::Error::CorruptLog(reason)),
            None => guard(|| Ok(Filesystem::mount_with_cache(device, 0)))?,
        };
        let refused = match mounted {
            Ok(fs) => return Ok(Mounted { fs, torn, notes }),
            Err(fs_xfs::Error::CorruptLog(what)) if torn < TORN_MAX => {
                fs_xfs::Error::CorruptLog(what)
            }
            Err(error) if notes.is_empty() && group::is_refusal(&error) => {
                let (sectors, found) = guard(|| group::replace(&*volume, &superblock))?;
                if sectors.is_empty() {
                    return Err(translate(error));
                }
                notes = found;
                *volume.replaced.lock() = sectors;
                continue;
            }
            Err(error) => return Err(translate(error)),
        };
        let newest = guard(|| log::head(&*volume, &superblock).map_err(translate))
            .map(|head| head.prev_block);
        let Some(newest) = newest.ok().filter(|block| *block != u32::MAX) else {
            return Err(translate(refused));
        };
        let at = log_start.saturating_add(u64::from(newest).saturating_mul(BASIC_BYTES));
        volume.hidden.lock().push(at);
        torn = torn.saturating_add(1);
    }
}
