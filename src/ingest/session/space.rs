//! Space for a session: an estimate of what it will need, and a check that the filesystem has it,
//! before the first byte is taken.
//!
//! # Why
//! A backup that finds the filesystem full after hours has wasted those hours, and takes the last
//! space from the others. What a disk will store cannot be known, but what its last backups stored
//! is a fair guess. A disk that begins anew stores what its source reports as data, or what it had
//! before. For a new disk whose source reports nothing, the estimate is 0, and the log records
//! that.

use std::sync::Weak;

use crate::error::{Error, ErrorKind, Result};
use crate::ingest::request::BeginRequest;
use crate::repo::Repository;
use crate::repo::entry::VmEntry;
use crate::repo::sidecar::point::{Kind, Point};
use crate::repo::sidecar::session::SessionDisk;
use crate::store::Space;
use crate::types::size::Human;
use crate::types::sync::Mutex;

/// LIMIT: points whose stored bytes are considered for the estimate.
const HISTORY_MAX: usize = 5;
/// Divisor of a disk's data that estimates its changes, when no earlier backup gives a value.
const CHANGES_SHARE: u64 = 20;
/// Bytes to keep free by default: at most this many, ...
const LOW_WATER_BYTES_MAX: u64 = 1 << 30;
/// ... and at most the filesystem's size divided by this.
const LOW_WATER_SHARE: u64 = 50;

/// Bytes to keep free on a filesystem by default: 2 %, at most 1 GiB.
#[must_use]
pub fn low_water_default(total_bytes: u64) -> u64 {
    LOW_WATER_BYTES_MAX.min(total_bytes / LOW_WATER_SHARE)
}

/// What a session is expected to store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::ingest) struct Estimate {
    /// Bytes.
    pub(in crate::ingest) bytes: u64,
    /// Bytes of disks of which only the size is known.
    pub(in crate::ingest) unknown_bytes: u64,
}

/// Estimates what a session will store, from its disks' earlier backups (`history` has the last
/// points) and from what their sources report.
fn estimate(
    disks: &[SessionDisk],
    parent: Option<&Point>,
    history: &[Point],
    request: &BeginRequest,
) -> Estimate {
    let of_disk = |disk: &SessionDisk| -> Option<u64> {
        let Some(base) = &disk.parent else {
            let origin = request.origin(&disk.name);
            let reported = origin.and_then(|origin| origin.data_bytes);
            let before = parent.and_then(|point| point.disk(&disk.name));
            return reported.or(before.map(|before| before.data_bytes));
        };
        let chain = history.iter().filter_map(|point| {
            let before = point.disks.iter().find(|d| d.key == disk.key);
            before.or_else(|| point.disk(&disk.name))
        });
        let changes = chain.filter(|before| before.kind != Kind::Full);
        let changed = changes.map(|before| before.changed_bytes).max();
        Some(changed.unwrap_or(base.data_bytes / CHANGES_SHARE))
    };
    let mut all = Estimate::default();
    for disk in disks {
        match of_disk(disk) {
            Some(bytes) => all.bytes = all.bytes.saturating_add(bytes),
            None => all.unknown_bytes = all.unknown_bytes.saturating_add(disk.size_bytes),
        }
    }
    all
}

fn last_points(repository: &Repository, entry: &VmEntry) -> Vec<Point> {
    let last = entry.index.points.iter().rev().take(HISTORY_MAX);
    // A point that cannot be read contributes nothing; operations that need it report the error.
    last.filter_map(|point| repository.point(&entry.vm.name, point).ok())
        .collect()
}

/// Holders of an estimate that they have not used up yet.
pub(in crate::ingest) trait Promised: Send + Sync {
    /// Bytes that the holder is still expected to store.
    fn outstanding_bytes(&self) -> u64;
}

/// What open sessions of this process are still expected to store.
#[derive(Default)]
pub(in crate::ingest) struct Promises(Mutex<Vec<Weak<dyn Promised>>>);

impl Promises {
    pub(in crate::ingest) fn add(&self, promised: Weak<dyn Promised>) {
        let mut all = self.0.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(promised);
    }

