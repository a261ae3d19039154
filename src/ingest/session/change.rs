//! Changes of an open session's disks: new disks, replacements written beside them, removals,
//! declarations.
//!
//! # Invariants
//! - `session.json` is replaced durably before a change is answered. Files that it no longer names
//!   are deleted after that.
//! - A disk that the session began with never disappears silently: its removal leaves a mark, and
//!   the commit is refused.
//!
//! # Concurrency
//! Changes take turns (`changing`). A disk that is replaced is sealed first: running writes end,
//! later writes are refused.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::Session;
use super::begin::check_ttl;
use super::copy::copy_into;
use crate::block::piece::CopySource;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::completion::Door;
use crate::ingest::disk::DiskWriter;
use crate::point::ChainSource;
use crate::repo::Slot;
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::point::Kind;
use crate::repo::sidecar::session::{self as sidecar, Declared, SessionDisk};
use crate::task::Monitor;
use crate::types::{DiskName, LayerId};

/// LIMIT: disks of one session, including those that are written beside others.
const FILES_MAX: usize = 320;

impl Session {
    /// Waits for the caller's turn to change something; counts as activity of the session.
    fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        // Checked before and after waiting: a request that will be refused must not wait for the
        // commit, and the session may have been committed meanwhile.
        self.check_open()?;
        let turn = self.changing.lock();
        self.check_open()?;
        self.touch();
        Ok(turn)
    }

    /// Replaces the sidecar with the one that `edit` makes.
    fn replace_sidecar<T>(
        &self,
        edit: impl FnOnce(&mut sidecar::Session) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.sidecar();
        let result = edit(&mut next)?;
        self.engine.owner.replace_session(&next)?;
        *self.sidecar.lock() = next;
        self.note_change();
        Ok(result)
    }

    /// Creates a disk of size 0: a new disk, one that was removed before, or, with `temporary` (its
    /// name in the tree), one that is written beside the disk `name` and may replace it. Its
    /// content is compared with the parent of the disk `name`, if there is one.
    ///
    /// # Errors
    /// `AlreadyExists`; `LimitExceeded`; `Busy`, `ReadOnly`, `Stale` (the session); `NoSpace`,
    /// `Io`.
    pub fn create_file(&self, name: &DiskName, temporary: Option<&str>) -> Result<Arc<DiskWriter>> {
        let _turn = self.turn()?;
        let now = self.sidecar();
        if now.disks.len() >= FILES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("more than {FILES_MAX} disks in one session"),
            ));
        }
        let model = now
            .disks
            .iter()
            .find(|d| d.temporary.is_none() && d.name.same_as(name));
        let is_taken = match temporary {
            Some(file) => now
                .disks
                .iter()
                .any(|d| d.temporary.as_deref() == Some(file)),
            None => model.is_some_and(|d| !d.unlinked),
        };
        if is_taken {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("the session has a disk {name} already"),
            ));
        }
        let made = self.new_disk(&now, name, model, temporary);
        let writer = self.make_writer(&now, &made)?;
        if made.parent.is_some() {
            // The parent's content is used for comparison only; it must not be readable through the
            // new disk.
            writer.set_size(0)?;
        }
        writer.note_change();
        let recorded = self.replace_sidecar(|next| {
            next.disks
                .retain(|d| temporary.is_some() || !d.unlinked || !d.name.same_as(name));
            next.disks.push(made.clone());
            Ok(())
        });
        if let Err(e) = recorded {
            self.retire(&writer);
            return Err(e);
        }
        self.disks.write().push(Arc::clone(&writer));
        Ok(writer)
    }

    fn new_disk(
        &self,
        now: &sidecar::Session,
        name: &DiskName,
        model: Option<&SessionDisk>,
        temporary: Option<&str>,
    ) -> SessionDisk {
        let number = now.disks.iter().map(|d| d.number).max().unwrap_or(0);
        let number = number.max(self.number_high.fetch_add(1, Ordering::SeqCst)) + 1;
        self.number_high.fetch_max(number, Ordering::SeqCst);
        let layer_id = LayerId::random();
        let name = model.map_or(name, |model| &model.name);
        let size_of = |of: fn(&sidecar::ParentDisk) -> u64| {
            model.and_then(|m| m.parent.as_ref()).map_or(0, of)
        };
        SessionDisk {
            layer: Slot::new(name, now.captured_at, layer_id),
            name: name.clone(),
            number,
            log: Some(format!("{name}~{number}")),
            temporary: temporary.map(str::to_owned),
            unlinked: false,
            inherited: model.is_some_and(|m| m.inherited),
            key: model.map_or_else(|| name.to_string(), |m| m.key.clone()),
            layer_id,
            kind: model.map_or(Kind::Full, |m| m.kind),
            full_reason: match model {
                Some(model) => model.full_reason.clone(),
                None => now
                    .parent
                    .as_ref()
                    .map(|_| "the parent point has no such disk".to_owned()),
            },
            size_bytes: size_of(|p| p.size_bytes),
            source_bytes: size_of(|p| p.source_bytes),
            parent: model.and_then(|m| m.parent.clone()),
            unknown: Unknown::new(),
        }
    }

    fn make_writer(&self, now: &sidecar::Session, disk: &SessionDisk) -> Result<Arc<DiskWriter>> {
        let owner = &self.engine.owner;
        let vm_id = owner.vm_snapshot(&now.vm)?.vm.vm_id;
        let source = ChainSource::new(owner.repository(), &now.vm, vm_id, true);
        // A crash may have left a log of this number that belongs to no disk.
        self.delete_files(disk);
        let made = DiskWriter::create(&self.engine, now, &source, disk).and_then(|made| {
            // The files' names become durable before `session.json` names them.
            let (keys, stage) = (VmKeys::new(&now.vm)?, owner.repository().stage());
            stage.sync_prefix(&keys.layers()?)?;
            stage.sync_prefix(&keys.session(&now.name)?)?;
            Ok(made)
        });
        if made.is_err() {
            self.delete_files(disk);
        }
        made
    }

    /// Refuses a disk that was removed or replaced while the caller waited for its turn.
    fn check_named(&self, disk: &DiskWriter) -> Result<()> {
        let sidecar = self.sidecar();
        let id = disk.meta.layer_id;
        if sidecar
            .disks
            .iter()
            .any(|d| d.layer_id == id && !d.unlinked)
        {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Stale,
            format!("disk {} was removed or replaced", disk.meta.name),
        ))
    }

    /// Replaces a disk by the one that was written beside it.
    ///
    /// # Errors
    /// `InvalidInput` when `temporary` is not such a disk; `Stale` when it is gone; `Busy` when the
    /// disk to replace belongs to another door; `NoSpace`, `Io`.
    pub fn replace(&self, temporary: &Arc<DiskWriter>) -> Result<()> {
        let _turn = self.turn()?;
        self.check_named(temporary)?;
        let id = temporary.meta.layer_id;
        let name = &temporary.meta.name;
        let old = self.disk(name).ok();
        if let Some(old) = &old {
            if old.meta.layer_id == id {
                return Err(Error::invalid(format!(
                    "disk {name} is in its place already"
                )));
            }
            old.claim(Door::Tree)?;
        }
        if temporary.completion.has_all() {
            temporary.set_finished(true);
        }
        self.replace_sidecar(|next| {
            next.disks
                .retain(|d| d.layer_id == id || d.temporary.is_some() || !d.name.same_as(name));
            for disk in next.disks.iter_mut().filter(|d| d.layer_id == id) {
                disk.temporary = None;
            }
            Ok(())
        })?;
        if let Some(old) = old {
            self.forget(&old);
            self.retire(&old);
        }
        Ok(())
    }

    /// Removes a disk from the session. Removing a disk that the session began with leaves a mark
    /// that blocks the commit.
    ///
    /// # Errors
    /// `Busy` when an NBD client writes the disk; `Stale` when it is gone already; `NoSpace`, `Io`.
    pub fn unlink(&self, disk: &Arc<DiskWriter>) -> Result<()> {
        let _turn = self.turn()?;
        self.check_named(disk)?;
        if disk.writers() > 0 {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("disk {} is being written over NBD", disk.meta.name),
            ));
        }
        let id = disk.meta.layer_id;
        self.replace_sidecar(|next| {
            for it in next.disks.iter_mut().filter(|d| d.layer_id == id) {
                it.unlinked = true;
            }
            next.disks.retain(|d| {
                d.layer_id != id || (d.temporary.is_none() && (d.inherited || d.parent.is_some()))
            });
            Ok(())
        })?;
        self.forget(disk);
        self.retire(disk);
        Ok(())
    }

    /// Makes a disk full: it keeps its content but has no parent any more, so it may become smaller
    /// than its parent was.
    ///
    /// # Errors
    /// `NotFound`; `Busy` when an NBD client writes it; `NoSpace`, `Io`, `Corrupt` (the parent).
    pub fn make_full(&self, name: &DiskName) -> Result<()> {
        let _turn = self.turn()?;
        let old = self.disk(name)?;
        if old.meta.parent.is_none() {
            return Ok(());
        }
        if old.writers() > 0 {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("disk {name} is being written over NBD"),
            ));
        }
        let now = self.sidecar();
        let mut made = self.new_disk(&now, name, None, None);
        made.name = old.meta.name.clone();
        made.inherited = true;
        made.key.clone_from(&old.meta.key);
        made.full_reason = None;
        made.size_bytes = old.size_bytes();
        made.source_bytes = old.source_bytes();
        // Writers wait until the content has moved.
        let _alone = old.gate.write();
        let writer = self.make_writer(&now, &made)?;
        let moved = copy_into(
            self,
            &writer,
            CopySource::whole(old.as_ref()),
            &Monitor::default(),
        )
        .and_then(|()| writer.flush())
        .and_then(|()| {
            writer.set_finished(old.is_finished());
            writer.completion.adopt_missing(&old.completion);
            self.replace_sidecar(|next| {
                next.disks.retain(|d| d.layer_id != old.meta.layer_id);
                next.disks.push(made.clone());
                Ok(())
            })
        });
        if let Err(e) = moved {
            self.retire(&writer);
            return Err(e);
        }
        if let Some(door) = old.door() {
            writer.claim(door)?;
        }
        old.sealed.store(true, Ordering::SeqCst);
        drop(_alone);
        self.forget(&old);
        self.disks.write().push(writer);
        self.delete_files(&old.meta);
        Ok(())
    }

    /// Changes the declarations about the session's disks.
    ///
    /// # Errors
    /// What `edit` returns; `Busy`, `ReadOnly`, `Stale`; `NoSpace`, `Io`.
    pub fn declare(&self, edit: impl FnOnce(&mut Declared) -> Result<()>) -> Result<()> {
        let _turn = self.turn()?;
        self.replace_sidecar(|next| edit(&mut next.declared))
    }

    /// Sets the seconds without activity after which the session ends by itself.
    ///
    /// # Errors
    /// `InvalidInput` for zero; `Busy`, `ReadOnly`, `Stale`; `NoSpace`, `Io`.
    pub fn set_ttl(&self, seconds: u64) -> Result<()> {
        check_ttl(seconds)?;
        let _turn = self.turn()?;
        self.replace_sidecar(|next| {
            next.ttl_seconds = seconds;
            Ok(())
        })
    }

    /// Records that the session is being taken apart: from now on it can only be aborted.
    ///
    /// # Errors
    /// `Busy`, `ReadOnly`, `Stale`; `NoSpace`, `Io`.
    pub fn dismantle(&self) -> Result<()> {
        let _turn = self.turn()?;
        if self.sidecar().dismantled {
            return Ok(());
        }
        self.replace_sidecar(|next| {
            next.dismantled = true;
            Ok(())
        })
    }

    /// Removes a disk from the table.
    fn forget(&self, disk: &Arc<DiskWriter>) {
        self.disks.write().retain(|d| !Arc::ptr_eq(d, disk));
    }

    /// Ends a disk that the sidecar no longer names, and deletes its files.
    fn retire(&self, disk: &Arc<DiskWriter>) {
        {
            let _alone = disk.gate.write();
            disk.sealed.store(true, Ordering::SeqCst);
        }
        self.delete_files(&disk.meta);
    }

    /// Deletes the layer and the log of a disk. The next owner removes files that could not be
    /// deleted.
    fn delete_files(&self, disk: &SessionDisk) {
        let (vm, name) = (self.vm(), self.name());
        let stage = self.engine.owner.repository().stage();
        let delete = || -> Result<()> {
            let keys = VmKeys::new(&vm)?;
            for key in [
                keys.open_layer(&disk.layer)?,
                keys.map(&name, disk.log_name())?,
            ] {
                match stage.delete(&key) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        };
        if let Err(e) = delete() {
            tracing::warn!(vm = %vm, session = %name, disk = %disk.name, error = %e.report(), "files of a disk that was replaced are left over");
        }
    }
}
