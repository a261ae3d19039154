//! What the daemon serves over NBD: `<vm>/<point>/<disk>` to read, `<vm>/<session>/<disk>` to write; over TCP
//! `<vm>/<session>~<token>/<disk>`.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::access::{Access, Right};
use super::survey::{DiskSurveyor, Shelf, Subject};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{ChainSource, Registry, Session};
use crate::nbd::server::{Caller, Content, Export, ExportInfo, Exports};
use crate::repo::selector::Which;
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::types::{DiskName, PointName, Token, VmName};

/// Description of a session's disk.
const SESSION: &str = "open session, writable";

/// Description of a point's disk.
fn describe(point: &PointEntry, disk: &DiskEntry) -> String {
    let kind = point.kind.as_str();
    format!("{kind} of {}, {} bytes", point.captured_at, disk.size_bytes)
}

/// The exports of a repository.
pub(super) struct RepositoryExports {
    sessions: Arc<Registry>,
    access: RwLock<Access>,
    shelf: Arc<Shelf>,
}

impl RepositoryExports {
    pub(super) fn new(sessions: Arc<Registry>, access: Access) -> Self {
        Self {
            sessions,
            access: RwLock::new(access),
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

impl RepositoryExports {
    fn may(&self, caller: &Caller, vm: &VmName, right: Right) -> bool {
        match caller {
            Caller::Local | Caller::Loopback => true,
            Caller::Certified(names) => self.access().allows(names, vm, right),
        }
    }

    fn access(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets who may use what, for what is opened from now on.
    pub(super) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    fn list_sessions(&self, all: &mut Vec<ExportInfo>) {
        for session in self.sessions.all() {
            for disk in session.disks() {
                let name = format!("{}/{}/{}", session.vm(), session.name(), disk.meta().name);
                all.push(ExportInfo {
                    name,
                    description: SESSION.to_owned(),
                });
            }
        }
    }

    /// An export as those on this machine know it.
    fn open_here(&self, (vm, point, disk): (&str, &str, &str)) -> Result<Export> {
        let (vm, disk) = (VmName::new(vm)?, DiskName::new(disk)?);
        if let Ok(session) = PointName::new(point)
            && let Some(session) = self.sessions.get(&vm, &session)
        {
            return self.open_session(session, disk);
        }
        self.open_point(vm, &point.parse()?, &disk)
    }

    /// An export as others know it: sessions by name and token, and nothing that the caller may not use.
    fn open_there(
        &self,
        (vm, point, disk): (&str, &str, &str),
        caller: &Caller,
    ) -> Result<Option<Export>> {
        let (Ok(vm), Ok(disk)) = (VmName::new(vm), DiskName::new(disk)) else {
            return Ok(None);
        };
        if let Some((session, token)) = point.split_once('~')
            && token.len() == Token::BYTES
        {
            if !self.may(caller, &vm, Right::Ingest) {
                return Ok(None);
            }
            let named = PointName::new(session).ok();
            let session = named.and_then(|name| self.sessions.get(&vm, &name));
            let known = session.filter(|session| {
                let own = session.sidecar().token;
                own.is_some_and(|own| own.matches(token))
            });
            return match known {
                Some(session) if session.disk(&disk).is_ok() => {
                    self.open_session(session, disk).map(Some)
                }
                _ => Ok(None),
            };
        }
        let Ok(point) = point.parse() else {
            return Ok(None);
        };
        if !self.may(caller, &vm, Right::Read) {
            return Ok(None);
        }
        match self.open_point(vm, &point, &disk) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Exports for RepositoryExports {
    fn list(&self, caller: &Caller, most: usize) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        // Over TCP who began a session knows its name; nobody else is to guess at it.
        if *caller == Caller::Local {
            self.list_sessions(&mut all);
        }
        for vm in self.sessions.engine().owner.vm_names() {
            if !self.may(caller, &vm, Right::Read) {
                continue;
            }
            if let Err(e) = self.points(&vm, most, &mut all) {
                tracing::warn!(vm = %vm, error = %e.report(), "the points of a VM cannot be listed");
            }
        }
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, caller: &Caller) -> Result<Export> {
        let mut parts = name.split('/');
        let named = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(vm), Some(point), Some(disk), None) => Some((vm, point, disk)),
            _ => None,
        };
        let found = match (named, caller) {
            (None, _) => None,
            (Some(named), Caller::Local) => Some(self.open_here(named)?),
            (Some(named), _) => self.open_there(named, caller)?,
        };
        found.ok_or_else(|| {
            Error::not_found(format!("there is no export \"{}\"", name.escape_debug()))
                .advise("exports are named VM/POINT/DISK")
        })
    }
}
