//! What the daemon serves over NBD: `<vm>/<point>/<disk>` to read, `<vm>/<session>/<disk>` to write.

use std::sync::Arc;

use super::survey::{DiskSurveyor, Shelf, Subject};
use crate::error::{Error, Result};
use crate::ingest::{ChainSource, Registry, Session};
use crate::nbd::server::{Export, ExportInfo, Exports};
use crate::repo::selector::Which;
use crate::types::{DiskName, PointName, VmName};

/// The exports of a repository.
pub(super) struct RepositoryExports {
    sessions: Arc<Registry>,
    shelf: Arc<Shelf>,
}

impl RepositoryExports {
    pub(super) fn new(sessions: Arc<Registry>) -> Self {
        Self {
            sessions,
            shelf: Arc::default(),
        }
    }

    fn open_session(&self, session: Arc<Session>, disk: DiskName) -> Result<Export> {
        let (sidecar, writer) = (session.sidecar(), session.disk(&disk)?);
        let surveyor = DiskSurveyor {
            owner: Arc::clone(&self.sessions.engine().owner),
            shelf: Arc::clone(&self.shelf),
            vm: sidecar.vm,
            key: writer.meta().key.clone(),
            parent: sidecar.parent,
            subject: Subject::Session(writer),
        };
        Ok(Export::Write {
            session,
            disk,
            surveyor: Some(Arc::new(surveyor)),
        })
    }

    fn open_point(&self, vm: VmName, point: &Which, disk: &DiskName) -> Result<Export> {
        let engine = self.sessions.engine();
        let entry = engine.owner.vm_snapshot(&vm)?;
        let found = point.find(&entry.index)?;
        let sidecar = engine.owner.repository().point(&vm, found)?;
        let meta = sidecar
            .disk(disk)
            .ok_or_else(|| Error::not_found(format!("{vm}@{} has no disk {disk}", found.name)))?;
        let source = ChainSource::new(engine.owner.repository(), &vm, entry.vm.vm_id, true);
        let disk = Arc::new(source.open_disk(&engine.pool, &meta.layer)?);
        let surveyor = DiskSurveyor {
            owner: Arc::clone(&engine.owner),
            shelf: Arc::clone(&self.shelf),
            vm,
            key: meta.key.clone(),
            parent: found.parent.clone(),
            subject: Subject::Point {
                disk: Arc::clone(&disk),
                slot: meta.layer.clone(),
                root: meta.content_root,
            },
        };
        Ok(Export::Read {
            disk,
            surveyor: Some(Arc::new(surveyor)),
        })
    }

    fn points(&self, vm: &VmName, all: &mut Vec<ExportInfo>) -> Result<()> {
        let entry = self.sessions.engine().owner.vm_snapshot(vm)?;
        let latest = entry.index.latest().map(|point| point.seq);
        for point in &entry.index.points {
            for disk in &point.disks {
                let description = format!(
                    "{} of {}, {} bytes",
                    point.kind.as_str(),
                    point.captured_at,
                    disk.size_bytes
                );
                if Some(point.seq) == latest {
                    all.push(ExportInfo {
                        name: format!("{vm}/latest/{}", disk.name),
                        description: description.clone(),
                    });
                }
                all.push(ExportInfo {
                    name: format!("{vm}/{}/{}", point.name, disk.name),
                    description,
                });
            }
        }
        Ok(())
    }
}

impl Exports for RepositoryExports {
    fn list(&self) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        for session in self.sessions.all() {
            for disk in session.disks() {
                let name = format!("{}/{}/{}", session.vm(), session.name(), disk.meta().name);
                all.push(ExportInfo {
                    name,
                    description: "open session, writable".to_owned(),
                });
            }
        }
        for vm in self.sessions.engine().owner.vm_names() {
            if let Err(e) = self.points(&vm, &mut all) {
                tracing::warn!(vm = %vm, error = %e.report(), "the points of a VM cannot be listed");
            }
        }
        all
    }

    fn open(&self, name: &str) -> Result<Export> {
        let mut parts = name.split('/');
        let (Some(vm), Some(point), Some(disk), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::not_found(format!(
                "there is no export \"{}\"",
                name.escape_debug()
            ))
            .advise("exports are named VM/POINT/DISK"));
        };
        let (vm, disk) = (VmName::new(vm)?, DiskName::new(disk)?);
        if let Ok(session) = PointName::new(point)
            && let Some(session) = self.sessions.get(&vm, &session)
        {
            return self.open_session(session, disk);
        }
        self.open_point(vm, &point.parse()?, &disk)
    }
}
