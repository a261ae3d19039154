//! A backup: begins a session, fills it from sources, and commits it, by the operations that every
//! caller has. The bytes go to a disk writer of this process, or to the owner's NBD server.

use std::fs::File;
use std::sync::Arc;

use super::{BeginAnswer, BeginRequest, CommitAnswer, CommitRequest, DiskResult, Service};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::DiskWriter;
use crate::repo::sidecar::point::Consistency;
use crate::task::Monitor;
use crate::types::{DiskName, SessionRef};

/// The description of a backup.
pub struct BackupPlan<'a> {
    /// The request that begins the session.
    pub begin: BeginRequest,
    /// The request of the commit.
    pub commit: CommitRequest,
    /// Disks with their sources.
    pub sources: Vec<(DiskName, &'a dyn ReadAt)>,
    /// Files to attach, by name.
    pub attach: Vec<(String, File)>,
    /// Checks, after the copy, whether the sources were written meanwhile; returns why the point's
    /// consistency is unknown.
    pub check_sources: Box<dyn Fn() -> Result<Option<String>> + 'a>,
}

/// Receives the progress of a backup.
pub trait Observer {
    /// The session has begun.
    fn begun(&self, answer: &BeginAnswer);

    /// The copy of a disk begins. The returned monitor receives the progress, and can stop the
    /// copy. `writer` is set when it is in this process.
    fn copies(
        &self,
        disk: &DiskResult,
        source_bytes: u64,
        writer: Option<&Arc<DiskWriter>>,
    ) -> Monitor;

    /// The copy of the disk is complete.
    fn copied(&self, disk: &DiskResult);

    /// The backup failed, and its session could not be aborted.
    fn left(&self, error: &Error);
}

/// Makes a restore point of the sources. After a failure the session is aborted.
///
/// # Errors
/// As [`Service::begin`], [`Service::commit`]; what reading the sources returns; `InvalidInput`
/// when the VM has a disk that the plan does not mention; `Cancelled`.
pub fn run(
    service: &dyn Service,
    plan: &BackupPlan<'_>,
    observer: &dyn Observer,
) -> Result<CommitAnswer> {
    let begun = service.begin(&plan.begin)?;
    observer.begun(&begun);
    let session = SessionRef {
        vm: begun.vm.clone(),
        session: begun.session.clone(),
    };
    let done = plan
        .check_disks(&begun)
        .and_then(|()| plan.fill(service, &session, &begun, observer))
        .and_then(|()| plan.commit(service, &session));
    if let Err(error) = &done {
        let failure = match error.kind() {
            ErrorKind::Cancelled => None,
            _ => Some(error.report()),
        };
        if let Err(left) = service.abort(&session, failure.as_deref()) {
            observer.left(&left);
        }
    }
    done
}

fn is_in(list: &[&DiskName], name: &DiskName) -> bool {
    list.iter().any(|other| other.same_as(name))
}

impl BackupPlan<'_> {
    /// Refuses a session that could not be committed after the copy: a point has all disks of one
    /// instant.
    fn check_disks(&self, begun: &BeginAnswer) -> Result<()> {
        let (vm, unchanged) = (&self.begin.vm, &self.commit.unchanged);
        let disks: Vec<_> = begun.disk_results.iter().map(|disk| &disk.name).collect();
        let sources: Vec<_> = self.sources.iter().map(|(name, _)| name).collect();
        let declared: Vec<_> = unchanged.iter().collect();
        if let Some(name) = disks
            .iter()
            .find(|name| !is_in(&sources, name) && !is_in(&declared, name))
        {
            return Err(Error::invalid(format!(
                "{vm} has a disk {name}, too, and a point has all disks of one instant"
            ))
            .advise(format!(
                "name its source: {name}=SOURCE, or declare it: --unchanged {name}, --without {name}"
            )));
        }
        let mut named = unchanged.iter().chain(self.commit.change_ids.keys());
        match named.find(|name| !is_in(&disks, name)) {
            Some(name) => Err(Error::not_found(format!("{vm} has no disk {name}"))
                .advise(format!("see what it has: restorefs ls {vm}"))),
            None => Ok(()),
        }
    }

    fn fill(
        &self,
        service: &dyn Service,
        session: &SessionRef,
        begun: &BeginAnswer,
        observer: &dyn Observer,
    ) -> Result<()> {
        for (name, file) in &self.attach {
            service.attach(session, name, file)?;
        }
        for (name, source) in &self.sources {
            let disk = begun
                .disk_results
                .iter()
                .find(|disk| disk.name.same_as(name))
                .ok_or_else(|| Error::not_found(format!("session {session} has no disk {name}")))?;
            let target = service.disk_target(session, disk)?;
            let monitor = observer.copies(disk, source.size_bytes(), target.writer());
            target.fill(*source, &monitor)?;
            observer.copied(disk);
        }
        Ok(())
    }

    fn commit(&self, service: &dyn Service, session: &SessionRef) -> Result<CommitAnswer> {
        let note = (self.check_sources)()?;
        let request = CommitRequest {
            consistency: note.as_ref().map(|_| Consistency::Unknown),
            consistency_note: note,
            ..self.commit.clone()
        };
        service.commit(session, &request)
    }
}
