//! Makes and opens flat disks: files in `cache/flat` with the whole content of a disk, for the kernel to read without this
//! process.
//!
//! # Invariants
//! - A flat disk shares the extents of the layers (FICLONERANGE): no byte is copied, and none is checked.
//! - It is made whole or not at all. What fails leaves nothing; the disk is then read as ever.
//! - A flat disk whose layers were replaced meanwhile is removed by its maker.

use std::fs::File;
use std::sync::Arc;

use crate::block::{ReadAt, WriteAt};
use crate::chain::{ChainRuns, Disk, RunPlace};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics::flat::{Outcome, note_made};
use crate::repo::{FlatDisk, Repository, Slot};
use crate::store::PutMode;
use crate::sys::reflink;
use crate::types::VmId;

/// LIMIT: extents of a flat disk (ours; the kernel clones about 90,000 in a second).
pub const EXTENTS_MAX: usize = 1_000_000;

/// A flat disk that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Number of extents that were cloned or released.
    pub steps: usize,
    /// Layers above the flat disk that this one was made from; `None` when it was made of the layers alone.
    pub above: Option<usize>,
}

/// The flat disks of one repository.
#[derive(Clone)]
pub struct FlatDisks {
    repository: Arc<Repository>,
    extents_max: usize,
}

impl FlatDisks {
    /// The flat disks of a repository.
    #[must_use]
    pub fn new(repository: &Arc<Repository>) -> Self {
        Self {
            repository: Arc::clone(repository),
            extents_max: EXTENTS_MAX,
        }
    }

    /// The same with another limit of extents.
    #[must_use]
    pub const fn with_extents_max(mut self, extents_max: usize) -> Self {
        self.extents_max = extents_max;
        self
    }

