//! The process of a map: opens the disks, mounts them, has the devices attached, and serves them
//! until they are detached. The process itself never accesses a device: `device_helper` explains
//! why.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rustix::io::Errno;

use super::device_helper;
use super::order::Order;
use super::place::{MapDir, MapId, file_name};
use super::record::{DISKS_MAX, NewRecord, Record};
use super::release::{abandon, release_own};
use crate::block::{FileDisk, Overlay, ReadAt};
use crate::chain::{Disk, LayerHold};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::fuse::disk::{Content, DiskMount, mount};
use crate::guest::partition;
use crate::point::FlatDisks;
use crate::repo::selector::Selector;
use crate::sys::beneath::Access;
use crate::sys::direct;
use crate::sys::loop_device::{self, SECTOR_BYTES};
use crate::sys::scratch;
use crate::tree::{PointDiskView, PointView, Tree};
use crate::types::DiskName;

/// The interval at which the process polls for a signal.
const PAUSE: Duration = Duration::from_millis(50);

/// A disk whose layers stay open.
struct HeldDisk {
    name: DiskName,
    disk: Arc<Disk>,
    /// The disk's flat disk.
    flat: Option<Arc<File>>,
    _layers: LayerHold,
}

impl HeldDisk {
    /// Opens the flat disk; makes it where there is none.
    fn flatten(&mut self, flats: &FlatDisks, point: &PointView) -> Result<()> {
        let found = point.entry.disks.iter().find(|disk| disk.name == self.name);
        let slot = found
            .map(|disk| &disk.layer)
            .ok_or_else(|| Error::not_found("the index does not know the disk"))?;
        let file = flats.open_or_make(point.vm_id, slot, &self.disk)?;
        // The driver reads its file by direct I/O.
        if !direct::takes_units(&file, sector(self))? {
            return Err(Error::unsupported(
                "the repository's filesystem takes no direct reads in sectors of this disk",
            ));
        }
        self.flat = Some(Arc::new(file));
        Ok(())
    }
}

/// Cleans up when the process fails before the map is unmapped.
struct Cleaner<'a> {
    dir: &'a MapDir,
    id: &'a MapId,
    is_done: bool,
}

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            abandon(self.dir, self.id);
        }
    }
}

/// Maps the disks, and calls `ready` with the file that takes the log. Returns when the map was
/// unmapped, or when `stop` was set while the devices were unused.
///
/// # Errors
/// `NotFound`; `InvalidInput` for a disk that cannot become a device; what opening the chains,
/// mounting and attaching return.
pub fn run(
    tree: &Tree,
    order: &Order,
    stop: &AtomicBool,
    ready: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    // Called before threads exist: they inherit the flag.
    if !loop_device::become_io_flusher() {
        tracing::debug!(
            "this process cannot be marked as needed to free memory (PR_SET_IO_FLUSHER)"
        );
    }
    let (point, mut disks) = open(tree, order)?;
    let flats = FlatDisks::new(tree.repository());
    let mut reason = None;
    if order.scratch.is_none() {
        for held in &mut disks {
            if let Err(error) = held.flatten(&flats, &point) {
                tracing::warn!(disk = %held.name, error = %error.report(), "the disk is read without passthrough");
                reason.get_or_insert_with(|| error.report());
            }
        }
    }
    let contents = disks
        .iter()
        .map(|held| Ok((file_name(&held.name), content(held, order)?)))
        .collect::<Result<Vec<_>>>()?;
    let dir = MapDir::make()?;
    let own = dir.create(&order.id)?;
    let mut cleaner = Cleaner {
        dir: &dir,
        id: &order.id,
        is_done: false,
    };
    let mounted = mount(contents, &dir.mountpoint(&order.id))?;
    let sizes = disks
        .iter()
        .map(|held| (held.name.clone(), held.disk.size_bytes(), sector(held)));
    let attached = device_helper::attach(order, sizes.collect())?;
    let is_passthrough = mounted.is_passthrough();
    let reason = reason.or_else(|| mounted.refusal());
    let root = tree.repository().store().local_root();
    let record = Record::new(NewRecord {
        repository: root.map_or_else(String::new, |root| root.display().to_string()),
        repository_id: tree.repository().format().repository_id,
        vm: point.vm.clone(),
        point: point.entry.name.clone(),
        asked: order.selector.to_string(),
        scratch: order.scratch.clone(),
        partitions: order.partitions,
        is_passthrough,
        path_reason: reason.filter(|_| !is_passthrough),
        disks: attached,
    });
    {
        let _lock = dir.lock()?;
        dir.put_record(&order.id, &record)?;
    }
    ready(&own.log)?;
    let ended = serve(&dir, order, mounted, stop);
    if let Err(error) = &ended {
        tracing::error!(error = %error.report(), "the map has failed");
    }
    // Something may be left when the mount was removed by force; the directory is left in any case.
    cleaner.is_done = true;
    release_own(&dir, &order.id)?;
    dir.remove(&order.id)?;
    drop(own);
    ended
}

