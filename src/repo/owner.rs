//! The owner: the one process that holds the lock and may change the repository.
//!
//! # Concurrency
//! `vms` (the table) is held only to look up or insert; each VM's own mutex is held over a commit of that
//! VM. The catalog serialises its writers itself.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard};

use super::catalog::Catalog;
use super::clean::CleanVm;
use super::cleanup;
use super::entry::{VmCell, VmEntry};
use super::flat_disk;
use super::heartbeat::Heartbeat;
use super::hold::Holds;
use super::job::{self, Job};
use super::layout::VmKeys;
use super::lock::{self, Note, Site};
use super::recovery;
use super::repository::{Repository, each_on_threads};
use super::reserve::{self, Reserve};
use super::sidecar::encode;
use super::sidecar::index::{Index, PointEntry, SERIAL_MAX};
use super::sidecar::vm::DiskKey;
use super::trash;
use super::uses::Uses;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Lock, PutMode};
use crate::types::sync::Mutex;
use crate::types::{JobId, VmName};

/// LIMIT: VMs that are written to the catalog in one transaction.
const REBUILT_TOGETHER: usize = 32;

/// Computes the path of the control socket for a site.
pub type ControlName<'a> = &'a dyn Fn(Site) -> PathBuf;

/// The holder of the lock of a repository.
pub struct Owner {
    repository: Arc<Repository>,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    lock: Arc<dyn Lock>,
    site: Option<Site>,
    vms: Mutex<HashMap<String, Arc<VmCell>>>,
    /// VMs that could not be read, with the reason. The owner writes nothing to them.
    damaged: Mutex<HashMap<String, String>>,
    serial_high: AtomicU32,
    /// Held while a line is appended to the job history.
    history: Mutex<()>,
    /// Held while files of `policies/` are changed.
    pub(super) policies: Mutex<()>,
    /// The month in which old months of the job history were last deleted.
    pub(super) pruned: Mutex<String>,
    reserve: Reserve,
    pub(super) uses: Arc<Uses>,
    pub(super) holds: Arc<Holds>,
    /// Tasks that have ended and whose records could not be removed yet.
    pub(super) ended: Mutex<Vec<JobId>>,
    /// Whether everything that earlier processes left has been put in order.
    is_in_order: AtomicBool,
    #[expect(dead_code, reason = "held for its Drop, which ends the heartbeat")]
    heart: Heartbeat,
}