    fn bytes(&self) -> u64 {
        let all = self.0.lock().clone();
        let held = all.iter().filter_map(Weak::upgrade);
        held.map(|promised| promised.outstanding_bytes())
            .fold(0, |all, bytes| all.saturating_add(bytes))
    }
}

/// Estimates what a session will store.
pub(in crate::ingest) fn expect_room(
    repository: &Repository,
    entry: Option<&VmEntry>,
    disks: &[SessionDisk],
    parent: Option<&Point>,
    request: &BeginRequest,
) -> Estimate {
    let history = entry.map_or_else(Vec::new, |entry| last_points(repository, entry));
    estimate(disks, parent, &history, request)
}

/// Refuses a session whose estimate does not fit into the free space. `low_water_bytes` must stay
/// free. When the source reports nothing and the disk is larger than the free space, only a warning
/// is logged.
///
/// # Errors
/// `NoSpace`, which names the needed and the free bytes; `Io`.
pub(in crate::ingest) fn check_room(
    repository: &Repository,
    estimate: Estimate,
    promises: &Promises,
    low_water_bytes: Option<u64>,
) -> Result<()> {
    let mut spaces = vec![repository.store().space()?];
    if repository.stage().is_separate() {
        // Bytes written to the stage stay there until they have been uploaded.
        spaces.push(repository.stage().space()?);
    }
    for space in spaces.into_iter().flatten() {
        check_space(space, estimate, promises, low_water_bytes)?;
    }
    Ok(())
}

fn check_space(
    space: Space,
    estimate: Estimate,
    promises: &Promises,
    low_water_bytes: Option<u64>,
) -> Result<()> {
    judge(space, estimate.bytes, promises.bytes(), low_water_bytes)?;
    let most = estimate.bytes.saturating_add(estimate.unknown_bytes);
    if estimate.unknown_bytes > 0 && judge(space, most, promises.bytes(), low_water_bytes).is_err()
    {
        tracing::warn!(
            size = %Human(estimate.unknown_bytes),
            free = %Human(space.free_bytes),
            "the disks may not fit: their sources do not report how much data they have"
        );
    }
    Ok(())
}

fn judge(space: Space, needed: u64, promised: u64, low_water: Option<u64>) -> Result<()> {
    let low_water = low_water.unwrap_or_else(|| low_water_default(space.total_bytes));
    let wanted = needed.saturating_add(promised).saturating_add(low_water);
    if space.free_bytes >= wanted {
        return Ok(());
    }
    let needs = match (needed, promised) {
        (0, 0) => String::new(),
        (0, bytes) => format!("other sessions need about {} more, ", Human(bytes)),
        (bytes, 0) => format!("it needs about {}, ", Human(bytes)),
        (bytes, others) => format!(
            "it needs about {}, other sessions about {} more, ",
            Human(bytes),
            Human(others)
        ),
    };
    Err(Error::new(
        ErrorKind::NoSpace,
        format!(
            "there is no room for this session: {needs}{} are free, of which {} are to stay free",
            Human(space.free_bytes),
            Human(low_water)
        ),
    )
    .advise("make room on the repository's filesystem (unused sessions: restorefs sessions, restorefs abort), or lower the mark: --low-water SIZE, or begin all the same: --no-room-check"))
}

#[cfg(test)]
mod tests {
    use super::{estimate, judge, low_water_default};
    use crate::error::ErrorKind;
    use crate::ingest::session::sample::{self, point_disk};
    use crate::ingest::{BeginRequest, Origin};
    use crate::repo::Slot;
    use crate::repo::sidecar::Unknown;
    use crate::repo::sidecar::point::{Kind, Point, PointDisk};
    use crate::repo::sidecar::session::{ParentDisk, SessionDisk};
    use crate::store::Space;
    use crate::types::{DiskName, LayerId, VmName};
    use jiff::Timestamp;

    fn slot() -> Slot {
        Slot::new(
            &DiskName::new("vda").unwrap(),
            Timestamp::UNIX_EPOCH,
            LayerId::random(),
        )
    }