/// Opens the disks of the point with all of their layers, so that a later forget or merge does not
/// affect them.
fn open(tree: &Tree, order: &Order) -> Result<(Arc<PointView>, Vec<HeldDisk>)> {
    let Selector { vm, which } = &order.selector;
    let point = tree.point(vm, which)?;
    let names: Vec<DiskName> = match &order.disk {
        Some(disk) => vec![disk.clone()],
        None => tree.disk_names(&point),
    };
    if names.is_empty() || names.len() > DISKS_MAX {
        return Err(Error::invalid(format!(
            "{vm}@{} has {} disks; 1 to {DISKS_MAX} can be mapped at once",
            point.entry.name,
            names.len()
        )));
    }
    // The point is opened by its name: `latest` may move meanwhile.
    let exact = crate::repo::selector::Which::Named(point.entry.name.clone());
    let disks = names
        .iter()
        .map(|name| hold(tree.open_disk(&point.vm, &exact, name)?))
        .collect::<Result<Vec<_>>>()
        .map_err(name_limit)?;
    Ok((point, disks))
}

/// Adds advice for a limit of open files that is smaller than the number of a chain's layers.
fn name_limit(error: Error) -> Error {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let number = cause.downcast_ref().and_then(std::io::Error::raw_os_error);
        if number == Some(Errno::MFILE.raw_os_error()) {
            return error
                .advise("each layer is held open: raise the limit of open files (ulimit -n)");
        }
        source = cause.source();
    }
    error
}

fn hold(open: PointDiskView) -> Result<HeldDisk> {
    let name = open.entry.name.clone();
    let place = || format!("{}@{}/{name}", open.point.vm, open.point.entry.name);
    let size_bytes = open.disk.size_bytes();
    if size_bytes == 0 {
        return Err(
            Error::invalid("the disk has 0 bytes: no device can be made of it")
                .at_path(place())
                .advise("map the other disks one by one: VM@POINT/DISK"),
        );
    }
    if !size_bytes.is_multiple_of(SECTOR_BYTES.into()) {
        return Err(Error::corrupt(
            "the disk has no whole number of sectors",
            "a multiple of 512 bytes",
            size_bytes,
        )
        .at_path(place()));
    }
    let layers = open.disk.hold().at_path(place())?;
    Ok(HeldDisk {
        name,
        disk: open.disk,
        flat: None,
        _layers: layers,
    })
}

/// The sector size in bytes that the disk's partition table uses, so that the kernel reads the
/// table as the guest did. A disk without a table has 512.
fn sector(held: &HeldDisk) -> u32 {
    let disk: Arc<dyn ReadAt> = Arc::<Disk>::clone(&held.disk);
    let found = match partition::scan(&disk, 0) {
        Ok(table) => u32::try_from(table.sector_bytes).unwrap_or(SECTOR_BYTES),
        Err(error) => {
            tracing::debug!(error = %error.report(), "the sector size cannot be read from the partition table");
            SECTOR_BYTES
        }
    };
    if held.disk.size_bytes().is_multiple_of(found.into()) {
        found
    } else {
        SECTOR_BYTES
    }
}

fn content(held: &HeldDisk, order: &Order) -> Result<Content> {
    let disk: Arc<dyn ReadAt> = Arc::<Disk>::clone(&held.disk);
    let Some(dir) = &order.scratch else {
        return Ok(Content::Fixed(disk, held.flat.clone()));
    };
    let file = scratch::file(dir)
        .map_err(|e| e.advise("name a directory for the written data: --scratch=DIR"))?;
    let copy = file
        .try_clone()
        .or_io("cannot use the scratch file")
        .at_path(dir)?;
    let space = FileDisk::new(file, dir.join("(scratch)"), Access::ReadWrite)?;
    let overlay = Overlay::new(disk, Arc::new(space))?;
    Ok(Content::Scratch(Arc::new(overlay), Arc::new(copy)))
}

/// Serves until the mount is gone.
fn serve(dir: &MapDir, order: &Order, mounted: DiskMount, stop: &AtomicBool) -> Result<()> {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("map-wait".to_owned())
        .spawn(move || ended.send(mounted.wait()))
        .or_io("no thread for the mount")?;
    loop {
        match end.recv_timeout(PAUSE) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(ErrorKind::Io, "the mount has failed"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stop.swap(false, Ordering::SeqCst)
            && let Err(error) = release_own(dir, &order.id)
        {
            tracing::warn!(error = %error.report(), "a signal asked the process to end, but the map is in use; it stays");
        }
    }
}
