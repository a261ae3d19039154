//! The repository's VMs and points at one moment: the source of names and listings, without an open chain.
//!
//! # Invariants
//! - A snapshot never changes; a refresh makes the next one and shares the unchanged parts.
//! - Serials are unique within a snapshot. A point without a serial (not indexed yet), or with one that is
//!   taken, gets one from the upper end, which stays the same for the life of this process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use jiff::Timestamp;

use super::inode::{Ino, low};
use crate::error::{ErrorKind, Result};
use crate::guest::fs::Time;
use crate::repo::sidecar::index::{Index, PointEntry, SERIAL_MAX};
use crate::repo::{Repository, layout::VmKeys};
use crate::store::Fingerprint;
use crate::types::{DiskName, PointName, VmId, VmName};

/// A point in a snapshot.
#[derive(Debug)]
pub struct PointView {
    /// Its VM.
    pub vm: VmName,
    /// Identity of the VM.
    pub vm_id: VmId,
    /// Its index entry; the serial is unique in the snapshot.
    pub entry: PointEntry,
}

impl PointView {
    /// The inode of one of its own nodes.
    pub(super) fn ino(&self, low: u32) -> Ino {
        Ino::pack(self.entry.serial, 0, low)
    }

    /// When it was committed.
    pub(super) fn time(&self) -> Time {
        super::attribute::time(self.entry.committed_at)
    }
}

/// A VM in a snapshot.
#[derive(Debug)]
pub struct VmView {
    /// Name.
    pub name: VmName,
    /// Identity.
    pub vm_id: VmId,
    /// Serial of its directory, unique in the snapshot.
    pub serial: u32,
    /// Number of rewrites of its index.
    pub generation: u64,
    /// Seconds of the last commit of a point; 0 without points.
    committed_at: i64,
    /// Its points by ascending serial.
    pub points: Vec<Arc<PointView>>,
}

impl VmView {
    /// The inode of its directory.
    #[must_use]
    pub fn ino(&self) -> Ino {
        Ino::pack(self.serial, 0, low::SELF)
    }

    /// The point of that name; exact, like file names.
    #[must_use]
    pub fn point(&self, name: &str) -> Option<&Arc<PointView>> {
        self.points
            .iter()
            .find(|point| point.entry.name.as_str() == name)
    }

    /// The point with the highest `seq`.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<PointView>> {
        self.points.iter().max_by_key(|point| point.entry.seq)
    }

    /// Time of the directory: that of the last commit; the fraction distinguishes versions.
    pub(super) fn time(&self) -> Time {
        Time {
            seconds: self.committed_at,
            nanoseconds: u32::try_from(self.generation % 1_000_000_000).unwrap_or(0),
        }
    }
}

/// The holder of a serial.
#[derive(Debug, Clone)]
pub(super) enum Holder {
    Vm(Arc<VmView>),
    Point(Arc<PointView>),
}

/// VMs and points at one moment; cheap to share, immutable.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// VMs by serial.
    pub(super) vms: BTreeMap<u32, Arc<VmView>>,
    by_name: HashMap<String, u32>,
    by_serial: HashMap<u32, Holder>,
}

impl Snapshot {
    /// All VMs, by ascending serial.
    pub fn vms(&self) -> impl Iterator<Item = &Arc<VmView>> {
        self.vms.values()
    }

    /// The VM of that name; exact.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&Arc<VmView>> {
        self.vms.get(self.by_name.get(name)?)
    }

    pub(super) fn holder(&self, serial: u32) -> Option<&Holder> {
        self.by_serial.get(&serial)
    }

    /// The VMs that `shows` accepts, with their serials in this snapshot.
    pub(super) fn only(&self, shows: impl Fn(&VmName) -> bool) -> Self {
        let mut some = Self::default();
        for vm in self.vms().filter(|vm| shows(&vm.name)) {
            some.insert(Arc::clone(vm));
        }
        some
    }

    /// Time of the root: that of the newest change below it.
    pub(super) fn time(&self) -> Time {
        let seconds = self.vms().map(|vm| vm.committed_at).max().unwrap_or(0);
        let mark = self
            .vms
            .keys()
            .fold(0u32, |mark, serial| (mark * 31 + serial) % 1_000_003);
        Time {
            seconds,
            nanoseconds: mark,
        }
    }

    fn insert(&mut self, vm: Arc<VmView>) {
        for point in &vm.points {
            self.by_serial
                .insert(point.entry.serial, Holder::Point(Arc::clone(point)));
        }
        self.by_serial
            .insert(vm.serial, Holder::Vm(Arc::clone(&vm)));
        self.by_name.insert(vm.name.as_str().to_owned(), vm.serial);
        self.vms.insert(vm.serial, vm);
    }
}

