//! The open sessions for a mounted tree: the same operations, with the mount's rights.

use std::sync::Arc;

use jiff::Timestamp;

use super::{LocalService, Service};
use crate::error::Result;
use crate::ingest::{BeginRequest, CommitRequest, Session, SessionState};
use crate::tree::Sessions;
use crate::types::{PointName, VmName};

impl Sessions for LocalService {
    fn all(&self) -> Vec<Arc<Session>> {
        self.registry().all()
    }

    fn of_vm(&self, vm: &VmName) -> Vec<Arc<Session>> {
        self.registry().of_vm(vm)
    }

    fn by_serial(&self, serial: u32) -> Option<Arc<Session>> {
        self.registry().by_serial(serial)
    }

    fn ended(&self, serial: u32) -> Option<(VmName, SessionState)> {
        self.registry().ended(serial)
    }

    fn generation(&self) -> u64 {
        self.registry().generation()
    }

    fn now(&self) -> Timestamp {
        self.registry().engine().owner.clock().now()
    }

    fn nbd_targets(&self, session: &Session) -> String {
        self.served().nbd_targets(session)
    }

    fn make_vm(&self, vm: &VmName) -> Result<()> {
        Self::make_vm(self, vm)
    }

    fn remove_vm(&self, vm: &VmName) -> Result<()> {
        Service::remove_vm(self, vm)
    }

    fn begin(&self, request: &BeginRequest) -> Result<Arc<Session>> {
        self.begin_session(request)
    }

    fn commit(&self, session: &Session, request: &CommitRequest) -> Result<()> {
        Service::commit(self, &session.reference(), request).map(drop)
    }

    fn abort(&self, session: &Session) -> Result<()> {
        Service::abort(self, &session.reference(), None)
    }

    fn forget(&self, vm: &VmName, point: &PointName) -> Result<()> {
        let answer = Service::forget(self, vm, std::slice::from_ref(point), false)?;
        match answer.kept.into_iter().next() {
            Some(kept) => Err(kept.problem.into()),
            None => Ok(()),
        }
    }
}
