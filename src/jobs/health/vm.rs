//! The health of one VM.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::repo::chains::Chains;
use crate::repo::sidecar::index::{CheckResult, Index};
use crate::repo::{MissingFile, Repository};
use crate::types::{PointName, VmName};

/// LIMIT: looks at a VM that is being changed.
const LOOKS_MAX: usize = 10;

/// The last point of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastPoint {
    /// Its name.
    pub point: PointName,
    /// When its capture began.
    pub captured_at: Timestamp,
    /// Seconds since then.
    pub age_seconds: u64,
}

/// The health of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmHealth {
    /// The VM.
    pub vm: VmName,
    /// The number of its points.
    pub points: usize,
    /// The point with the highest `seq`.
    pub last: Option<LastPoint>,
    /// Layers of its deepest chain; `None` when that is not known.
    pub depth: Option<u32>,
    /// Whether that is more than the repository allows.
    pub is_too_deep: bool,
    /// Layers that no point names, and that later points need.
    pub hidden_layers: usize,
    /// Bytes of these layers.
    pub hidden_bytes: u64,
    /// Since when the last point is known to be sound; `None` when not all that it needs was verified.
    pub checked_at: Option<Timestamp>,
    /// Points of which not everything was verified.
    pub unchecked_points: usize,
    /// Whether the last point is older than the caller allows, or there is none; never so where the caller sets no age.
    pub is_late: bool,
    /// The damage that is known.
    pub damage: Vec<String>,
    /// Points that are known to be damaged. The damage of a VM that cannot be read is in `damage` alone.
    #[serde(skip)]
    pub damaged_points: usize,
    /// When the point was verified that waits for longest; `None` when none was.
    #[serde(skip)]
    pub oldest_checked_at: Option<Timestamp>,
}

impl VmHealth {
    /// Looks at a VM; `None` where the directory is not a VM. With `age_max_seconds`, an older last point is late.
    ///
    /// # Errors
    /// `Io`. Damage is in the returned value.
    pub fn of(
        repository: &Repository,
        vm: &VmName,
        age_max_seconds: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<Self>> {
        let mut before = None;
        for _ in 0..LOOKS_MAX {
            let Some((index, mut damage)) = load(repository, vm)? else {
                return Ok(None);
            };
            let Some(index) = index else {
                return Ok(Some(Self::unreadable(vm, age_max_seconds, damage)));
            };
            let missing = repository.missing_files(&index)?;
            // The listing is newer than the index: only what an index of the same generation still names is missing.
            if missing.is_empty() || before == Some(index.generation) {
                let mut damaged: HashSet<&str> = HashSet::new();
                if is_loss(repository, &index, &missing) {
                    let points = missing.iter().filter_map(|file| file.point.as_ref());
                    damaged.extend(points.map(PointName::as_str));
                    damage.extend(missing.iter().map(|file| match &file.point {
                        Some(point) => format!("{vm}@{point}: {} is missing", file.path),
                        None => format!("{vm}: {} is missing; points above it need it", file.path),
                    }));
                }
                let without = repository.points_without_sidecar(vm, &index)?;
                damaged.extend(without.iter().map(String::as_str));
                let found = index.points.iter();
                let found = found.filter(|point| point.check == Some(CheckResult::Damaged));
                damaged.extend(found.map(|point| point.name.as_str()));
                let damaged_points = damaged.len();
                damage.extend(without.iter().map(|name| {
                    format!("{vm}: the directory points/{name} has no point.json; see: restorefs check {vm}")
                }));
                let mut health = Self::of_index(&index, damage, age_max_seconds, now);
                health.is_too_deep = health.depth > Some(repository.format().max_depth());
                health.damaged_points = damaged_points;
                return Ok(Some(health));
            }
            before = Some(index.generation);
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("{vm} changes faster than it can be looked at"),
        ))
    }

    fn unreadable(vm: &VmName, age_max_seconds: Option<u64>, damage: Vec<String>) -> Self {
        Self {
            vm: vm.clone(),
            points: 0,
            last: None,
            depth: None,
            is_too_deep: false,
            hidden_layers: 0,
            hidden_bytes: 0,
            checked_at: None,
            unchecked_points: 0,
            is_late: age_max_seconds.is_some(),
            damage,
            damaged_points: 0,
            oldest_checked_at: None,
        }
    }

    fn of_index(
        index: &Index,
        mut damage: Vec<String>,
        age_max_seconds: Option<u64>,
        now: Timestamp,
    ) -> Self {
        let vm = &index.name;
        for point in &index.points {
            if point.check == Some(CheckResult::Damaged) {
                let name = &point.name;
                damage.push(format!(
                    "{vm}@{name}: verifying has found damage; see: restorefs info {vm}@{name}"
                ));
            }
        }
        let latest = index.latest();
        let last = latest.map(|point| LastPoint {
            point: point.name.clone(),
            captured_at: point.captured_at,
            // A point of the future is new.
            age_seconds: u64::try_from(now.as_second() - point.captured_at.as_second())
                .unwrap_or_default(),
        });
        let is_sound = |check| check == Some(CheckResult::Sound);
        Self {
            vm: vm.clone(),
            points: index.points.len(),
            depth: index.depth(),
            is_too_deep: false,
            hidden_layers: index.hidden.len(),
            hidden_bytes: index.hidden.iter().map(|layer| layer.file_bytes).sum(),
            checked_at: latest
                .filter(|point| is_sound(point.check))
                .and_then(|point| point.checked_at),
            unchecked_points: index.points.iter().filter(|p| p.check.is_none()).count(),
            is_late: age_max_seconds
                .is_some_and(|max| last.as_ref().is_none_or(|last| last.age_seconds > max)),
            last,
            damage,
            damaged_points: 0,
            oldest_checked_at: index.points.iter().filter_map(|p| p.checked_at).min(),
        }
    }
}

/// Whether files that are missing are needed. An index that could not be written after a merge names hidden layers that
/// nothing needs any more; then all chains can be walked.
fn is_loss(repository: &Repository, index: &Index, missing: &[MissingFile]) -> bool {
    let all_hidden = missing.iter().all(|file| file.point.is_none());
    match (missing, all_hidden) {
        ([], _) => false,
        (_, true) => Chains::walk(repository, &index.name, index).is_err(),
        (_, false) => true,
    }
}

/// The index of a VM, with the damage that is met on the way; no index where it cannot be had; `None` where there is no VM.
fn load(repository: &Repository, vm: &VmName) -> Result<Option<(Option<Index>, Vec<String>)>> {
    let is_damage = |e: &Error| matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
    let said = |e: &Error| format!("{vm}: {}", e.report());
    let sidecar = match repository.vm(vm) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if is_damage(&e) => return Ok(Some((None, vec![said(&e)]))),
        other => other?,
    };
    let mut damage = Vec::new();
    let stored = match repository.stored_index(vm) {
        Err(e) if is_damage(&e) || e.kind() == ErrorKind::NotFound => {
            damage.push(said(&e));
            Repository::empty_index(&sidecar)
        }
        other => other?,
    };
    match repository.reconcile(vm, stored) {
        Err(e) if is_damage(&e) => {
            damage.push(said(&e));
            Ok(Some((None, damage)))
        }
        other => Ok(Some((Some(other?), damage))),
    }
}
