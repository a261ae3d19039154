//! Committing: all disks or none.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::disk::DiskWriter;
use super::parent::ChainSource;
use super::resume::resume_disk;
use super::session::{Session, SessionState};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::layout::VmKeys;
use crate::repo::publish::{Draft, Published};
use crate::repo::sidecar::index::PointEntry;
use crate::types::{DiskName, PointName};

/// What the caller says of the disks at commit.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Name of the point, instead of what was said at begin.
    pub point: Option<PointName>,
    /// Change ids by disk.
    pub change_ids: BTreeMap<DiskName, String>,
    /// Disks that are the parent's, untouched.
    pub unchanged: Vec<DiskName>,
    /// Disks that the point does not have any more.
    pub without: Vec<DiskName>,
}

impl Session {
    /// Seals every disk and publishes them as one restore point. When it fails, the session is open as before; but for
    /// one failure: the point is in place and only its durability could not be had. The session is committed then.
    ///
    /// # Errors
    /// `InvalidInput` while a disk is neither finished nor declared, or has shrunk; `Busy` while somebody writes or
    /// commits; `AlreadyExists` (the name); `NoSpace`, `Io`, `Stale` (the lock).
    pub fn commit(&self, request: &CommitRequest) -> Result<PointEntry> {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                SessionState::Open => *state = SessionState::Committing,
                SessionState::Committing => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "the session is being committed already",
                    ));
                }
                SessionState::Committed(point) => {
                    return Err(Error::new(
                        ErrorKind::ReadOnly,
                        format!("the session has been committed as {point}"),
                    ));
                }
                SessionState::Aborted => {
                    return Err(Error::new(ErrorKind::Stale, "the session has been aborted"));
                }
            }
        }
        let done = self.commit_disks(request);
        let next = match &done {
            Ok(point) => SessionState::Committed(point.entry.name.clone()),
            Err(_) => SessionState::Open,
        };
        if done.is_err()
            && let Err(e) = self.reopen_sealed()
        {
            tracing::error!(error = %e.report(), "a session whose commit failed cannot go on; abort it");
        }
        let result = done.and_then(|point| match point.unsure {
            None => Ok(point.entry),
            Some(e) => Err(e),
        });
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.note_error(result)
    }

    fn commit_disks(&self, request: &CommitRequest) -> Result<Published> {
        let named = |list: &[DiskName], disk: &DiskWriter| {
            list.iter().any(|n| n.folded() == disk.meta.name.folded())
        };
        for name in request
            .unchanged
            .iter()
            .chain(&request.without)
            .chain(request.change_ids.keys())
        {
            self.disk(name)?;
        }
        let (gone, disks): (Vec<_>, Vec<_>) = self
            .disks()
            .into_iter()
            .partition(|d| named(&request.without, d));
        if disks.is_empty() {
            return Err(Error::invalid("a restore point needs at least one disk"));
        }
        for disk in &disks {
            check_ready(disk, named(&request.unchanged, disk))?;
        }
        let sidecar = self.sidecar();
        let repository = self.engine.owner.repository();
        let mut sealed = Vec::new();
        for disk in &disks {
            let change_id = request
                .change_ids
                .iter()
                .find(|(n, _)| n.folded() == disk.meta.name.folded())
                .map(|(_, id)| id.clone());
            let _alone = disk.gate.write().unwrap_or_else(PoisonError::into_inner);
            disk.flush_gated()?;
            disk.sealed.store(true, Ordering::SeqCst);
            sealed.push(disk.seal(repository, &sidecar.vm, change_id)?);
        }
        let draft = Draft {
            name: request.point.clone().or(sidecar.point),
            captured_at: sidecar.captured_at,
            parent: sidecar.parent,
            disks: sealed,
        };
        let point = self
            .engine
            .owner
            .publish(&sidecar.vm, &sidecar.name, draft)?;
        for disk in &disks {
            disk.update_cache(repository, &sidecar.vm);
        }
        for disk in &gone {
            disk.sealed.store(true, Ordering::SeqCst);
            let removed = VmKeys::new(&sidecar.vm)
                .and_then(|k| k.open_layer(&disk.meta.layer))
                .and_then(|k| repository.stage().delete(&k));
            if let Err(e) = removed {
                tracing::warn!(error = %e.report(), "the layer of a disk that was left out is removed later");
            }
        }
        Ok(point)
    }

    /// After a failed commit: disks that were sealed already take writes again.
    fn reopen_sealed(&self) -> Result<()> {
        let sidecar = self.sidecar();
        let repository = self.engine.owner.repository();
        let vm_id = self.engine.owner.vm_snapshot(&sidecar.vm)?.vm.vm_id;
        let source = ChainSource::new(repository, &sidecar.vm, vm_id, true);
        let mut disks = self.disks.write().unwrap_or_else(PoisonError::into_inner);
        for place in disks
            .iter_mut()
            .filter(|disk| disk.sealed.load(Ordering::SeqCst))
        {
            let finished = place.is_finished();
            let mut meta = place.meta.clone();
            meta.size_bytes = place.size_bytes();
            meta.source_bytes = place.source_bytes();
            let again = resume_disk(&self.engine, &sidecar, &source, &meta)?;
            again.finish.set(finished);
            *place = again;
        }
        Ok(())
    }
}

fn check_ready(disk: &Arc<DiskWriter>, unchanged: bool) -> Result<()> {
    let name = &disk.meta.name;
    if disk.writers() > 0 {
        return Err(
            Error::new(ErrorKind::Busy, format!("disk {name} is being written"))
                .advise("let its NBD connections end first"),
        );
    }
    if unchanged {
        if disk.meta.parent.is_none() {
            return Err(Error::invalid(format!(
                "disk {name} cannot be unchanged: it has no parent"
            )));
        }
        if disk.stats().received_bytes > 0 || !disk.touched().is_empty() {
            return Err(Error::invalid(format!(
                "disk {name} is declared unchanged, but has been written"
            )));
        }
        return Ok(());
    }
    if !disk.is_finished() {
        return Err(Error::invalid(format!(
            "disk {name} is neither finished nor declared, so that two instants would be mixed"
        ))
        .advise(format!(
            "write it and disconnect properly, or declare it: --unchanged {name}, --without {name}"
        )));
    }
    Ok(())
}
