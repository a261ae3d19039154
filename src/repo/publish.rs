//! Publishing: the steps by which a session becomes a committed restore point, in exactly this order.
//!
//! 1. (by ingest) every disk is sealed: fsync, renamed from `.open` to `.qcow2`, its sums written;
//! 2. fsync of `layers/`; the lock is read again; `seq` is taken;
//! 3. `point.json` is written and fsynced in the session's directory;
//! 4. the directory is renamed to `points/<point>`, and `points/` fsynced: *the point is committed*;
//! 5. `index.json` is replaced, then the catalog; only then does the caller receive success.
//!
//! Where the workspace is separate, steps 1 and 4 upload instead, and `point.json` comes last; its upload is
//! then the instant of the commit.
//!
//! # Invariants
//! Before the instant of step 4 the session is whole (its directory takes the sidecar and logs along; they
//! are removed afterwards); after it the point is. A failure after step 4 does not fail the commit. When the
//! fsync of step 4 fails, the point is in place and stays: its layers must not be taken back, because the
//! point may exist after a crash. The caller learns this from [`Published::unsure`].

use jiff::Timestamp;

use super::cleanup::{remove_published, remove_session_files};
use super::entry::VmEntry;
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::repository::Repository;
use super::sidecar::index::{Index, PointEntry};
use super::sidecar::point::{Attached, Consistency, Kind, Point, PointDisk, PointParent};
use super::sidecar::{SIDECAR_BYTES_MAX, Sidecar, Unknown, encode};
use super::slot::Slot;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{Digest, PointId, PointName, VmName};

/// LIMIT: names tried with `-2`, `-3`, ... on collision.
const SUFFIX_MAX: u32 = 10_000;

/// The content of a point that ingest hands over for publishing.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The requested name; the time of capture when there is none.
    pub name: Option<PointName>,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// The parent.
    pub parent: Option<PointParent>,
    /// How consistent the captured instant is.
    pub consistency: Option<Consistency>,
    /// Why it is `unknown`, for people.
    pub consistency_note: Option<String>,
    /// All disks, sealed.
    pub disks: Vec<PointDisk>,
    /// The slot of the layer below that of each disk; `None` for a full one.
    pub below: Vec<Option<Slot>>,
}

impl Draft {
    /// How deep the chain of each disk becomes: one layer more than the parent's. The chain is not walked, so that a commit
    /// on a deep chain is as fast as on any other.
    fn depths(&self, index: &Index) -> Vec<Option<u32>> {
        let depth = |below: &Option<Slot>| match below {
            Some(below) => index.disk_of(below)?.depth?.checked_add(1),
            None => Some(1),
        };
        self.below.iter().map(depth).collect()
    }
}

/// A point that was published.
#[derive(Debug)]
pub struct Published {
    /// The summary of the point.
    pub entry: PointEntry,
    /// Why the point may not be durable: its directory has its name, but could not be synced.
    pub unsure: Option<Error>,
}

/// The release that writes sidecars.
const WRITER: &str = concat!("restorefs ", env!("CARGO_PKG_VERSION"));

/// A free name: the wanted one, or the time of capture, with `-2`, `-3`, ... on collision.
///
/// # Errors
/// `AlreadyExists` when a point, or another session than `own`, has the wanted name.
pub fn free_name(
    repository: &Repository,
    index: &Index,
    own: Option<&PointName>,
    wanted: Option<&PointName>,
    captured_at: Timestamp,
) -> Result<PointName> {
    let points = index.points.iter().map(|p| &p.name);
    let mut taken: std::collections::HashMap<String, &PointName> =
        points.map(|name| (name.folded(), name)).collect();
    let sessions = repository.session_names(&index.name)?;
    taken.extend(
        sessions
            .iter()
            .filter(|name| Some(*name) != own)
            .map(|name| (name.folded(), name)),
    );
    if let Some(wanted) = wanted {
        if let Some(other) = taken.get(&wanted.folded()) {
            let advice = match *other == wanted {
                true => "choose another name",
                false => "choose another name; upper and lower case are no difference",
            };
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} has a point or session {other} already", index.name),
            )
            .advise(advice));
        }
        return Ok(wanted.clone());
    }
    let base = clock::point_name(captured_at);
    for n in 1..SUFFIX_MAX {
        let name = PointName::new(if n == 1 {
            base.clone()
        } else {
            format!("{base}-{n}")
        })?;
        if !taken.contains_key(&name.folded()) {
            return Ok(name);
        }
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        format!("all names from {base} to {base}-{SUFFIX_MAX} are taken"),
    ))
}

impl Owner {
    /// Publishes a session whose disks are sealed.
    ///
    /// # Errors
    /// `AlreadyExists` (the name), `Stale` (this process lost the lock), `NoSpace`, `Io`: the session then
    /// still exists and is whole.
    pub fn publish(&self, vm: &VmName, session: &PointName, draft: Draft) -> Result<Published> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let keys = VmKeys::new(vm)?;
        let repository = self.repository();
        let stage = repository.stage();
        let dir = keys.session(session)?;

