//! The reserve: a file that takes some space, so that objects can still be removed on a full filesystem.
//!
//! # Why
//! Ending a session or forgetting a point needs a little space itself (a replaced index, a line of history,
//! the filesystem's own tables). Without any space left, the operation that would free space could not run.
//! The owner then removes the reserve, and makes it again when there is space.
//!
//! The reserve lies in the workspace, which fills up while sessions write; a remote store has no file that
//! could be set aside.
//!
//! # Invariants
//! Nothing reads it: like all of `cache/` it may be deleted at any time.

use crate::types::sync::Mutex;

use super::layout;
use super::repository::Repository;
use crate::block::WriteAt;
use crate::error::{ErrorKind, Result};
use crate::store::Key;
use crate::types::size::Human;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes of the reserve.
const RESERVE_BYTES: u64 = 8 << 20;
/// LIMIT: the reserve takes at most 1 / `SHARE` of the filesystem.
const SHARE: u64 = 100;
/// The reserve is made when this many times its size are free.
const ROOM_FACTOR: u64 = 4;
/// A smaller reserve would be of no use.
const RESERVE_BYTES_MIN: u64 = 256 << 10;
const STEP_BYTES: u64 = 1 << 20;

fn key() -> Result<Key> {
    layout::cache()?.join("reserve")
}

/// State of the reserve's file.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// Whether the file is known to exist; locked while it is made or removed.
    is_there: Mutex<bool>,
}

impl Reserve {
    /// Removes the reserve; returns whether that freed space.
    pub(super) fn release(&self, repository: &Repository) -> bool {
        let mut is_there = self.is_there.lock();
        *is_there = false;
        release(repository)
    }

    /// Makes the reserve when it is missing and there is enough space. A failure does no harm.
    pub(super) fn restock(&self, repository: &Repository) {
        let mut is_there = self.is_there.lock();
        if *is_there {
            return;
        }
        match make(repository) {
            Ok(made) => *is_there = made,
            Err(e) => {
                tracing::debug!(error = %e.report(), "the reserve could not be made");
                release(repository);
            }
        }
    }
}

/// Removes the file; returns whether there was one.
pub(super) fn release(repository: &Repository) -> bool {
    let deleted = key().and_then(|key| repository.stage().delete(&key));
    match deleted {
        Ok(()) => {
            tracing::warn!("the repository's filesystem is full: the reserve was released");
            true
        }
        Err(e) => {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!(error = %e.report(), "the reserve could not be released");
            }
            false
        }
    }
}

/// Makes the file where there is enough space; returns whether it exists.
fn make(repository: &Repository) -> Result<bool> {
    let (stage, key) = (repository.stage(), key()?);
    let Some(space) = stage.space()? else {
        return Ok(false);
    };
    let bytes = RESERVE_BYTES.min(space.total_bytes / SHARE);
    if bytes < RESERVE_BYTES_MIN {
        return Ok(false);
    }
    match stage.open(&key) {
        Ok(file) if file.size_bytes() == bytes => return Ok(true),
        // Left by a crash, or made when the filesystem had another size.
        Ok(_) => stage.delete(&key)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    if space.free_bytes < bytes.saturating_mul(ROOM_FACTOR) {
        return Ok(false);
    }
    stage.make_prefix(&layout::cache()?)?;
    let file = stage.create(&key)?;
    match file.allocate(bytes) {
        Err(e) if e.kind() == ErrorKind::Unsupported => fill(file.as_ref(), bytes)?,
        other => other?,
    }
    tracing::debug!(size = %Human(bytes), "the reserve is there");
    Ok(true)
}

/// Writes bytes that no filesystem can compress.
fn fill(file: &dyn WriteAt, bytes: u64) -> Result<()> {
    let mut noise = blake3::Hasher::new_derive_key("restorefs reserve").finalize_xof();
    let mut at = 0;
    while at < bytes {
        let mut step = vec![0; usize_from_u64(STEP_BYTES.min(bytes.saturating_sub(at)))];
        noise.fill(&mut step);
        file.write_at(at, &step)?;
        at = at.saturating_add(u64_from_usize(step.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RESERVE_BYTES, Reserve, fill};
    use crate::block::{FileDisk, MemoryDisk, ReadAt};
    use crate::clock::{Clock, ManualClock};
    use crate::repo::Repository;
    use crate::sys::beneath::Access;
    use crate::sys::hole::allocated_bytes;

    #[test]
    fn it_takes_room_and_gives_it_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("repo");
        let repository = Repository::init(&dir, ManualClock::at(1_795_226_400).now()).unwrap();
        let reserve = Reserve::default();
        assert!(!reserve.release(&repository));
        reserve.restock(&repository);
        let path = dir.join("cache/reserve");
        let file = std::fs::File::open(&path).unwrap();
        assert!(allocated_bytes(&file).unwrap() >= RESERVE_BYTES);
        // When a user clears the cache, the next process notices it, but not this one.
        std::fs::remove_file(&path).unwrap();
        reserve.restock(&repository);
        assert!(!path.exists());
        Reserve::default().restock(&repository);
        assert!(path.exists());
        // A file that a crash cut short is made anew.
        std::fs::write(&path, b"x").unwrap();
        Reserve::default().restock(&repository);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), RESERVE_BYTES);
        assert!(reserve.release(&repository) && !path.exists());
        reserve.restock(&repository);
        assert!(path.exists());
    }

    #[test]
    fn where_space_cannot_be_allocated_it_is_written() {
        let disk = MemoryDisk::new();
        fill(&disk, 3 << 19).unwrap();
        assert_eq!(disk.size_bytes(), 3 << 19);
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        let file = std::fs::File::create_new(&path).unwrap();
        drop(file);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        fill(
            &FileDisk::new(file, path.clone(), Access::ReadWrite).unwrap(),
            1 << 20,
        )
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 1 << 20 && zstd::bulk::compress(&bytes, 1).unwrap().len() > 1 << 20);
    }
}
