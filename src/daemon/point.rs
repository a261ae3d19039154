//! The committed points that a tree shows, as read-only NBD exports: `<vm>/<point>/<disk>`.
//!
//! # Why
//! A tree lists the points of the VMs that it shows (in a daemon by its own commits, in a follower
//! by following), and keeps their chains open. So files and exports are the same points, opened
//! once, within one budget, and none of this needs the lock.

use std::sync::Arc;

use super::disk_contexts::{DiskContexts, Subject};
use crate::error::{Error, Result};
use crate::nbd::server::{Caller, Content, Export, ExportInfo, Exports};
use crate::point::OpenLeaves;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::repo::sidecar::point::PointParent;
use crate::tree::{Tree, VmView};
use crate::types::{DiskName, VmName};

/// Description of a point's disk.
fn describe(point: &PointEntry, disk: &DiskEntry) -> String {
    let kind = point.kind.as_str();
    format!("{kind} of {}, {} bytes", point.captured_at, disk.size_bytes)
}

/// The parts of an export's name: VM, point or session, disk.
pub(super) fn parse(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(vm), Some(point), Some(disk), None) => Some((vm, point, disk)),
        _ => None,
    }
}

/// The error for a name that no export has.
pub(super) fn absent(name: &str) -> Error {
    Error::not_found(format!("there is no export \"{}\"", name.escape_debug()))
        .advise("exports are named VM/POINT/DISK")
}

/// Read-only NBD exports of the points that a tree shows.
pub(super) struct PointExports {
    tree: Arc<Tree>,
    leaves: Arc<OpenLeaves>,
}

impl PointExports {
    pub(super) fn new(tree: &Arc<Tree>) -> Self {
        Self {
            tree: Arc::clone(tree),
            leaves: Arc::default(),
        }
    }

    /// The meta contexts of a disk of that VM; `parent` is its predecessor.
    pub(super) fn contexts(
        &self,
        vm: VmName,
        key: &str,
        parent: Option<PointParent>,
        subject: Subject,
    ) -> Arc<DiskContexts> {
        Arc::new(DiskContexts {
            tree: Arc::clone(&self.tree),
            leaves: Arc::clone(&self.leaves),
            vm,
            key: key.to_owned(),
            parent,
            subject,
        })
    }

    /// Opens a disk of a point.
    ///
    /// # Errors
    /// `NotFound`; what opening the chain returns.
    pub(super) fn open_disk(&self, vm: &VmName, which: &Which, disk: &DiskName) -> Result<Export> {
        let open = self.tree.open_disk(vm, which, disk)?;
        let (vm, point) = (&open.point.vm, &open.point.entry);
        let sidecar = self.tree.repository().point(vm, point)?;
        let meta = sidecar
            .disk(&open.entry.name)
            .ok_or_else(|| Error::not_found(format!("{vm}@{} has no disk {disk}", point.name)))?;
        let subject = Subject::Point {
            disk: Arc::clone(&open.disk),
            slot: meta.layer.clone(),
            root: meta.content_root,
            seq: point.seq,
        };
        Ok(Export {
            contexts: Some(self.contexts(vm.clone(), &meta.key, point.parent.clone(), subject)),
            content: Content::Read(open.disk),
            description: describe(point, &open.entry),
        })
    }

    /// Adds the points of the VMs for which `may` holds to a list, until it has about `most`
    /// entries.
    pub(super) fn add_to(
        &self,
        all: &mut Vec<ExportInfo>,
        most: usize,
        may: impl Fn(&VmName) -> bool,
    ) {
        let snapshot = self.tree.snapshot();
        let mut vms: Vec<_> = snapshot.vms().filter(|vm| may(&vm.name)).collect();
        vms.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        vms.into_iter().for_each(|vm| add_vm(vm, most, all));
    }
}

fn add_vm(vm: &VmView, most: usize, all: &mut Vec<ExportInfo>) {
    let mut points: Vec<&PointEntry> = vm.points.iter().map(|point| &point.entry).collect();
    // The newest come first: where the list is cut, the oldest are missing.
    points.sort_by_key(|point| std::cmp::Reverse(point.seq));
    for (n, entry) in points.into_iter().enumerate() {
        if all.len() >= most {
            return;
        }
        for disk in &entry.disks {
            let named = |point: &str| ExportInfo {
                name: format!("{}/{point}/{}", vm.name, disk.name),
                description: describe(entry, disk),
            };
            if n == 0 {
                all.push(named("latest"));
            }
            all.push(named(entry.name.as_str()));
        }
    }
}

/// For a process that serves only points, on a Unix socket: every client that the socket admits may
/// read what the tree shows.
impl Exports for PointExports {
    fn list(&self, _caller: &Caller, most: usize) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        self.add_to(&mut all, most, |_| true);
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, _caller: &Caller) -> Result<Export> {
        let (vm, point, disk) = parse(name).ok_or_else(|| absent(name))?;
        self.open_disk(&VmName::new(vm)?, &point.parse()?, &DiskName::new(disk)?)
    }
}