    fn point(disks: &[(&str, &str, Kind, u64, u64)]) -> Point {
        let disks = disks
            .iter()
            .map(|(name, key, kind, data, changed)| PointDisk {
                kind: *kind,
                size_bytes: 1 << 40,
                source_bytes: 1 << 40,
                data_bytes: *data,
                changed_bytes: *changed,
                ..point_disk(name, key)
            });
        sample::point(disks)
    }

    fn disk(name: &str, key: &str, base: Option<&PointDisk>) -> SessionDisk {
        SessionDisk {
            name: DiskName::new(name).unwrap(),
            number: 0,
            log: None,
            temporary: None,
            unlinked: false,
            inherited: true,
            key: key.to_owned(),
            layer: slot(),
            layer_id: LayerId::random(),
            kind: Kind::Full,
            full_reason: None,
            size_bytes: 1 << 40,
            source_bytes: 1 << 40,
            parent: base.map(|base| ParentDisk {
                name: None,
                layer: base.layer.clone(),
                content_root: base.content_root,
                size_bytes: base.size_bytes,
                source_bytes: base.source_bytes,
                data_bytes: base.data_bytes,
                change_id: None,
                unknown: Unknown::new(),
            }),
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn a_disk_is_expected_to_store_what_its_last_backups_did() {
        let (full, more) = (Kind::Full, Kind::Incremental);
        let first = point(&[("vda", "vda", full, 1000, 1000)]);
        let second = point(&[("vda", "vda", more, 1100, 300)]);
        let third = point(&[("vda", "vda", more, 1200, 200)]);
        let on = |point: &Point| disk("vda", "vda", point.disks.first());
        let history = [third.clone(), second, first.clone()];
        let mut request = BeginRequest::new(VmName::new("web01").unwrap());
        let guess = |disk: SessionDisk, parent: Option<&Point>, history: &[Point]| {
            estimate(&[disk], parent, history, &request).bytes
        };
        assert_eq!(guess(on(&third), Some(&third), &history), 300);
        // A first incremental: the full point before it is no estimate for changes.
        let history = std::slice::from_ref(&first);
        assert_eq!(guess(on(&first), Some(&first), history), 50);
        // A disk that begins anew, and one that is new.
        let anew = disk("vda", "vda", None);
        assert_eq!(guess(anew.clone(), Some(&third), history), 1200);
        assert_eq!(guess(disk("vdb", "vdb", None), None, &[]), 0);
        // A renamed disk: the key decides, not the name.
        let keyed = point(&[("sda", "K1", more, 1, 40), ("vda", "K2", more, 1, 7)]);
        let renamed = disk("vda", "K1", keyed.disks.first());
        assert_eq!(
            guess(renamed, Some(&keyed), std::slice::from_ref(&keyed)),
            40
        );
        // What the source reports is used only for a disk that begins anew.
        let reported = Origin {
            data_bytes: Some(77),
            lookalike: None,
        };
        request.origins.insert(anew.name.clone(), reported);
        let all = [anew, disk("vdb", "vdb", None)];
        let whole = estimate(&all, Some(&third), history, &request);
        assert_eq!((whole.bytes, whole.unknown_bytes), (77, 1 << 40));
        assert_eq!(
            estimate(&[on(&third)], Some(&third), history, &request).bytes,
            60
        );
    }

    #[test]
    fn a_session_is_refused_when_it_would_pass_the_mark() {
        assert_eq!(low_water_default(10 << 40), 1 << 30);
        assert_eq!(low_water_default(5_000), 100);
        let space = Space {
            free_bytes: 1000,
            total_bytes: 5_000,
        };
        judge(space, 900, 0, None).unwrap();
        judge(space, 1000, 0, Some(0)).unwrap();
        for (needed, promised, mark) in [(901, 0, None), (800, 101, None), (0, 0, Some(1001))] {
            let error = judge(space, needed, promised, mark).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.report().contains("1000 B are free"), "{error:?}");
        }
        judge(space, u64::MAX, u64::MAX, Some(u64::MAX)).unwrap_err();
    }
}
