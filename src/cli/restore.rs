//! `restorefs restore`: a disk, all disks, or files of a guest.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::Restore;
use super::context::{Context, find};
use super::making::{Making, refuse_repository};
use super::progress::Progress;
use super::target::Target;
use crate::block::{FileDisk, ReadAt, WriteAt};
use crate::capture::watch::Watch;
use crate::chain::Pool;
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::restore::image::ImageTarget;
use crate::jobs::restore::target::{Target as Place, refusal};
use crate::jobs::restore::{RestoreOptions, Restored, restore as restore_disk};
use crate::nbd::client::Client as NbdClient;
use crate::point::ProvedDisk;
use crate::repo::Repository;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::{Point, PointDisk};
use crate::sys::beneath::{Access, Dir, Kind};
use crate::sys::device;
use crate::sys::durable::{self, Replace};
use crate::types::size::Human;
use crate::types::{DiskName, VmId, VmName};

pub(super) fn run(context: &Context, args: &Restore) -> Result<()> {
    match (
        Target::parse(&args.from)?,
        &args.disk,
        &args.target,
        &args.to,
    ) {
        (Target::Path(selector, path), None, None, Some(to)) => {
            match super::archive::format(to, args.format)? {
                Some(format) => super::archive::run(context, &selector, &path, (to, format), args),
                None => super::extract::run(context, &selector, &path, to, args),
            }
        }
        (Target::Point(_), ..) if args.format.is_some() => {
            Err(Error::invalid("--format is for files of a guest")
                .advise("name them: VM@POINT:/PATH"))
        }
        (Target::Path(..), ..) => Err(Error::invalid("files are restored into a directory")
            .advise("add --to DIR, or --to - --format tar")),
        (Target::Point(selector), Some(disk), Some(target), None) => {
            one(context, args, &selector, disk, target)
        }
        (Target::Point(selector), None, None, Some(dir)) => all(context, args, &selector, dir),
        (Target::Point(_), ..) => Err(Error::invalid("a target is missing")
            .advise("write VM@POINT DISK TARGET, or VM@POINT --to DIR")),
        (Target::Vm(vm), ..) => Err(Error::invalid(format!(
            "{vm} names a VM, and no restore point"
        ))
        .advise(format!(
            "name one: {vm}@latest (list them: restorefs ls {vm})"
        ))),
    }
}

/// What is the same for all disks of one command.
struct Restoration<'a> {
    context: &'a Context,
    args: &'a Restore,
    repository: Arc<Repository>,
    pool: Arc<Pool>,
    stop: Arc<AtomicBool>,
    progress: Progress,
    vm: VmName,
    vm_id: VmId,
    entry: PointEntry,
    point: Point,
    /// What of the layers is damaged, while the disks that were restored are right.
    faults: RefCell<Vec<String>>,
}

impl<'a> Restoration<'a> {
    fn open(context: &'a Context, args: &'a Restore, selector: &Selector) -> Result<Self> {
        let repository = context.repository()?;
        let (index, entry, point) = find(&repository, selector)?;
        Ok(Self {
            context,
            args,
            repository,
            pool: context.pool(),
            stop: interrupt::flag()?,
            progress: Progress::new(context.output),
            vm: index.name.clone(),
            vm_id: index.vm_id,
            entry,
            point,
            faults: RefCell::default(),
        })
    }

    fn disk(
        &self,
        disk: &PointDisk,
        target: &dyn WriteAt,
        target_is_zero: bool,
    ) -> Result<Restored> {
        let proved = ProvedDisk::open(&self.repository, &self.pool, &self.vm, self.vm_id, disk)?;
        let bar = self.progress.bar(disk.name.as_str(), proved.size_bytes());
        let options = RestoreOptions {
            threads: self.args.threads,
            target_is_zero,
        };
        let result = restore_disk(&proved, target, &options, &bar.monitor(&self.stop));
        bar.finish();
        let restored = result?;
        match proved.prove_metadata() {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let said = format!(
                    "disk {} is restored and every cluster of it verified, but: {}",
                    disk.name,
                    e.report()
                );
                self.faults.borrow_mut().push(said);
            }
            other => other?,
        }
        Ok(restored)
    }

    /// Restores into a new file below `dir`: it gets its name only once it is whole.
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

    /// Looks at every name that `--to` would take, before anything is read.
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
        if self.args.force {
            Replace::Yes
        } else {
            Replace::No
        }
    }

    fn report(&self, done: &[(DiskName, String, Restored)]) -> Result<()> {
        if self.context.output.json {
            let disks: Vec<_> = done
                .iter()
                .map(|(disk, target, r)| {
                    serde_json::json!({"disk": disk, "target": target, "size_bytes": r.size_bytes, "written_bytes": r.written_bytes})
                })
                .collect();
            self.context.output.json(
                &serde_json::json!({"vm": self.vm, "point": self.entry.name, "disks": disks}),
            )?;
            return super::damage::end(&self.faults.borrow());
        }
        for (disk, target, restored) in done {
            self.context.output.outcome(format!(
                "{}@{} {disk} -> {target}: {} ({} written), every cluster verified",
                self.vm,
                self.entry.name,
                Human(restored.size_bytes),
                Human(restored.written_bytes)
            ))?;
        }
        super::damage::end(&self.faults.borrow())
    }
}