    /// Opens the flat disk of a disk whose top layer is in `slot`; `None` where there is none.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(&self, vm: VmId, slot: &Slot, disk: &Disk) -> Result<Option<File>> {
        let flat = FlatDisk::of(vm, slot, disk.chain_id())?;
        self.open_file(&flat, disk.size_bytes())
    }

    /// Opens the flat disk; makes it first where there is none.
    ///
    /// # Errors
    /// As [`FlatDisks::make`].
    pub fn open_or_make(&self, vm: VmId, slot: &Slot, disk: &Disk) -> Result<File> {
        if let Some(file) = self.open(vm, slot, disk)? {
            return Ok(file);
        }
        self.make(vm, slot, disk)?;
        self.open(vm, slot, disk)?
            .ok_or_else(|| Error::new(ErrorKind::Stale, "the flat disk was removed at once"))
    }

    fn open_file(&self, flat: &FlatDisk, size_bytes: u64) -> Result<Option<File>> {
        if self.repository.stage().is_separate() {
            return Ok(None);
        }
        let found = match self.repository.store().open(flat.key()) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if found.size_bytes() != size_bytes {
            tracing::warn!(flat = %flat.key(), "a flat disk has another size than its disk; it is removed");
            self.remove(flat)?;
            return Ok(None);
        }
        let file = found.local_file().map(File::try_clone).transpose();
        file.or_io("cannot use the flat disk")
            .at_path(flat.key().as_str())
    }

    fn remove(&self, flat: &FlatDisk) -> Result<()> {
        match self.repository.stage().delete(flat.key()) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes the flat disk of a disk, of the flat disk of a chain below it where there is one.
    ///
    /// # Errors
    /// `Unsupported` where the repository is not one local directory, its filesystem does not share extents, or the disk has
    /// compressed clusters; `LimitExceeded` beyond 1,000,000 extents; `NoSpace` where little room is left; `Stale` when layers were
    /// replaced meanwhile, after which the next call may succeed; `Corrupt`, `Io`. Nothing is left then.
    pub fn make(&self, vm: VmId, slot: &Slot, disk: &Disk) -> Result<Made> {
        let made = self.try_make(vm, slot, disk);
        note_made(match &made {
            Ok(Made { above: None, .. }) => Outcome::Made,
            Ok(_) => Outcome::Extended,
            Err(e) => match e.kind() {
                ErrorKind::Unsupported => Outcome::Unsupported,
                ErrorKind::LimitExceeded => Outcome::TooManyExtents,
                ErrorKind::NoSpace => Outcome::NoSpace,
                ErrorKind::Stale => Outcome::Replaced,
                _ => Outcome::Failed,
            },
        });
        made
    }

    fn try_make(&self, vm: VmId, slot: &Slot, disk: &Disk) -> Result<Made> {
        let stage = self.repository.stage();
        if stage.is_separate() {
            return Err(Error::unsupported(
                "the workspace does not lie in the repository, so no extents are shared",
            ));
        }
        if !self.repository.has_room_for_flat_disks()? {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "too little room is left on the repository's filesystem for a flat disk",
            ));
        }
        let runs = disk.runs(self.extents_max)?;
        let flat = FlatDisk::of(vm, slot, runs.chain())?;
        if let Some(dir) = flat.key().parent() {
            stage.make_prefix(&dir)?;
        }
        self.repository.tidy_flat_disks(vm, &flat)?;
        let build = flat.build()?;
        let file = stage.create(&build)?;
        let built = stage.hold_file(&build).and_then(|held| {
            if held.is_none() {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another process removes the file",
                ));
            }
            let made = self.fill(vm, disk, &runs, file.as_ref())?;
            stage.publish(&build, flat.key(), PutMode::Replace)?;
            Ok(made)
        });
        let made = built.inspect_err(|_| {
            if let Err(e) = stage.delete(&build)
                && e.kind() != ErrorKind::NotFound
            {
                tracing::warn!(error = %e.report(), "a flat disk that was not finished is left over");
            }
        })?;
        if disk.is_in_place(runs.chain())? {
            return Ok(made);
        }
        self.remove(&flat)?;
        disk.renew()?;
        Err(Error::new(
            ErrorKind::Stale,
            "layers of the disk were replaced while its flat disk was made",
        ))
    }

    /// The flat disk nearest below a disk that it can be made from, and the layers above that.
    fn base(&self, vm: VmId, runs: &ChainRuns) -> Result<Option<(usize, File, u64)>> {
        let known = self.repository.flat_disks(vm)?;
        for above in 1..runs.depth() {
            if known.is_empty() {
                break;
            }
            let Some(size_bytes) = runs.base_bytes(above).filter(|bytes| *bytes > 0) else {
                continue;
            };
            let chain = runs.chain_below(above).to_string();
            let Some(flat) = known.iter().find(|flat| flat.chain == chain) else {
                continue;
            };
            if let Some(file) = self.open_file(flat, size_bytes)? {
                return Ok(Some((above, file, size_bytes)));
            }
        }
        Ok(None)
    }

    fn fill(&self, vm: VmId, disk: &Disk, runs: &ChainRuns, to: &dyn WriteAt) -> Result<Made> {
        let target = to.local_file().ok_or_else(|| {
            Error::unsupported(
                "the repository is not a local directory: its extents cannot be shared",
            )
        })?;
        let base = self.base(vm, runs)?;
        if let Some((_, from, size_bytes)) = &base {
            reflink::clone_range(from, 0, *size_bytes, target, 0)?;
        }
        let above = base.map(|(above, ..)| above);
        to.set_size(disk.whole_clusters_bytes())?;
        let mut steps = 0;
        for run in runs.runs() {
            if above.is_some_and(|above| run.layer >= above) {
                continue;
            }
            match run.place {
                RunPlace::Data(host) => {
                    let from = runs.file(run.layer).and_then(|file| file.local_file());
                    let from = from.ok_or_else(|| {
                        Error::unsupported(
                            "a layer is not a local file: its extents cannot be shared",
                        )
                    })?;
                    reflink::clone_range(from, host, run.length_bytes, target, run.offset)
                        .at_offset(run.offset)?;
                }
                RunPlace::Zero if above.is_some() => to.punch(run.offset, run.length_bytes)?,
                RunPlace::Zero => continue,
            }
            steps += 1;
        }
        to.set_size(disk.size_bytes())?;
        Ok(Made { steps, above })
    }
}