impl Owner {
    /// Takes the lock, cleans up after processes that died, and brings the catalog up to date. `role`
    /// describes this process in the lock's note.
    ///
    /// # Errors
    /// `Locked` naming the present holder; `Unsupported` when this release may only read; `Corrupt`, `Io`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers make both for it, and need neither afterwards"
    )]
    pub fn open(repository: Arc<Repository>, clock: Arc<dyn Clock>, role: &str) -> Result<Self> {
        Self::open_with(&repository, &clock, role, None)
    }

    /// [`Owner::open`] for a process that takes requests on a socket. The note names the socket that
    /// `control` returns.
    ///
    /// # Errors
    /// As [`Owner::open`].
    pub fn open_with(
        repository: &Arc<Repository>,
        clock: &Arc<dyn Clock>,
        role: &str,
        control: Option<ControlName<'_>>,
    ) -> Result<Self> {
        let first = Self::open_once(repository, clock, role, control);
        let owner = match first {
            // On a full filesystem an owner must still be able to remove objects.
            Err(e) if e.kind() == ErrorKind::NoSpace && reserve::release(repository) => {
                Self::open_once(repository, clock, role, control)?
            }
            other => other?,
        };
        owner.restock();
        // A command that could not tell a task's end to the last owner has left it: then the task was not cut off.
        owner.take_in_late_jobs();
        owner.take_in_interrupted_jobs();
        owner.prune_jobs();
        Ok(owner)
    }

    fn open_once(
        repository: &Arc<Repository>,
        clock: &Arc<dyn Clock>,
        role: &str,
        control: Option<ControlName<'_>>,
    ) -> Result<Self> {
        repository.format().check(true)?;
        let mut note = Note::of_this_process(role, clock.now());
        let lock = lock::take(repository, &note)?;
        let site = Site::of(repository)?;
        // Only the holder of the lock knows the identity of the lock file.
        if let Some(socket) = control.zip(site).map(|(name, site)| name(site)) {
            note.control = Some(socket);
            lock.renew(&note.encode()?)?;
        }
        let (catalog, clean) = Catalog::open(
            repository.stage().as_ref(),
            repository.format().repository_id,
        )?;
        let mut vms = HashMap::new();
        let mut cells = HashMap::new();
        let mut damaged = HashMap::new();
        let mut serial_high = repository.format_now()?.serial_high;
        trash::empty(repository, clock.now())?;
        if let Err(e) = cleanup::discard_old_maps(repository) {
            tracing::warn!(error = %e.report(), "flattened maps of an earlier release are left over");
        }
        if let Err(e) = flat_disk::sweep(repository) {
            tracing::warn!(error = %e.report(), "flat disks that were not finished are left over");
        }
        let history = Mutex::default();
        let mut others = Vec::new();
        for name in repository.vm_names()? {
            if let Some(known) = clean.get(name.as_str())
                && known.is_same(repository, &name)
            {
                serial_high = serial_high.max(known.serial_high);
                let cell = VmCell::as_left(name.clone(), known.clone());
                cells.insert(name.folded(), Arc::new(cell));
                continue;
            }
            others.push(name);
        }
        for (name, found) in others.iter().zip(recovery::recover_vms(
            repository,
            &others,
            &history,
            clock.now(),
        )?) {
            let entry = match found {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                // The other VMs are served. The serials of the damaged one must still be known, so that none
                // is given twice.
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    let Ok(index) = repository.stored_index(name) else {
                        return Err(e);
                    };
                    serial_high = serial_high.max(index.serial_high).max(index.serial);
                    tracing::error!(vm = %name, error = %e.report(), "a VM is damaged and left alone");
                    damaged.insert(name.folded(), e.report());
                    continue;
                }
                Err(e) => return Err(e),
            };
            serial_high = serial_high
                .max(entry.index.serial_high)
                .max(entry.vm.serial);
            vms.insert(name.folded(), entry);
        }
        let heart = Heartbeat::start(Arc::clone(&lock), note, Arc::clone(clock))?;
        tracing::debug!(
            looked_at = vms.len(),
            as_left = cells.len(),
            "the repository's VMs are in order"
        );
        let owner = Self {
            repository: Arc::clone(repository),
            catalog,
            clock: Arc::clone(clock),
            lock,
            site,
            vms: Mutex::new(cells),
            damaged: Mutex::new(damaged),
            serial_high: AtomicU32::new(serial_high),
            history,
            policies: Mutex::default(),
            pruned: Mutex::default(),
            reserve: Reserve::default(),
            uses: Arc::default(),
            holds: Arc::default(),
            ended: Mutex::default(),
            is_in_order: AtomicBool::new(false),
            heart,
        };
        // Points without an index get their serials only now that the highest one is known.
        let mut behind = Vec::new();
        for (name, entry) in &mut vms {
            if owner.settle_serials(entry)? {
                behind.push(name.clone());
            }
        }
        let names = owner.catalog.vm_names()?;
        let is_gone = |name: &&VmName| {
            let name = name.folded();
            !vms.contains_key(&name) && !owner.table().contains_key(&name)
        };
        let gone = names.iter().filter(is_gone).map(|name| (name, None));
        let behind = behind.iter().filter_map(|name| vms.get(name));
        let behind = behind.map(|entry| (&entry.vm.name, Some(&entry.index)));
        let changes: Vec<_> = gone.chain(behind).collect();
        if !changes.is_empty() {
            owner.catalog.replace_all(changes)?;
        }
        let looked_at = vms
            .into_iter()
            .map(|(name, entry)| (name, Arc::new(VmCell::looked_at(entry))));
        owner.table().extend(looked_at);
        owner.is_in_order.store(true, Ordering::SeqCst);
        Ok(owner)
    }

    /// Gives the points of an examined VM their missing serials, and updates its index. Returns whether the
    /// catalog is behind.
    fn settle_serials(&self, entry: &mut VmEntry) -> Result<bool> {
        let mut changed = entry.index.generation == 0;
        for point in entry.index.points.iter_mut().filter(|p| p.serial == 0) {
            point.serial = self.serial_high.fetch_add(1, Ordering::SeqCst) + 1;
            changed = true;
        }
        if changed {
            let high = self.serial_high();
            entry.index.serial_high = entry.index.serial_high.max(high);
            Self::store_index(&self.repository, &mut entry.index)?;
        }
        // A rebuilt index counts generations anew, so its number proves nothing.
        Ok(changed || self.catalog.generation(&entry.vm.name)? != Some(entry.index.generation))
    }

    /// Updates the index and catalog of an examined VM.
    fn settle_index(&self, entry: &mut VmEntry) -> Result<()> {
        if self.settle_serials(entry)? {
            self.catalog.replace(&entry.vm.name, Some(&entry.index))?;
        }
        Ok(())
    }

    /// Examines a VM that was left in order, at its first use.
    pub(super) fn look_at(&self, name: &VmName) -> Result<VmEntry> {
        let now = self.clock.now();
        // During a hold, garbage stays for the next owner.
        let change = self.holds.enter();
        let cleans = change.is_ok();
        let found = recovery::recover_vm(&self.repository, name, &self.history, cleans, now);
        let looked = match found {
            Ok(Some(mut entry)) => self.settle_index(&mut entry).map(|()| entry),
            Ok(None) => Err(Self::no_such_vm(name)),
            Err(e) => Err(e),
        };
        if let Err(e) = &looked
            && e.kind() == ErrorKind::Corrupt
        {
            tracing::error!(vm = %name, error = %e.report(), "a VM is damaged and left alone");
            self.damaged.lock().insert(name.folded(), e.report());
        }
        looked
    }

    pub(super) fn no_such_vm(name: &VmName) -> Error {
        Error::not_found(format!("there is no VM {name}")).advise("list the VMs with: restorefs ls")
    }

    /// Records the marks of the VMs, so that the next owner need not examine unchanged ones. After any fault
    /// it writes nothing: the next owner then examines all VMs.
    fn mark_clean(&self) -> Result<()> {
        let is_local = self.repository.store().local_root().is_some();
        if !self.is_in_order.load(Ordering::SeqCst) || self.catalog.is_behind() || !is_local {
            return Ok(());
        }
        self.verify_lock()?;
        let table = self.table();
        let mut changed = Vec::new();
        for cell in table.values() {
            let Some(entry) = cell.entry() else { continue };
            let entry = entry.lock();
            let name = entry.vm.name.clone();
            let row = self.row(&entry)?;
            changed.push((name, row));
        }
        let names = table.values().map(|cell| cell.name().as_str()).collect();
        self.catalog.mark_clean(&names, &changed)
    }

    /// Marks a clean end, so that the next owner need not examine every VM. For callers that change nothing
    /// any more, but do not drop the owner.
    pub fn end(&self) {
        if let Err(error) = self.mark_clean() {
            tracing::debug!(error = %error.report(), "the next owner looks at every VM");
        }
        self.is_in_order.store(false, Ordering::SeqCst);
    }

    /// The record of a VM at a clean end; `None` when something is left to put in order.
    fn row(&self, entry: &VmEntry) -> Result<Option<CleanVm>> {
        let name = &entry.vm.name;
        if self.damaged.lock().contains_key(&name.folded())
            || self.catalog.generation(name)? != Some(entry.index.generation)
        {
            return Ok(None);
        }
        let sessions = self.repository.session_names(name)?;
        for session in &sessions {
            match self.repository.session(name, session) {
                // It is just beginning: what it makes is put in order by the next owner.
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Ok(session) if session.resumable => {}
                other => return other.map(|_| None),
            }
        }
        let serial_high = entry.index.serial_high.max(entry.vm.serial);
        CleanVm::now(&self.repository, name, serial_high, !sessions.is_empty())
    }

    /// Runs `work`, which frees space or is small but must succeed. When the filesystem is full, the owner
    /// releases the reserve and runs it again.
    ///
    /// # Errors
    /// Errors of `work`.
    pub(super) fn with_room<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                if flat_disk::release(&self.repository) {
                    match work() {
                        Err(e) if e.kind() == ErrorKind::NoSpace => {}
                        other => return other,
                    }
                }
                if self.reserve.release(&self.repository) {
                    return work();
                }
                Err(e)
            }
            other => other,
        }
    }

    /// Makes the reserve again when there is enough space; where space is short, removes the flat disks.
    pub fn restock(&self) {
        flat_disk::release_if_short(&self.repository);
        self.reserve.restock(&self.repository);
    }

    /// The repository, for reading.
    #[must_use]
    pub const fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The catalog.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Proves that this process still holds the lock by reading it again.
    ///
    /// # Errors
    /// `Stale` when it does not: this process must not write any more.
    pub fn verify_lock(&self) -> Result<()> {
        self.lock.verify()
    }

    /// The site of the repository when the lock was taken; `None` where it is not a local directory.
    #[must_use]
    pub const fn site(&self) -> Option<Site> {
        self.site
    }

    /// The highest serial given so far.
    pub(super) fn serial_high(&self) -> u32 {
        self.serial_high.load(Ordering::SeqCst)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<VmCell>>> {
        self.vms.lock()
    }

    /// Names of all VMs, sorted.
    #[must_use]
    pub fn vm_names(&self) -> Vec<VmName> {
        let mut names: Vec<VmName> = self
            .table()
            .values()
            .map(|cell| cell.name().clone())
            .collect();
        names.sort();
        names
    }

    /// Names of the VMs that may have open sessions, sorted.
    #[must_use]
    pub fn vms_with_sessions(&self) -> Vec<VmName> {
        let table = self.table();
        let some = table.values().filter(|cell| cell.may_have_sessions());
        let mut names: Vec<VmName> = some.map(|cell| cell.name().clone()).collect();
        names.sort();
        names
    }

    /// The entry of a VM, locked by its own mutex for as long as the caller holds the guard.
    ///
    /// # Errors
    /// `NotFound` naming the VM.
    pub fn vm(&self, name: &VmName) -> Result<Arc<Mutex<VmEntry>>> {
        self.check_undamaged(name)?;
        let cell = self.table().get(&name.folded()).cloned();
        let cell = cell.ok_or_else(|| Self::no_such_vm(name))?;
        cell.entry_or(|name| self.look_at(name))
    }

    pub(super) fn check_undamaged(&self, name: &VmName) -> Result<()> {
        match self.damaged.lock().get(&name.folded()) {
            Some(damage) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the VM {name} is damaged, and its owner writes nothing to it: {damage}"),
            )),
            None => Ok(()),
        }
    }

    /// The index of a VM: from memory, or from the catalog while the VM is unchanged since it was left in
    /// order. A changed VM is examined, so that an old or foreign catalog hides no point.
    ///
    /// # Errors
    /// `NotFound` naming the VM; `Corrupt`, `Io`.
    pub fn index(&self, name: &VmName) -> Result<Index> {
        self.check_undamaged(name)?;
        let cell = self.table().get(&name.folded()).cloned();
        let cell = cell.ok_or_else(|| Self::no_such_vm(name))?;
        if cell.entry().is_none()
            && !self.catalog.is_behind()
            && cell.is_as_left(&self.repository)
            && let Ok(Some(index)) = self.catalog.index(cell.name())
        {
            return Ok(index);
        }
        let entry = cell.entry_or(|name| self.look_at(name))?;
        let entry = entry.lock();
        if entry.gone {
            return Err(Self::no_such_vm(name));
        }
        Ok(entry.index.clone())
    }

    /// A copy of a VM's entry.
    ///
    /// # Errors
    /// `NotFound` naming the VM.
    pub fn vm_snapshot(&self, name: &VmName) -> Result<VmEntry> {
        Ok(self.vm(name)?.lock().clone())
    }

    /// The next serial, which was never given before in this repository.
    ///
    /// # Errors
    /// `LimitExceeded` after 16,777,215 points.
    pub fn next_serial(&self) -> Result<u32> {
        let serial = self.serial_high.fetch_add(1, Ordering::SeqCst) + 1;
        // The upper half is reserved for provisional serials of points that are not indexed yet.
        if serial >= SERIAL_MAX / 2 {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "all serials of this repository are used up",
            )
            .advise("make a new repository and copy the points that you keep"));
        }
        Ok(serial)
    }

    /// Gives a VM the next serial, and records it.
    ///
    /// # Errors
    /// As [`Owner::next_serial`]; `NoSpace`, `Io`.
    pub fn take_serial(&self, entry: &mut VmEntry) -> Result<u32> {
        let serial = self.next_serial()?;
        entry.index.serial_high = entry.index.serial_high.max(serial);
        Self::store_index(&self.repository, &mut entry.index)?;
        Ok(serial)
    }

    pub(super) fn store_index(repository: &Repository, index: &mut Index) -> Result<()> {
        index.generation += 1;
        repository.store().put(
            &VmKeys::new(&index.name)?.index()?,
            &encode(index)?,
            PutMode::Replace,
        )
    }

    /// Replaces `index.json`, then the catalog.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the catalog is then behind.
    pub(super) fn write_index(&self, entry: &mut VmEntry) -> Result<()> {
        let vm = &entry.vm.name;
        let index = &mut entry.index;
        self.with_room(|| Self::store_index(self.repository(), index))
            .and_then(|()| self.catalog().replace(vm, Some(index)))
            .inspect_err(|_| self.catalog().note_behind())
    }

    /// Records the volumes found on the disks of a point, in its state.
    ///
    /// # Errors
    /// `NotFound` when the VM is gone; `Stale` when the lock is lost; `Corrupt` when the present state cannot
    /// be read; `NoSpace`, `Io`.
    pub fn keep_volumes(
        &self,
        vm: &VmName,
        point: &PointEntry,
        volumes: serde_json::Value,
    ) -> Result<()> {
        let entry = self.vm(vm)?;
        let _held = entry.lock();
        self.verify_lock()?;
        let mut state = self.repository.state(vm, point)?;
        state.volumes = Some(volumes);
        let key = VmKeys::new(vm)?.state(point.point_id)?;
        self.repository
            .store()
            .put(&key, &encode(&state)?, PutMode::Replace)
    }

    /// Records the keys of a VM's disks, when there are new ones.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn record_disks(&self, entry: &mut VmEntry, disks: &[DiskKey]) -> Result<()> {
        let mut vm = entry.vm.clone();
        for disk in disks {
            match vm.disks.iter_mut().find(|known| known.name == disk.name) {
                Some(known) => known.key.clone_from(&disk.key),
                None => vm.disks.push(disk.clone()),
            }
        }
        // A renamed disk is listed once, under its new name.
        vm.disks.retain(|known| {
            let is_it = |disk: &&DiskKey| disk.key == known.key && disk.key != disk.name.as_str();
            disks
                .iter()
                .find(is_it)
                .is_none_or(|disk| disk.name == known.name)
        });
        if vm.disks != entry.vm.disks {
            self.repository.store().put(
                &VmKeys::new(&vm.name)?.vm()?,
                &encode(&vm)?,
                PutMode::Replace,
            )?;
            entry.vm = vm;
        }
        Ok(())
    }

    /// Appends a job to the history. A failure is logged and has no other effect.
    pub fn keep_job(&self, job: &Job) {
        job::count(job);
        if let Err(e) = self.append_job(job) {
            job::say_lost(job, &e);
        }
    }

    pub(super) fn append_job(&self, job: &Job) -> Result<()> {
        let _turn = self.history.lock();
        self.with_room(|| job::append(&self.repository, job))
    }

    /// Deletes what has been in the trash for an hour or more; during a hold, nothing.
    ///
    /// # Errors
    /// `Io`.
    pub fn empty_trash(&self) -> Result<()> {
        let Ok(_change) = self.holds.enter() else {
            return Ok(());
        };
        trash::empty(&self.repository, self.clock.now())
    }

    /// Brings catalog and indexes up to date when a write to them has failed.
    ///
    /// # Errors
    /// As [`Owner::rebuild_catalog`].
    pub fn heal_catalog(&self) -> Result<()> {
        if self.catalog.is_behind() {
            for name in &self.vm_names() {
                let entry = self.vm(name)?;
                let mut entry = entry.lock();
                let stored = self.repository.stored_index(name).map(|i| i.generation);
                if !entry.gone && stored.ok() != Some(entry.index.generation) {
                    Self::store_index(&self.repository, &mut entry.index)?;
                }
            }
            let vms = self.rebuild_catalog()?;
            tracing::info!(vms, "the catalog is up to date again");
        }
        Ok(())
    }

    /// Rebuilds the catalog from the sidecars.
    ///
    /// # Errors
    /// `Io`.
    pub fn rebuild_catalog(&self) -> Result<usize> {
        if self.catalog.is_behind() {
            self.catalog.reopen(self.repository.stage().as_ref())?;
        }
        let names = self.vm_names();
        let known: HashSet<&VmName> = names.iter().collect();
        let all = self.catalog.vm_names()?;
        let gone = all.iter().filter(|name| !known.contains(name));
        self.catalog.replace_all(gone.map(|name| (name, None)))?;
        for names in names.chunks(REBUILT_TOGETHER) {
            let entries = self.look_at_all(names)?;
            // The entries stay locked, because a commit in between would be overwritten. The transaction
            // begins when all are locked: a commit that holds an entry may wait for it.
            let mut entries: Vec<_> = entries.iter().map(|entry| entry.lock()).collect();
            for entry in entries.iter_mut().filter(|entry| !entry.gone) {
                self.repeat_labels(entry)?;
            }
            let there = || entries.iter().filter(|entry| !entry.gone);
            let forgotten = there().map(|entry| (&entry.vm.name, None));
            let rebuilt = there().map(|entry| (&entry.vm.name, Some(&entry.index)));
            self.catalog.replace_all(forgotten.chain(rebuilt))?;
        }
        Ok(names.len())
    }

    /// The entries of VMs, in their order. VMs that were not examined yet are examined now, on several
    /// threads.
    fn look_at_all(&self, names: &[VmName]) -> Result<Vec<Arc<Mutex<VmEntry>>>> {
        each_on_threads(names, |name| self.vm(name))?
            .into_iter()
            .collect()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}
