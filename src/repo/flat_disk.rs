//! Flat disks in `cache/flat`: files with the whole content of a disk, which share the extents of its layers.
//!
//! # Invariants
//! - The name of a flat disk names all layers of its chain, and it gets that name once it is whole and durable. One whose
//!   layers are not in their slots any more is removed by who replaced or forgot them, or by its maker.
//! - What is being made has a name that ends in `.open`, and its maker holds a lock on it. One that nobody holds is left over.
//! - All of them may be removed at any time: who has one open reads on, and its space comes back at the last close.
//!
//! # Concurrency
//! Any process that may write `cache/` makes them, without the repository's lock. A maker looks at the slots again after the
//! file has its name: a merge or forget replaces the layers first, and removes the flat disks then.

use super::layout;
use super::repository::{Repository, absent_is_empty};
use super::slot::{OPEN_SUFFIX, Slot};
use crate::chain::ChainId;
use crate::error::{ErrorKind, Result};
use crate::store::{Key, Space};
use crate::types::{LayerId, VmId};

const SUFFIX: &str = ".raw";
/// LIMIT: flat disks of one VM. Each takes room for its extents, and pins what a merge would free.
const KEPT_MAX: usize = 16;
/// Below 1 / `FREE_SHARE` of the filesystem free flat disks are removed; at twice that, none is made.
const FREE_SHARE: u64 = 50;

/// A flat disk by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatDisk {
    /// The slot of the top layer.
    pub slot: Slot,
    /// Identity of the chain, in hexadecimal digits.
    pub chain: String,
    key: Key,
}

impl FlatDisk {
    /// The flat disk of a chain.
    ///
    /// # Errors
    /// None but those of a key that is too long.
    pub fn of(vm: VmId, slot: &Slot, chain: ChainId) -> Result<Self> {
        let chain = chain.to_string();
        Ok(Self {
            key: layout::flat_disks_of(vm)?.join(&format!("{slot}.{chain}{SUFFIX}"))?,
            slot: slot.clone(),
            chain,
        })
    }

    /// Its place in the workspace.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// A place for a file that becomes this flat disk.
    ///
    /// # Errors
    /// As [`FlatDisk::of`].
    pub fn build(&self) -> Result<Key> {
        let dir = self.key.parent().map_or_else(layout::flat_disks, Ok)?;
        dir.join(&format!("{}{OPEN_SUFFIX}", LayerId::random()))
    }

    fn parse(dir: &Key, name: &str) -> Option<Self> {
        let (slot, chain) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
        Some(Self {
            slot: Slot::parse(slot).ok()?,
            chain: chain.to_owned(),
            key: dir.join(name).ok()?,
        })
    }

    /// When the point was captured, as the slot tells it.
    fn time(&self) -> &str {
        self.slot.as_str().rsplit('-').nth(1).unwrap_or_default()
    }
}

/// Whether so little is free that flat disks have to go.
fn is_short(space: Space) -> bool {
    space.free_bytes < space.total_bytes / FREE_SHARE
}

impl Repository {
    /// The flat disks of a VM.
    ///
    /// # Errors
    /// `Io`.
    pub fn flat_disks(&self, vm: VmId) -> Result<Vec<FlatDisk>> {
        let dir = layout::flat_disks_of(vm)?;
        let found = absent_is_empty(self.stage().list(&dir))?;
        Ok(found
            .iter()
            .filter_map(|entry| FlatDisk::parse(&dir, &entry.name))
            .collect())
    }

