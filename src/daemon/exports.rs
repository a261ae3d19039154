//! The NBD exports of the daemon: `<vm>/<point>/<disk>` to read, `<vm>/<session>/<disk>` to write;
//! over TCP `<vm>/<session>~<token>/<disk>`.

use std::sync::Arc;

use super::disk_contexts::Subject;
use super::point::{PointExports, absent, parse};
use crate::access::{Access, Act, LiveAccess, Right};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{DiskWriter, Session};
use crate::nbd::server::{Caller, Content, Export, ExportInfo, Exports, Opening, Redacted};
use crate::service::OwnedRepository;
use crate::types::sync::RwLock;
use crate::types::{DiskName, PointName, Token, VmName};

/// Description of a session's disk.
const SESSION: &str = "open session, writable";

/// The exports of a repository.
pub(super) struct RepositoryExports {
    served: Arc<OwnedRepository>,
    points: PointExports,
    /// The table for certificates alone (`nbd.access`), where one is configured.
    certificates: RwLock<Option<Arc<LiveAccess>>>,
}

impl RepositoryExports {
    pub(super) fn new(
        served: Arc<OwnedRepository>,
        points: PointExports,
        certificates: Option<Arc<LiveAccess>>,
    ) -> Self {
        Self {
            served,
            points,
            certificates: RwLock::new(certificates),
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
        caller.may(right, Some(vm), &self.access(caller))
    }

    /// The table that decides for a caller, as its file has it now.
    fn access(&self, caller: &Caller) -> Arc<Access> {
        if !caller.needs_table() {
            return Arc::default();
        }
        let own = match caller {
            Caller::Certified(_) => self.certificates.read().clone(),
            _ => None,
        };
        own.as_ref().unwrap_or(self.served.access()).fresh()
    }

    /// Sets the table for certificates, for exports that are opened from now on.
    pub(super) fn set_certificates(&self, access: Option<Arc<LiveAccess>>) {
        *self.certificates.write() = access;
    }

    fn list_sessions(&self, all: &mut Vec<ExportInfo>, may: impl Fn(&VmName) -> bool) {
        let sessions = self.served.sessions().all();
        for session in sessions.iter().filter(|session| may(&session.vm())) {
            for disk in session.disks() {
                let name = format!("{}/{}/{}", session.vm(), session.name(), disk.meta().name);
                all.push(ExportInfo {
                    name,
                    description: SESSION.to_owned(),
                });
            }
        }
    }

    /// Opens an export for a client on this machine; `None` for one that it may not use.
    fn open_here(
        &self,
        (vm, point, disk): (&str, &str, &str),
        caller: &Caller,
    ) -> Result<Option<Export>> {
        let (vm, disk) = (VmName::new(vm)?, DiskName::new(disk)?);
        let access = self.access(caller);
        let may = |right| caller.may(right, Some(&vm), &access);
        if let Ok(session) = PointName::new(point)
            && let Some(session) = self.served.sessions().get(&vm, &session)
        {
            if !may(Right::Ingest) {
                return Ok(None);
            }
            let disk = session.disk(&disk)?;
            return Ok(Some(self.open_session(session, disk)));
        }
        match may(Right::Read) {
            true => self.points.open_disk(&vm, &point.parse()?, &disk).map(Some),
            false => Ok(None),
        }
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
            let session = named.and_then(|name| self.served.sessions().get(&vm, &name));
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
        let access = self.access(caller);
        if matches!(caller, Caller::User { .. }) {
            self.list_sessions(&mut all, |vm| caller.may(Right::Ingest, Some(vm), &access));
        }
        self.points.add_to(&mut all, most, |vm| {
            caller.may(Right::Read, Some(vm), &access)
        });
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, caller: &Caller) -> Result<Export> {
        let named = parse(name).ok_or_else(|| absent(name))?;
        let opened = match caller {
            Caller::User { .. } => self.open_here(named, caller)?,
            _ => self.open_there(named, caller)?,
        };
        opened.ok_or_else(|| absent(name))
    }

    fn note(&self, opening: &Opening<'_>) {
        let shown = Redacted(opening.name).to_string();
        let (vm, subject) = match shown.split_once('/') {
            Some((vm, rest)) => (Some(vm), rest),
            None => (None, shown.as_str()),
        };
        let operation = match opening.is_write {
            Some(true) => "write-disk",
            Some(false) => "read-disk",
            None => "open-disk",
        };
        // A message repeats the name that the client gave, and with it the token.
        let error = opening.error.filter(|_| shown != opening.name);
        let plain = error.map(|e| Error::new(e.kind(), "there is no such export"));
        self.served.audit().note(&Act {
            at: self.served.sessions().engine().owner.clock().now(),
            origin: opening.origin,
            caller: opening.caller,
            operation,
            repository: Some(self.served.name()),
            vm,
            subject: Some(subject),
            error: plain.as_ref().or(opening.error),
        });
    }
}
