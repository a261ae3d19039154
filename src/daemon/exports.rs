//! The NBD exports of the daemon: `<vm>/<point>/<disk>` to read, `<vm>/<session>/<disk>` to write;
//! over TCP `<vm>/<session>~<token>/<disk>`.

use std::sync::{Arc, RwLockReadGuard};

use super::disk_contexts::Subject;
use super::point::{PointExports, absent, parse};
use crate::access::{Access, Right};
use crate::error::{ErrorKind, Result};
use crate::ingest::{DiskWriter, Registry, Session};
use crate::nbd::server::{Caller, Content, Export, ExportInfo, Exports};
use crate::types::sync::RwLock;
use crate::types::{DiskName, PointName, Token, VmName};

/// Description of a session's disk.
const SESSION: &str = "open session, writable";

/// The exports of a repository.
pub(super) struct RepositoryExports {
    sessions: Arc<Registry>,
    points: PointExports,
    access: RwLock<Access>,
}

impl RepositoryExports {
    pub(super) fn new(sessions: Arc<Registry>, points: PointExports, access: Access) -> Self {
        Self {
            sessions,
            points,
            access: RwLock::new(access),
        }
    }

    fn open_session(&self, session: Arc<Session>, disk: Arc<DiskWriter>) -> Export {
        let sidecar = session.sidecar();
        let key = disk.meta().key.clone();
        let subject = Subject::Session(Arc::clone(&disk));
        let contexts = self
            .points
            .contexts(sidecar.vm, &key, sidecar.parent, subject);
        Export {
            content: Content::Write { session, disk },
            description: SESSION.to_owned(),
            contexts: Some(contexts),
        }
    }

    fn may(&self, caller: &Caller, vm: &VmName, right: Right) -> bool {
        caller.may(right, Some(vm), &self.access())
    }

    fn access(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read()
    }

    /// Sets the access rules for exports that are opened from now on.
    pub(super) fn set_access(&self, access: Access) {
        *self.access.write() = access;
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

    /// Opens an export for a client on this machine.
    fn open_here(&self, (vm, point, disk): (&str, &str, &str)) -> Result<Export> {
        let (vm, disk) = (VmName::new(vm)?, DiskName::new(disk)?);
        if let Ok(session) = PointName::new(point)
            && let Some(session) = self.sessions.get(&vm, &session)
        {
            let disk = session.disk(&disk)?;
            return Ok(self.open_session(session, disk));
        }
        self.points.open_disk(&vm, &point.parse()?, &disk)
    }

    /// Opens an export for a remote client: sessions by name and token, and only what the caller
    /// may use.
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
            let known = known.and_then(|session| {
                let disk = session.disk(&disk).ok()?;
                Some(self.open_session(session, disk))
            });
            return Ok(known);
        }
        let Ok(point) = point.parse() else {
            return Ok(None);
        };
        if !self.may(caller, &vm, Right::Read) {
            return Ok(None);
        }
        match self.points.open_disk(&vm, &point, &disk) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Exports for RepositoryExports {
    fn list(&self, caller: &Caller, most: usize) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        // Over TCP only the client that began a session may know its name.
        if matches!(caller, Caller::User { .. }) {
            self.list_sessions(&mut all);
        }
        self.points
            .add_to(&mut all, most, |vm| self.may(caller, vm, Right::Read));
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, caller: &Caller) -> Result<Export> {
        let named = parse(name).ok_or_else(|| absent(name))?;
        match caller {
            Caller::User { .. } => self.open_here(named),
            _ => self.open_there(named, caller)?.ok_or_else(|| absent(name)),
        }
    }
}