/// Fingerprints of a VM's index and of its directory of points.
type Marks = (Option<Fingerprint>, Option<Fingerprint>);

/// Makes snapshots.
#[derive(Default)]
pub(super) struct Loader {
    marks: HashMap<String, Marks>,
    /// Serials assigned here, by VM and identity: a copied directory has the identities of its original.
    given: HashMap<(String, [u8; 16]), u32>,
    /// The only VM to read; all without it.
    only: Option<VmName>,
}

impl Loader {
    /// A loader that reads a single VM.
    pub(super) fn of_vm(vm: VmName) -> Self {
        Self {
            only: Some(vm),
            ..Self::default()
        }
    }

    /// The next snapshot after `old`; `None` when nothing has changed. Unchanged index files are not read.
    pub(super) fn load(
        &mut self,
        repository: &Repository,
        old: &Snapshot,
    ) -> Result<Option<Snapshot>> {
        let names = match &self.only {
            Some(vm) => vec![vm.clone()],
            None => repository.vm_names()?,
        };
        let mut views = Vec::new();
        let mut changed = names.len() != old.vms.len();
        let (mut others, mut others_marks) = (Vec::new(), Vec::new());
        for name in names {
            let known = old.vm(name.as_str());
            let marks = Self::look(repository, &name);
            if let (Some(vm), Some(marks)) = (known, &marks)
                && self.marks.get(name.as_str()) == Some(marks)
            {
                views.push(Err(Arc::clone(vm)));
                continue;
            }
            others.push(name);
            others_marks.push(marks);
        }
        let indexes = repository.indexes(&others)?;
        for ((name, index), marks) in others.iter().zip(indexes).zip(others_marks) {
            let known = old.vm(name.as_str());
            match index {
                Ok(index) => {
                    if let Some(marks) = marks {
                        self.marks.insert(name.as_str().to_owned(), marks);
                    }
                    match known {
                        Some(vm) if is_same(vm, &index) => views.push(Err(Arc::clone(vm))),
                        _ => {
                            changed = true;
                            views.push(Ok((name.clone(), index)));
                        }
                    }
                }
                // The directory is not a VM, or not one yet.
                Err(e) if e.kind() == ErrorKind::NotFound => changed |= known.is_some(),
                Err(error) => {
                    tracing::warn!(vm = %name, error = %error.report(), "the VM cannot be read; it is shown as it was");
                    self.marks.remove(name.as_str());
                    views.extend(known.map(|vm| Err(Arc::clone(vm))));
                }
            }
        }
        if !changed && views.len() == old.vms.len() {
            return Ok(None);
        }
        let mut next = Snapshot::default();
        // Unchanged views keep their serials; new ones get others.
        let (new, same): (Vec<_>, Vec<_>) = views.into_iter().partition(Result::is_ok);
        for vm in same.into_iter().filter_map(Result::err) {
            next.insert(vm);
        }
        for (name, index) in new.into_iter().flatten() {
            let vm = self.view(&next, name, index);
            next.insert(Arc::new(vm));
        }
        Ok(Some(next))
    }

    /// `None` where the store has no fingerprints.
    fn look(repository: &Repository, name: &VmName) -> Option<Marks> {
        let (store, keys) = (repository.store(), VmKeys::new(name).ok()?);
        let index = store.fingerprint(&keys.index().ok()?).ok()?;
        let points = store.fingerprint(&keys.points().ok()?).ok()?;
        (index.is_some() || points.is_some()).then_some((index, points))
    }

