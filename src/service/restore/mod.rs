//! Restoring disks of a restore point: one disk to a target, or all of them, with the attached
//! files, into a directory.

mod place;
mod present;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use crate::block::{FileDisk, ReadAt, WriteAt};
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::restore::change::restore_changed;
use crate::jobs::restore::image::ImageTarget;
use crate::jobs::restore::making::Making;
use crate::jobs::restore::target::Target;
use crate::jobs::restore::{RestoreOptions, Restored, restore};
use crate::nbd::client::Client as NbdClient;
use crate::point::ProvedDisk;
use crate::repo::Repository;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::{Point, PointDisk};
use crate::sys::beneath::{Access, Dir, Kind};
use crate::sys::device;
use crate::sys::durable::{self, Replace};
use crate::task::Monitor;
use crate::types::{DiskName, VmId, VmName};
use place::{Used, refuse_used};
pub use place::{refuse_place, refuse_repository};

/// Receives the progress of a restore.
pub trait Observer {
    /// The restore of a disk begins. The returned monitor receives the progress, and can stop the
    /// restore.
    fn restores(&self, disk: &DiskName, size_bytes: u64) -> Monitor;

    /// The restore of the disk has ended, successfully or not.
    fn restored(&self, disk: &DiskName);
}

/// The options of a restore.
#[derive(Debug, Clone, Copy)]
pub struct DiskOptions {
    /// Threads; by default two for each processor.
    pub threads: Option<usize>,
    /// Whether existing files are replaced and devices in use are written.
    pub force: bool,
    /// Whether the target has most of the content already: it is compared with the leaves, and only what differs is written.
    pub changed_only: bool,
}

/// A restored disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredDisk {
    /// Name.
    pub disk: DiskName,
    /// Its location now.
    pub target: String,
    /// What was restored, in numbers.
    pub restored: Restored,
}

/// A restore of disks of one point.
pub struct PointRestore<'a> {
    repository: Arc<Repository>,
    pool: Arc<Pool>,
    options: DiskOptions,
    observer: &'a dyn Observer,
    vm: VmName,
    vm_id: VmId,
    entry: PointEntry,
    point: Point,
    /// Damage of the layers that did not affect the restored disks.
    faults: RefCell<Vec<String>>,
}

impl<'a> PointRestore<'a> {
    /// Looks up the point.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`; `Io`.
    pub fn new(
        repository: Arc<Repository>,
        pool: Arc<Pool>,
        selector: &Selector,
        options: DiskOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let (index, entry, point) = repository.find(selector)?;
        Ok(Self {
            repository,
            pool,
            options,
            observer,
            vm: index.name.clone(),
            vm_id: index.vm_id,
            entry,
            point,
            faults: RefCell::default(),
        })
    }

    /// The VM's name in its stored spelling.
    #[must_use]
    pub const fn vm(&self) -> &VmName {
        &self.vm
    }

    /// The point.
    #[must_use]
    pub const fn entry(&self) -> &PointEntry {
        &self.entry
    }

