//! The trash: what was removed from the repository, kept for an hour or more.
//!
//! # On-disk layout
//! | what | name below `trash/` |
//! |---|---|
//! | a layer | `<time>.<vm_id>.<slot>.<layer_id>.qcow2` |
//! | its sums | `<time>.<vm_id>.<slot>.<layer_id>.sums` |
//! | a restore point | `<time>.<vm_id>.<point_id>` |
//! | the state of a point | `<time>.<vm_id>.<point_id>.json` |
//! | a VM | `<time>.<vm_id>` |
//! | any other file | `<time>.<vm_id>.<name>` |
//!
//! `<time>` is the time of the move in UTC, `20261120T020000Z`: names sort by it. The longest name has 233 bytes.
//!
//! # Why
//! A reader that has an older list of layers still finds them here, and an administrator takes out what was removed
//! by mistake.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::layout;
use super::repository::{Repository, absent_is_empty};
use super::slot::{LAYER_SUFFIX, Slot};
use crate::block::ReadAt;
use crate::clock;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::store::{Key, Store};
use crate::types::{LayerId, VmId};

/// LIMIT: shortest time in the trash, in seconds.
pub(super) const TRASH_SECONDS: i64 = 3600;

/// LIMIT: names in the trash that are tried for one thing.
const NAMES_MAX: usize = 60;

/// The key in the trash for something of a VM that is removed at `now`; `what` is empty for the VM itself.
///
/// # Errors
/// `NameTooLong`, `InvalidInput` when `what` is not a file name.
pub(super) fn aside(now: Timestamp, vm: VmId, what: &str) -> Result<Key> {
    let time = clock::slot_time(now);
    let name = match what {
        "" => format!("{time}.{vm}"),
        what => format!("{time}.{vm}.{what}"),
    };
    layout::trash()?.join(&name)
}

/// Moves something of a VM into the trash. Where the same thing was moved there in this second already (a point that was forgotten, copied
/// in again and forgotten), it gets the name of a second after: so it stays a little longer.
///
/// # Errors
/// As [`aside`] and [`Store::rename`](crate::store::Store::rename).
pub(super) fn put(
    store: &dyn Store,
    from: &Key,
    now: Timestamp,
    vm: VmId,
    what: &str,
) -> Result<()> {
    let mut at = now;
    for _ in 0..NAMES_MAX {
        match store.rename(from, &aside(at, vm, what)?) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                at = at.checked_add(SignedDuration::from_secs(1)).unwrap_or(at);
            }
            other => return other,
        }
    }
    store.rename(from, &aside(at, vm, what)?)
}

/// The name of a layer file in the trash, without time and VM.
pub(super) fn layer_name(slot: &Slot, layer: LayerId) -> String {
    format!("{slot}.{layer}{LAYER_SUFFIX}")
}