    /// Bytes that the flat disks whose top layer is in a slot take, as `du` counts: nearly all of them are shared with layers.
    /// `None` where there is no flat disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn flat_disk_bytes(&self, vm: VmId, slot: &Slot) -> Result<Option<u64>> {
        let mut sum = None;
        for flat in self
            .flat_disks(vm)?
            .iter()
            .filter(|flat| flat.slot == *slot)
        {
            match self.store().stored_bytes(flat.key()) {
                Ok(bytes) => sum = Some(sum.unwrap_or(0_u64).saturating_add(bytes)),
                // It was removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(sum)
    }

    /// Bytes that all flat disks take, as `du` counts.
    ///
    /// # Errors
    /// `Io`.
    pub fn flat_bytes(&self) -> Result<u64> {
        let mut sum = 0_u64;
        let dir = layout::flat_disks()?;
        for vm in absent_is_empty(self.stage().list(&dir))? {
            let below = dir.join(&vm.name)?;
            for entry in absent_is_empty(self.stage().list(&below))? {
                match self.store().stored_bytes(&below.join(&entry.name)?) {
                    Ok(bytes) => sum = sum.saturating_add(bytes),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(sum)
    }

    /// Whether there is room to make a flat disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn has_room_for_flat_disks(&self) -> Result<bool> {
        let space = self.stage().space()?;
        Ok(space.is_none_or(|space| {
            !is_short(Space {
                free_bytes: space.free_bytes / 2,
                ..space
            })
        }))
    }

    /// Removes what makers of flat disks that were killed have left, and all but the newest flat disks of a VM. `keep` stays.
    ///
    /// # Errors
    /// `Io`.
    pub fn tidy_flat_disks(&self, vm: VmId, keep: &FlatDisk) -> Result<()> {
        self.sweep_flat_disks(&layout::flat_disks_of(vm)?)?;
        let mut others = self.flat_disks(vm)?;
        others.retain(|flat| flat != keep);
        others.sort_by(|a, b| b.time().cmp(a.time()));
        for flat in others.iter().skip(KEPT_MAX - 1) {
            gone(self.stage().delete(flat.key()))?;
        }
        Ok(())
    }

    fn sweep_flat_disks(&self, dir: &Key) -> Result<()> {
        for entry in absent_is_empty(self.stage().list(dir))? {
            if !entry.name.ends_with(OPEN_SUFFIX) {
                continue;
            }
            let key = dir.join(&entry.name)?;
            let held = match self.stage().hold_file(&key) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            if held.is_some() {
                gone(self.stage().delete(&key))?;
            }
        }
        Ok(())
    }
}

fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the flat disks of a VM, some of whose layers are gone.
///
/// # Errors
/// `Io`.
pub(super) fn discard(repository: &Repository, vm: VmId) -> Result<()> {
    gone(repository.stage().delete(&layout::flat_disks_of(vm)?))
}

/// Removes what killed makers left, of all VMs.
///
/// # Errors
/// `Io`.
pub(super) fn sweep(repository: &Repository) -> Result<()> {
    let dir = layout::flat_disks()?;
    for vm in absent_is_empty(repository.stage().list(&dir))? {
        repository.sweep_flat_disks(&dir.join(&vm.name)?)?;
    }
    Ok(())
}

/// Removes all flat disks; returns whether there were any.
pub(super) fn release(repository: &Repository) -> bool {
    let deleted = layout::flat_disks().and_then(|dir| repository.stage().delete(&dir));
    match deleted {
        Ok(()) => {
            tracing::warn!(
                "the repository's filesystem is short of space: the flat disks in cache/flat were removed"
            );
            true
        }
        Err(e) => {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!(error = %e.report(), "the flat disks could not be removed");
            }
            false
        }
    }
}

/// Removes all flat disks where little space is left.
pub(super) fn release_if_short(repository: &Repository) {
    match repository.stage().space() {
        Ok(Some(space)) if is_short(space) => {
            release(repository);
        }
        Ok(_) => {}
        Err(e) => tracing::debug!(error = %e.report(), "the room on the filesystem is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::{FlatDisk, KEPT_MAX, release, sweep};
    use crate::chain::ChainId;
    use crate::clock::{Clock, ManualClock};
    use crate::repo::{Repository, Slot};
    use crate::types::{LayerId, VmId};

    #[test]
    fn names_come_back_the_newest_stay_and_remains_go() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("repo");
        let repository = Repository::init(&dir, ManualClock::at(1_795_226_400).now()).unwrap();
        let vm = VmId::random();
        let mut made = Vec::new();
        for day in 10..30 {
            let slot = Slot::parse(&format!("vd.a-202611{day}T020000Z-7f3a9c")).unwrap();
            let flat = FlatDisk::of(vm, &slot, ChainId::of([LayerId::random()])).unwrap();
            let path = dir.join(flat.key().as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, [7; 8192]).unwrap();
            made.push(flat);
        }
        let mut found = repository.flat_disks(vm).unwrap();
        found.sort_by(|a, b| a.time().cmp(b.time()));
        assert_eq!(found, made);
        let left = made[0].build().unwrap();
        std::fs::write(dir.join(left.as_str()), "half").unwrap();
        let held = made[0].build().unwrap();
        std::fs::write(dir.join(held.as_str()), "being made").unwrap();
        let hold = repository.stage().hold_file(&held).unwrap().unwrap();
        repository.tidy_flat_disks(vm, &made[0]).unwrap();
        let mut found = repository.flat_disks(vm).unwrap();
        found.sort_by(|a, b| a.time().cmp(b.time()));
        assert_eq!(found.len(), KEPT_MAX);
        assert_eq!(found.first(), made.first());
        assert_eq!(found.last(), made.last());
        assert_eq!(found.get(1), made.get(20 - KEPT_MAX + 1));
        assert!(!dir.join(left.as_str()).exists() && dir.join(held.as_str()).exists());
        assert!(
            repository
                .flat_disk_bytes(vm, &made[0].slot)
                .unwrap()
                .unwrap()
                >= 8192
        );
        assert_eq!(repository.flat_disk_bytes(vm, &made[1].slot).unwrap(), None);
        assert!(repository.flat_bytes().unwrap() >= 8192 * 16);
        drop(hold);
        sweep(&repository).unwrap();
        assert!(!dir.join(held.as_str()).exists());
        assert!(release(&repository) && !release(&repository));
        assert!(!dir.join("cache/flat").exists());
    }
}