    /// Damage of the layers that did not affect the restored disks.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.faults.borrow().clone()
    }

    fn disk(
        &self,
        disk: &PointDisk,
        target: &dyn WriteAt,
        target_is_zero: bool,
    ) -> Result<Restored> {
        let proved = ProvedDisk::open(&self.repository, &self.pool, &self.vm, self.vm_id, disk)?;
        let monitor = self.observer.restores(&disk.name, proved.size_bytes());
        let threads = self.options.threads;
        let result = if self.options.changed_only {
            restore_changed(&proved, target, threads, &monitor)
        } else {
            let options = RestoreOptions {
                threads,
                target_is_zero,
            };
            restore(&proved, target, &options, &monitor)
        };
        self.observer.restored(&disk.name);
        let restored = result?;
        match proved.prove_metadata() {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let message = format!(
                    "disk {} is restored and every cluster of it verified, but: {}",
                    disk.name,
                    e.report()
                );
                self.faults.borrow_mut().push(message);
            }
            other => other?,
        }
        Ok(restored)
    }

    /// Restores into a new file below `dir`. The file gets its name only once it is complete.
    fn file(&self, disk: &PointDisk, dir: &Dir, name: &OsStr, is_qcow2: bool) -> Result<Restored> {
        let replace = self.replace();
        refuse_place(dir, name, replace)?;
        let making = Making::begin(dir, name)?;
        let file = making.file().try_clone().or_io("cannot keep the file")?;
        let target = FileDisk::new(file, making.path(), Access::ReadWrite)?;
        let restored = self.fill(disk, target, dir, is_qcow2)?;
        making.finish(replace)?;
        Ok(restored)
    }

    fn fill(
        &self,
        disk: &PointDisk,
        target: FileDisk,
        dir: &Dir,
        is_qcow2: bool,
    ) -> Result<Restored> {
        if is_qcow2 {
            let image = ImageTarget::create(target, dir.path(), disk.source_bytes)?;
            return self.disk(disk, &image, true);
        }
        target.set_size(disk.source_bytes)?;
        self.disk(disk, &target, true)
    }

    /// Checks every name that `--to` would take, before anything is read.
    fn refuse_places(&self, dir: &Dir) -> Result<()> {
        for disk in &self.point.disks {
            let name = format!("{}.raw", disk.name);
            refuse_place(dir, OsStr::new(&name), self.replace())?;
        }
        if self.point.attached.is_empty() {
            return Ok(());
        }
        match dir.stat("attached")? {
            Some(stat) if stat.kind == Kind::Directory => {}
            Some(_) => {
                return Err(Error::invalid("the target is no directory")
                    .at_path(dir.path().join("attached"))
                    .advise("take it away, or name another directory"));
            }
            None => return Ok(()),
        }
        for file in &self.point.attached {
            let place = Path::new("attached").join(&file.name);
            refuse_place(dir, place.as_os_str(), self.replace())?;
        }
        Ok(())
    }

    const fn replace(&self) -> Replace {
        if self.options.force {
            Replace::Yes
        } else {
            Replace::No
        }
    }

    /// Restores one disk.
    ///
    /// # Errors
    /// `NotFound` (the disk); `InvalidInput` for a target that is too small or lies in the
    /// repository; `AlreadyExists`; `Busy` for a target in use; as [`restore`].
    pub fn one(&self, name: &DiskName, target: &Target) -> Result<RestoredDisk> {
        let disk = self.point.disk(name).ok_or_else(|| {
            let disks = self.point.disks.iter();
            let have: Vec<&str> = disks.map(|d| d.name.as_str()).collect();
            Error::not_found(format!(
                "{}@{} has no disk {name}",
                self.vm, self.entry.name
            ))
            .advise(format!("it has: {}", have.join(", ")))
        })?;
        let restored = self.write(disk, target)?;
        let target = match target {
            Target::Nbd(uri) => uri.to_string(),
            Target::Device(path) | Target::File { path, .. } => path.display().to_string(),
        };
        Ok(RestoredDisk {
            disk: disk.name.clone(),
            target,
            restored,
        })
    }

    fn write(&self, disk: &PointDisk, target: &Target) -> Result<Restored> {
        match target {
            Target::Nbd(uri) => {
                let client = NbdClient::connect(uri)?;
                if client.size_bytes() < disk.source_bytes {
                    return Err(Error::invalid(format!(
                        "the target has {} bytes, the disk {}",
                        client.size_bytes(),
                        disk.source_bytes
                    )));
                }
                let restored = self.disk(disk, &client, false)?;
                client.disconnect()?;
                Ok(restored)
            }
            Target::Device(path) => self.to_device(disk, path),
            Target::File { path, is_qcow2 } => {
                let parent = path
                    .parent()
                    .filter(|p| !p.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                let file = path
                    .file_name()
                    .ok_or_else(|| Error::invalid("the target needs a file name").at_path(path))?;
                refuse_repository(&self.repository, parent)?;
                let dir = Dir::open(parent)?;
                if self.options.changed_only {
                    return self.to_present_file(disk, (&dir, file), *is_qcow2);
                }
                self.file(disk, &dir, file, *is_qcow2)
            }
        }
    }

    fn to_device(&self, disk: &PointDisk, path: &Path) -> Result<Restored> {
        if !self.options.force {
            device::refuse_used(path).map_err(|e| e.advise("free it first, or use --force"))?;
        }
        let target = FileDisk::open(path, Access::ReadWrite)?;
        if !self.options.force {
            refuse_used(path, target.file(), Used::Device)?;
        }
        if target.size_bytes() < disk.source_bytes {
            return Err(Error::invalid(format!(
                "the device has {} bytes, the disk {}",
                target.size_bytes(),
                disk.source_bytes
            ))
            .at_path(path));
        }
        self.disk(disk, &target, false)
    }

    /// Restores all disks and the attached files into a directory, which is created.
    ///
    /// # Errors
    /// `InvalidInput` for a directory in the repository; `AlreadyExists`, `Busy` for a name in it
    /// that is taken; as [`restore`].
    pub fn all(&self, to: &Path) -> Result<Vec<RestoredDisk>> {
        refuse_repository(&self.repository, to)?;
        std::fs::create_dir_all(to)
            .or_io("cannot make the target directory")
            .at_path(to)?;
        let dir = Dir::open(to)?;
        self.refuse_places(&dir)?;
        let mut done = Vec::new();
        for disk in &self.point.disks {
            let name = format!("{}.raw", disk.name);
            let restored = self.file(disk, &dir, OsStr::new(&name), false)?;
            done.push(RestoredDisk {
                disk: disk.name.clone(),
                target: to.join(name).display().to_string(),
                restored,
            });
        }
        let attached = &self.point.attached;
        if !attached.is_empty() {
            dir.make_dirs("attached", 0o700)?;
        }
        for file in attached {
            let bytes = self.repository.attached(&self.vm, &self.entry.name, file)?;
            let place = Path::new("attached").join(&file.name);
            refuse_place(&dir, place.as_os_str(), self.replace())?;
            durable::put(&dir, place, &bytes, 0o600, self.replace())?;
        }
        hole_note(&dir)?;
        Ok(done)
    }
}

/// Warns when the restored files cannot have holes there.
fn hole_note(dir: &Dir) -> Result<()> {
    let ability = crate::sys::probe::probe(dir)?;
    if !ability.punch {
        tracing::warn!(path = %dir.path().display(), "this filesystem has no holes: restored disks take their whole size");
    }
    Ok(())
}