fn one(
    context: &Context,
    args: &Restore,
    selector: &Selector,
    disk: &str,
    target: &OsStr,
) -> Result<()> {
    let place = Place::parse(target, args.force)?;
    let restoration = Restoration::open(context, args, selector)?;
    let name = DiskName::new(disk)?;
    let disk = restoration.point.disk(&name).ok_or_else(|| {
        let have: Vec<&str> = restoration
            .point
            .disks
            .iter()
            .map(|d| d.name.as_str())
            .collect();
        Error::not_found(format!(
            "{}@{} has no disk {name}",
            restoration.vm, restoration.entry.name
        ))
        .advise(format!("it has: {}", have.join(", ")))
    })?;
    let restored = match place {
        Place::Nbd(uri) => {
            let client = NbdClient::connect(&uri)?;
            if client.size_bytes() < disk.source_bytes {
                return Err(Error::invalid(format!(
                    "the target has {} bytes, the disk {}",
                    client.size_bytes(),
                    disk.source_bytes
                )));
            }
            let restored = restoration.disk(disk, &client, false)?;
            client.disconnect()?;
            restored
        }
        Place::Device(path) => device_target(&restoration, disk, &path)?,
        Place::File { path, is_qcow2 } => {
            let parent = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let file = path
                .file_name()
                .ok_or_else(|| Error::invalid("the target needs a file name").at_path(&path))?;
            refuse_repository(context, parent)?;
            restoration.file(disk, &Dir::open(parent)?, file, is_qcow2)?
        }
    };
    let shown = target.to_string_lossy().into_owned();
    restoration.report(&[(disk.name.clone(), shown, restored)])
}

fn device_target(restoration: &Restoration<'_>, disk: &PointDisk, path: &Path) -> Result<Restored> {
    if !restoration.args.force {
        device::refuse_used(path).map_err(|e| e.advise("free it first, or use --force"))?;
    }
    let target = FileDisk::open(path, Access::ReadWrite)?;
    if !restoration.args.force {
        // What the kernel does not tell: a machine that runs has it open, or a loop device over it is mounted.
        let mut watch = Watch::default();
        let file = target.file().try_clone().or_io("cannot keep the device")?;
        watch.add(path, Arc::new(file))?;
        if let Some(found) = watch.look()? {
            let said = format!("the device is in use: {}", found.words);
            return Err(Error::new(ErrorKind::Busy, said)
                .at_path(path)
                .advise("free it first, or use --force"));
        }
    }
    if target.size_bytes() < disk.source_bytes {
        return Err(Error::invalid(format!(
            "the device has {} bytes, the disk {}",
            target.size_bytes(),
            disk.source_bytes
        ))
        .at_path(path));
    }
    restoration.disk(disk, &target, false)
}

fn all(context: &Context, args: &Restore, selector: &Selector, to: &Path) -> Result<()> {
    let restoration = Restoration::open(context, args, selector)?;
    refuse_repository(context, to)?;
    std::fs::create_dir_all(to)
        .or_io("cannot make the target directory")
        .at_path(to)?;
    let dir = Dir::open(to)?;
    restoration.refuse_places(&dir)?;
    let mut done = Vec::new();
    for disk in &restoration.point.disks {
        let name = format!("{}.raw", disk.name);
        let restored = restoration.file(disk, &dir, OsStr::new(&name), false)?;
        done.push((
            disk.name.clone(),
            to.join(name).display().to_string(),
            restored,
        ));
    }
    let attached = &restoration.point.attached;
    if !attached.is_empty() {
        dir.make_dirs("attached", 0o700)?;
    }
    for file in attached {
        let (vm, name) = (&restoration.vm, &restoration.entry.name);
        let bytes = restoration.repository.attached(vm, name, file)?;
        let place = Path::new("attached").join(&file.name);
        refuse_place(&dir, place.as_os_str(), restoration.replace())?;
        durable::put(&dir, place, &bytes, 0o600, restoration.replace())?;
    }
    hole_note(&dir)?;
    restoration.report(&done)
}

/// Refuses a name that is taken; with --force only regular files are replaced.
pub(super) fn refuse_place(dir: &Dir, name: &OsStr, replace: Replace) -> Result<()> {
    let Some(stat) = dir.stat(name)? else {
        return Ok(());
    };
    let path = dir.path().join(name);
    if stat.kind != Kind::File {
        let kind = std::fs::symlink_metadata(&path)
            .or_io("cannot look at the target")
            .at_path(&path)?
            .file_type();
        return Err(refusal(kind).at_path(path));
    }
    match replace {
        Replace::Yes => refuse_written(dir, name),
        Replace::No => Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
            .at_path(path)
            .advise("name another, or use --force")),
    }
}

/// Refuses to replace a file that somebody writes: a machine would go on with the file that has lost its name, and what it writes would be
/// gone when it ends.
fn refuse_written(dir: &Dir, name: &OsStr) -> Result<()> {
    // A file that cannot be opened cannot be looked at: whether it may be replaced is a right of its directory.
    let Ok(file) = dir.open_file(name, Access::Read) else {
        return Ok(());
    };
    let path = dir.path().join(name);
    let mut watch = Watch::default();
    watch.add(&path, Arc::new(file))?;
    match watch.look()? {
        None => Ok(()),
        Some(found) => {
            let said = format!("the target is in use: {}", found.words);
            Err(Error::new(ErrorKind::Busy, said)
                .at_path(path)
                .advise("stop what writes it, or name another file"))
        }
    }
}

/// Says aloud when the restored files cannot have holes there.
fn hole_note(dir: &Dir) -> Result<()> {
    let ability = crate::sys::probe::probe(dir)?;
    if !ability.punch {
        tracing::warn!(path = %dir.path().display(), "this filesystem has no holes: restored disks take their whole size");
    }
    Ok(())
}