        stage.sync_prefix(&keys.layers()?)?;
        self.verify_lock()?;
        let name = free_name(
            repository,
            &entry.index,
            Some(session),
            draft.name.as_ref(),
            draft.captured_at,
        )?;
        let serial = self.next_serial()?;
        let depths = draft.depths(&entry.index);
        let point = Point {
            schema: Point::SCHEMA,
            point_id: PointId::random(),
            vm_id: entry.vm.vm_id,
            vm: vm.clone(),
            name: name.clone(),
            seq: entry.index.seq_high + 1,
            kind: kind_of(&draft.disks),
            captured_at: draft.captured_at,
            committed_at: self.clock().now(),
            consistency: draft.consistency,
            consistency_note: draft.consistency_note,
            parent: draft.parent,
            disks: draft.disks,
            attached: self.hash_attached(&dir)?,
            writer: WRITER.to_owned(),
            unknown: Unknown::new(),
        };
        let bytes = encode(&point)?;
        stage.put(&dir.join(layout::POINT_FILE)?, &bytes, PutMode::Replace)?;
        let mut short = PointEntry::of(&point, Digest::of(&bytes), serial);
        for (disk, depth) in short.disks.iter_mut().zip(depths) {
            disk.depth = depth;
        }
        self.place_point(&mut entry, session, short)
    }

    /// Renames a session's directory, which has the point's sidecar, to the place of the point, and lists the point. The caller
    /// has made its layers durable.
    ///
    /// # Errors
    /// `AlreadyExists` (the name), `NoSpace`, `Io`: the session then still exists and is whole.
    pub(super) fn place_point(
        &self,
        entry: &mut VmEntry,
        session: &PointName,
        short: PointEntry,
    ) -> Result<Published> {
        let vm = &entry.vm.name.clone();
        let name = short.name.clone();
        let (keys, repository) = (VmKeys::new(vm)?, self.repository());
        let (dir, stage) = (keys.session(session)?, repository.stage());
        let place = keys.point(&name)?;
        let placed = stage
            .publish_prefix(&dir, &place, layout::POINT_FILE)
            .and_then(|()| stage.sync_prefix(&keys.points()?));
        let unsure = match placed {
            Ok(()) => None,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(e),
            // Where it cannot be determined whether the point is in place, it counts as in place: nothing is
            // removed then.
            Err(e) => match repository.store().open(&keys.point_file(&name)?) {
                Err(seen) if seen.kind() == ErrorKind::NotFound => return Err(e),
                _ => Some(e),
            },
        };

        let max_depth = repository.format().max_depth();
        for disk in &short.disks {
            if let Some(depth) = disk.depth.filter(|depth| *depth > max_depth) {
                tracing::warn!(vm = %vm, point = %name, disk = %disk.name, depth,
                    "a chain is deeper than {max_depth} layers: merge it with restorefs forget --compact {vm}, or, where points need all layers, restorefs synthetic-full {vm}@latest");
            }
        }
        // The point is committed. The next owner repairs steps that fail from here on, and readers find the
        // point in `points/`.
        entry.index.points.push(short.clone());
        entry.index.points.sort_by_key(|point| point.seq);
        entry.index.seq_high = entry.index.seq_high.max(short.seq);
        entry.index.serial_high = entry.index.serial_high.max(short.serial);
        let index = &mut entry.index;
        let indexed = self
            .with_room(|| Self::store_index(repository, index))
            .and_then(|()| self.catalog().add_point(vm, &entry.index, &short));
        if let Err(e) = indexed {
            self.catalog().note_behind();
            tracing::error!(vm = %vm, point = %name, error = %e.report(),
                "the point is committed, but the index could not be written; it is repaired when the repository is next opened");
        }
        if let Err(e) = remove_session_files(repository, vm, &name) {
            tracing::warn!(vm = %vm, point = %name, error = %e.report(), "files of the finished session are left over");
        }
        let slots: Vec<&Slot> = short.disks.iter().map(|disk| &disk.layer).collect();
        if let Err(e) = remove_published(repository, vm, session, &slots) {
            // The next owner must examine the VM, and then finds the point.
            self.catalog().note_behind();
            tracing::warn!(vm = %vm, point = %name, error = %e.report(), "files of the finished session are left over in the workspace");
        }
        let unsure = unsure.map(|e| {
            Error::new(
                e.kind(),
                format!("the point {vm}@{name} is in place, but could not be made durable"),
            )
            .caused_by(e)
            .advise("look after the repository's disk; take another backup once it is sound")
        });
        Ok(Published {
            entry: short,
            unsure,
        })
    }

    fn hash_attached(&self, dir: &crate::store::Key) -> Result<Vec<Attached>> {
        let stage = self.repository().stage();
        let prefix = dir.join(layout::ATTACHED)?;
        let entries = match stage.list(&prefix) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut attached = Vec::new();
        for entry in entries {
            if entry.is_prefix {
                return Err(Error::invalid(format!(
                    "attached/{} is a directory; only files can be attached",
                    entry.name
                )));
            }
            let bytes = stage.get(&prefix.join(&entry.name)?, SIDECAR_BYTES_MAX)?;
            attached.push(Attached {
                name: entry.name,
                size_bytes: entry.size_bytes,
                blake3: Digest::of(&bytes),
                unknown: Unknown::new(),
            });
        }
        Ok(attached)
    }
}

fn kind_of(disks: &[PointDisk]) -> Kind {
    if disks.iter().all(|d| d.kind == Kind::Full) {
        Kind::Full
    } else if disks.iter().any(|d| d.kind == Kind::Differential) {
        Kind::Differential
    } else {
        Kind::Incremental
    }
}
