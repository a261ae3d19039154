//! What the daemon serves over NBD: `<vm>/<point>/<disk>` to read, `<vm>/<session>/<disk>` to write.

use std::sync::Arc;

use super::sessions::Sessions;
use super::survey::{DiskSurveyor, Shelf, Subject};
use crate::error::{Error, Result};
use crate::ingest::{ChainSource, Session};
use crate::nbd::server::{Content, Export, ExportInfo, Exports};
use crate::repo::selector::Which;
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::types::{DiskName, PointName, VmName};

/// Description of a session's disk.
const SESSION: &str = "open session, writable";

/// Description of a point's disk.
fn describe(point: &PointEntry, disk: &DiskEntry) -> String {
    let kind = point.kind.as_str();
    format!("{kind} of {}, {} bytes", point.captured_at, disk.size_bytes)
}

/// The exports of a repository.
pub(super) struct RepositoryExports {
    sessions: Arc<Sessions>,
    shelf: Arc<Shelf>,
}

impl RepositoryExports {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
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
        Ok(Export {
            content: Content::Write { session, disk },
            description: SESSION.to_owned(),
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
        let entry = found.disks.iter().find(|entry| entry.name == meta.name);
        Ok(Export {
            content: Content::Read(disk),
            description: entry.map_or_else(String::new, |entry| describe(found, entry)),
            surveyor: Some(Arc::new(surveyor)),
        })
    }

    fn points(&self, vm: &VmName, most: usize, all: &mut Vec<ExportInfo>) -> Result<()> {
        let entry = self.sessions.engine().owner.vm_snapshot(vm)?;
        let latest = entry.index.latest().map(|point| point.seq);
        // The newest first: where the list is cut, the oldest are missing.
        for point in entry.index.points.iter().rev() {
            if all.len() >= most {
                break;
            }
            for disk in &point.disks {
                let description = describe(point, disk);
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
    fn list(&self, most: usize) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        for session in self.sessions.all() {
            for disk in session.disks() {
                let name = format!("{}/{}/{}", session.vm(), session.name(), disk.meta().name);
                all.push(ExportInfo {
                    name,
                    description: SESSION.to_owned(),
                });
            }
        }
        for vm in self.sessions.engine().owner.vm_names() {
            if let Err(e) = self.points(&vm, most, &mut all) {
                tracing::warn!(vm = %vm, error = %e.report(), "the points of a VM cannot be listed");
            }
        }
        all.truncate(most);
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
