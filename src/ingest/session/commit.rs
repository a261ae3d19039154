//! Committing a session: all of its disks or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::base;
use super::change_id::{check_disk, declared_id};
use super::resume::resume_disk;
use crate::block::magic;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::completion::Door;
use crate::ingest::disk::DiskWriter;
use crate::ingest::request::CommitRequest;
use crate::ingest::request::limit::{check_change_ids, check_note};
use crate::ingest::{Session, SessionState};
use crate::point::ChainSource;
use crate::repo::layout::VmKeys;
use crate::repo::publish::{Draft, Published, free_name};
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Ending, Job, JobResult};
use crate::types::DiskName;

impl Session {
    /// Seals every disk and publishes the disks as one restore point. After a failure the session
    /// is open as before, with one exception: if the point is in place and only its durability
    /// could not be had, the session is committed.
    ///
    /// Calls `flush_caches` twice: once while the session still takes writes, and once when the
    /// point exists. A component that holds back written bytes (a kernel's page cache) must hand
    /// them in at the first call and drop the rest at the second.
    ///
    /// # Errors
    /// `InvalidInput` while a disk is neither finished nor declared, or has shrunk; `Busy` while
    /// somebody writes or commits; `AlreadyExists` (the name); `NoSpace`, `Io`, `Stale` (the lock).
    pub fn commit(&self, request: &CommitRequest, flush_caches: &dyn Fn()) -> Result<PointEntry> {
        let busy = || Error::new(ErrorKind::Busy, "the session is being committed already");
        if self.state() == SessionState::Committing {
            return Err(busy());
        }
        flush_caches();
        let _turn = self.changing.lock();
        {
            let mut state = self.state.lock();
            match &*state {
                SessionState::Open => *state = SessionState::Committing,
                SessionState::Committing => return Err(busy()),
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
        // Later writes wait for the end of the commit.
        self.end_writes();
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
        // A long commit does not count as idleness.
        self.touch();
        *self.state.lock() = next;
        self.settled.notify_all();
        if let SessionState::Committed(point) = self.state() {
            flush_caches();
            let ending = Ending {
                result: JobResult::Committed,
                reason: result.as_ref().err().map(Error::report),
            };
            let job = Job {
                point: Some(point),
                ..self.job(&ending)
            };
            self.engine.owner.keep_job(&job);
        }
        self.note_error(result)
    }

    /// Merges the earlier declarations with the request; the request wins.
    fn merged(&self, request: &CommitRequest) -> CommitRequest {
        let declared = self.sidecar().declared;
        let mut merged = request.clone();
        merged.unchanged.extend(declared.unchanged);
        merged.without.extend(declared.without);
        merged.raw.extend(declared.raw);
        for (ids, before) in [
            (&mut merged.change_ids, declared.change_ids),
            (
                &mut merged.previous_change_ids,
                declared.previous_change_ids,
            ),
        ] {
            for (disk, id) in before {
                if declared_id(ids, &disk).is_none() {
                    ids.insert(disk, id);
                }
            }
        }
        merged
    }

    /// Refuses a session that cannot become a point, whatever the state of its disks.
    fn check_whole(&self, request: &CommitRequest) -> Result<()> {
        let sidecar = self.sidecar();
        if sidecar.dismantled {
            return Err(
                Error::invalid("the session has been removed in part").advise(format!(
                    "end it with: restorefs abort {}/{}",
                    sidecar.vm, sidecar.name
                )),
            );
        }
        let is_in = |list: &[DiskName], name: &DiskName| list.iter().any(|n| n.same_as(name));
        check_change_ids(&request.change_ids)?;
        check_change_ids(&request.previous_change_ids)?;
        check_note(request.consistency_note.as_deref())?;
        let ids = request.change_ids.keys();
        let ids = ids.chain(request.previous_change_ids.keys());
        let lists = [&request.unchanged, &request.without, &request.raw];
        for name in ids.chain(lists.into_iter().flatten()) {
            if !sidecar.disks.iter().any(|d| d.name.same_as(name)) {
                self.disk(name)?;
            }
        }
        for disk in sidecar.disks.iter().filter(|d| d.unlinked) {
            if !is_in(&request.without, &disk.name) {
                return Err(
                    Error::invalid(format!("disk {} was removed", disk.name)).advise(format!(
                        "write it again, or declare that it is gone: --without {}",
                        disk.name
                    )),
                );
            }
        }
        Ok(())
    }

    fn commit_disks(&self, request: &CommitRequest) -> Result<Published> {
        let request = &self.merged(request);
        let named =
            |list: &[DiskName], disk: &DiskWriter| list.iter().any(|n| n.same_as(&disk.meta.name));
        self.check_whole(request)?;
        let (gone, disks): (Vec<_>, Vec<_>) = self
            .disks()
            .into_iter()
            .partition(|d| named(&request.without, d));
        if disks.is_empty() {
            return Err(Error::invalid("a restore point needs at least one disk"));
        }
        let changed_only = self.sidecar().changed_only;
        for disk in &disks {
            let unchanged = named(&request.unchanged, disk);
            check_ready(disk, unchanged)?;
            if changed_only && !unchanged {
                check_disk(&disk.meta, &request.previous_change_ids)?;
            }
            disk.check_size()?;
            if !named(&request.raw, disk) {
                check_bytes(disk)?;
            }
        }
        let sidecar = self.sidecar();
        let repository = self.engine.owner.repository();
        let point = request.point.clone().or_else(|| sidecar.point.clone());
        let index = self.engine.owner.vm_snapshot(&sidecar.vm)?.index;
        base::check_again(
            repository,
            &sidecar.vm,
            &index,
            disks.iter().map(|disk| &disk.meta),
        )?;
        // An early check, before anything is sealed. The same check at publication decides.
        free_name(
            repository,
            &index,
            Some(&sidecar.name),
            point.as_ref(),
            sidecar.captured_at,
        )?;
        // All disks stop taking writes at one moment, before the first is sealed.
        for disk in &disks {
            let _alone = disk.gate.write();
            // Checked again now that no writer can begin: the point would hold only a part of what
            // a writer sends that began meanwhile.
            check_ready(disk, named(&request.unchanged, disk))?;
            disk.flush_gated()?;
            disk.sealed.store(true, Ordering::SeqCst);
        }
        let mut sealed = Vec::new();
        for disk in &disks {
            let change_id = declared_id(&request.change_ids, &disk.meta.name).cloned();
            let _alone = disk.gate.write();
            sealed.push(disk.seal(change_id)?);
        }
        let draft = Draft {
            name: point,
            captured_at: sidecar.captured_at,
            parent: sidecar.parent,
            consistency: request.consistency,
            consistency_note: request.consistency_note.clone(),
            disks: sealed,
            below: disks
                .iter()
                .map(|disk| disk.meta.parent.as_ref().map(|parent| parent.layer.clone()))
                .collect(),
        };
        let point = self
            .engine
            .owner
            .publish(&sidecar.vm, &sidecar.name, draft)?;
        for disk in &disks {
            disk.draft.update_cache(&disk.meta.name);
        }
        let leftover = self.files().into_iter();
        let leftover = leftover.filter_map(|(temporary, disk)| temporary.is_some().then_some(disk));
        for disk in gone.into_iter().chain(leftover) {
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

    /// Makes the disks that were already sealed writable again after a failed commit.
    fn reopen_sealed(&self) -> Result<()> {
        let sidecar = self.sidecar();
        if sidecar.dismantled {
            return Ok(());
        }
        let repository = self.engine.owner.repository();
        let vm_id = self.engine.owner.vm_snapshot(&sidecar.vm)?.vm.vm_id;
        let source = ChainSource::new(repository, &sidecar.vm, vm_id, true);
        let mut disks = self.disks.write();
        for place in disks
            .iter_mut()
            .filter(|disk| disk.sealed.load(Ordering::SeqCst))
        {
            // The disk is opened with the size that it began with: its log may name clusters beyond
            // the present size, and records that size too.
            let again = resume_disk(&self.engine, &sidecar, &source, &place.meta)?;
            again.completion.continue_from(&place.completion);
            again.set_written_at(place.written_at());
            *place = again;
        }
        Ok(())
    }
}

/// Refuses a new disk that begins as an image: the client probably wrote the image's file instead
/// of the disk in it. A disk that the parent point has may begin with anything, because a guest may
/// write anything.
fn check_bytes(disk: &Arc<DiskWriter>) -> Result<()> {
    if disk.meta.inherited || disk.meta.parent.is_some() {
        return Ok(());
    }
    let name = &disk.meta.name;
    match magic::look(disk.as_ref())? {
        None => Ok(()),
        Some(format) if magic::is_packed(format) => Err(Error::invalid(format!(
            "the new disk {name} begins as a {format} archive: was it not unpacked?"
        ))
        .advise(format!(
            "write the disk in it, or declare that these are its own bytes: --raw {name}, in the tree setfattr -n user.restorefs.raw -v {name}"
        ))),
        Some(format) => Err(Error::invalid(format!(
            "the new disk {name} begins as a {format} image: was the image's file written instead of the disk in it?"
        ))
        .advise(format!(
            "write the disk (qemu-img convert -n -f {format} -O raw IMAGE TARGET), or declare that these are its own bytes: --raw {name}, in the tree setfattr -n user.restorefs.raw -v {name}"
        ))),
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
    disk.check_missing()?;
    if unchanged {
        if disk.meta.parent.is_none() {
            return Err(Error::invalid(format!(
                "disk {name} cannot be unchanged: it has no parent"
            )));
        }
        let is_resized = disk.source_bytes() != disk.meta.source_bytes;
        if is_resized || disk.stats().received_bytes > 0 || !disk.draft.is_untouched() {
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
        .advise(match disk.door() {
            Some(Door::Nbd) => format!(
                "write it and disconnect properly, or declare it: --unchanged {name}, --without {name}"
            ),
            Some(Door::Tree) | None => format!(
                "write it and disconnect properly, or declare it: --unchanged {name}, --without {name}; one that was copied into the tree whole: touch {name}.raw there"
            ),
        }));
    }
    Ok(())
}