    fn view(&mut self, snapshot: &Snapshot, name: VmName, index: Index) -> VmView {
        let mut taken: Vec<u32> = Vec::new();
        let mut choose = |wanted: u32, identity: [u8; 16]| {
            let is_free = |serial: u32, taken: &[u32]| {
                serial != 0 && snapshot.holder(serial).is_none() && !taken.contains(&serial)
            };
            if wanted <= index.serial_high && is_free(wanted, &taken) {
                taken.push(wanted);
                return wanted;
            }
            let next =
                SERIAL_MAX.saturating_sub(u32::try_from(self.given.len()).unwrap_or(u32::MAX));
            let key = (name.as_str().to_owned(), identity);
            let given = *self.given.entry(key).or_insert(next);
            taken.push(given);
            given
        };
        let serial = choose(index.serial, index.vm_id.to_bytes());
        let mut points = Vec::with_capacity(index.points.len());
        let mut shared = Shared::default();
        for mut entry in index.points {
            entry.serial = choose(entry.serial, entry.point_id.to_bytes());
            shared.share(&mut entry);
            points.push(Arc::new(PointView {
                vm: name.clone(),
                vm_id: index.vm_id,
                entry,
            }));
        }
        points.sort_by_key(|point| point.entry.serial);
        let times = points.iter().map(|point| point.entry.committed_at);
        VmView {
            name,
            vm_id: index.vm_id,
            serial,
            generation: index.generation,
            committed_at: times.map(Timestamp::as_second).max().unwrap_or(0),
            points,
        }
    }
}

/// Names of a VM's points and disks, each stored once for all references.
#[derive(Default)]
struct Shared {
    points: HashSet<PointName>,
    disks: HashSet<DiskName>,
}

impl Shared {
    fn share(&mut self, entry: &mut PointEntry) {
        share(&mut self.points, &mut entry.name);
        if let Some(parent) = &mut entry.parent {
            share(&mut self.points, &mut parent.name);
        }
        for disk in &mut entry.disks {
            share(&mut self.disks, &mut disk.name);
        }
    }
}

fn share<N: Hash + Eq + Clone>(known: &mut HashSet<N>, name: &mut N) {
    match known.get(name) {
        Some(same) => *name = same.clone(),
        None => {
            known.insert(name.clone());
        }
    }
}

/// Whether index and view are equal, and all points have a number.
fn is_same(vm: &VmView, index: &Index) -> bool {
    vm.generation == index.generation
        && vm.vm_id == index.vm_id
        && vm.points.len() == index.points.len()
        && index.points.iter().all(|entry| {
            let at = vm
                .points
                .binary_search_by_key(&entry.serial, |point| point.entry.serial);
            at.ok()
                .and_then(|at| vm.points.get(at))
                .is_some_and(|point| point.entry == *entry)
        })
}

/// Nodes that differ in `new`: directories with other names in them, and removed nodes.
pub(super) fn changes(old: &Snapshot, new: &Snapshot) -> Vec<Ino> {
    let mut nodes = Vec::new();
    for vm in old.vms() {
        match new.vm(vm.name.as_str()) {
            Some(now) if Arc::ptr_eq(now, vm) => {}
            Some(now) if now.serial == vm.serial => compare(vm, now, &mut nodes),
            _ => nodes.extend([Ino::ROOT, vm.ino()]),
        }
    }
    let new_ones = new.vms().filter(|vm| old.vm(vm.name.as_str()).is_none());
    nodes.extend(new_ones.map(|_| Ino::ROOT));
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn compare(old: &VmView, new: &VmView, nodes: &mut Vec<Ino>) {
    let after: HashSet<u32> = new.points.iter().map(|p| p.entry.serial).collect();
    let gone = old.points.iter().map(|p| p.entry.serial);
    let gone = gone.filter(|serial| !after.contains(serial));
    nodes.extend(gone.map(|serial| Ino::pack(serial, 0, low::SELF)));
    nodes.push(new.ino());
}