/// Opens the newest file in the trash whose name without the time is `<vm>.<name>`, as `wanted` decides.
fn open_newest(
    repository: &Repository,
    vm: VmId,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<Arc<dyn ReadAt>>> {
    let prefix = layout::trash()?;
    let vm = vm.to_string();
    let is_wanted = |name: &str| {
        let rest = name.split_once('.').map(|(_, rest)| rest);
        let rest = rest.and_then(|rest| rest.strip_prefix(vm.as_str()));
        rest.and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(&wanted)
    };
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    for entry in entries.iter().rev() {
        if entry.is_prefix || !is_wanted(&entry.name) {
            continue;
        }
        match repository.store().open(&prefix.join(&entry.name)?) {
            // It was deleted since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other.map(Some).at_path(&entry.name),
        }
    }
    Ok(None)
}

/// Opens a layer that was in a slot: the one with this id, or the last one. `None` when it is not in the trash.
///
/// # Errors
/// `Io`.
pub fn open_layer(
    repository: &Repository,
    vm: VmId,
    slot: &Slot,
    layer: Option<LayerId>,
) -> Result<Option<Arc<dyn ReadAt>>> {
    if let Some(layer) = layer {
        let name = layer_name(slot, layer);
        return open_newest(repository, vm, |found| found == name);
    }
    open_newest(repository, vm, |found| {
        let of_slot = found.strip_suffix(LAYER_SUFFIX);
        let of_slot = of_slot.and_then(|found| found.rsplit_once('.'));
        of_slot.is_some_and(|(found, id)| found == slot.as_str() && id.parse::<LayerId>().is_ok())
    })
}

/// Opens the sums of a layer that was in a slot. `None` when they are not in the trash.
///
/// # Errors
/// `Io`.
pub(super) fn open_sums(
    repository: &Repository,
    vm: VmId,
    slot: &Slot,
    layer: LayerId,
) -> Result<Option<Arc<dyn ReadAt>>> {
    let name = slot.sums_file(layer);
    open_newest(repository, vm, |found| found == name)
}

/// Deletes entries that have been in the trash for an hour or more. What cannot be deleted (a file that is
/// immutable, a directory of somebody else) stays, with a warning.
///
/// # Errors
/// `Io` when the trash cannot be listed.
pub(super) fn empty(repository: &Repository, now: Timestamp) -> Result<()> {
    let prefix = layout::trash()?;
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    let Ok(limit) = now.checked_sub(SignedDuration::from_secs(TRASH_SECONDS)) else {
        return Ok(());
    };
    let limit = clock::slot_time(limit);
    for entry in entries {
        // Names begin with the time of the move, in a form that sorts.
        let is_old = entry
            .name
            .split('.')
            .next()
            .is_some_and(|at| at.len() == limit.len() && at < limit.as_str());
        if is_old
            && let Err(e) = repository.store().delete_all(&prefix.join(&entry.name)?)
            && e.kind() != ErrorKind::NotFound
        {
            tracing::warn!(name = %entry.name, error = %e.report(), "an entry of the trash cannot be deleted; it stays");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{aside, layer_name, put};
    use crate::clock;
    use crate::repo::{Slot, layout};
    use crate::store::{Key, MemoryStore, PutMode, Store};
    use crate::types::{DiskName, LayerId, PointId, VmId};

    /// A point was forgotten, copied in again and forgotten, all in one second: the second time failed, as its name was taken.
    #[test]
    fn what_goes_to_the_trash_twice_in_a_second_lies_there_twice() {
        let store = MemoryStore::new();
        let (from, vm) = (Key::parse("points/one").unwrap(), VmId::random());
        for _ in 0..3 {
            store.put(&from, b"x", PutMode::Create).unwrap();
            put(&store, &from, Timestamp::UNIX_EPOCH, vm, "one").unwrap();
        }
        let kept = store.list(&layout::trash().unwrap()).unwrap();
        assert_eq!(kept.len(), 3);
        assert_eq!(
            store
                .list(&Key::parse("points").unwrap())
                .unwrap_or_default()
                .len(),
            0
        );
    }

    #[test]
    fn the_longest_names_fit_a_file_name() {
        let disk = DiskName::new("x".repeat(128)).unwrap();
        let made = Slot::new(&disk, Timestamp::UNIX_EPOCH, LayerId::random());
        let longest = Slot::parse(&"x".repeat(128)).unwrap();
        for slot in [made, longest] {
            for what in [
                layer_name(&slot, LayerId::random()),
                format!("{}.open", slot.sums_file(LayerId::random())),
                format!("{}.json", PointId::random()),
                "p".repeat(128),
                String::new(),
            ] {
                let key = aside(Timestamp::UNIX_EPOCH, VmId::random(), &what).unwrap();
                let name = key.as_str().rsplit('/').next().unwrap().to_owned();
                assert!(name.len() <= 255, "{} bytes: {name}", name.len());
                assert!(name.starts_with(&clock::slot_time(Timestamp::UNIX_EPOCH)));
            }
        }
    }
}
