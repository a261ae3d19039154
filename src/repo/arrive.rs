//! Arriving: the third way in which a point comes into a repository. A copy of a point of another repository is received in a
//! session, and published from it.
//!
//! 1. the session is made, or taken up again: it names the slots of the copy, so that nothing of it is garbage, and those on
//!    which it stands, so that they stay ([`Owner::begin_arrival`]);
//! 2. the sender writes layers, sums, attached files and `point.json` into the session's directory, without any lock, and
//!    proves them;
//! 3. ([`Owner::arrive`]) the lock is read again; what arrived is looked at; layers are published, each after the one below it;
//! 4. the chain of each disk is walked; the session's directory is renamed to `points/<point>`: *the point is committed*;
//! 5. `index.json` is replaced, then the catalog.
//!
//! # Invariants
//! - Nothing that is there is replaced: other content in a slot is refused, equal content in a slot stays.
//! - A point is listed only when the chains of all its disks are complete.
//! - After a crash before step 4 the session goes on: layers that are in their slots already are not sent again.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::adopt::check_origin;
use super::entry::VmEntry;
use super::format::{COPIES, MERGE};
use super::garbage::Look;
use super::job::{Ending, Job};
use super::layer_file::LayerFile;
use super::layout::{self, VmKeys};
use super::leaves::DEPTH_MAX;
use super::owner::Owner;
use super::publish::Published;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::arriving::{ARRIVING_TTL_SECONDS, Arriving, ArrivingBase, ArrivingLayer};
use super::sidecar::copied::Origin;
use super::sidecar::index::{Index, PointEntry};
use super::sidecar::point::Point;
use super::sidecar::seal::is_sealed;
use super::sidecar::session::{Declared, Session};
use super::sidecar::vm::Vm;
use super::sidecar::{SIDECAR_BYTES_MAX, Sidecar, Unknown, encode, parse};
use super::slot::Slot;
use super::sums::Sums;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::Compression;
use crate::store::PutMode;
use crate::types::{Digest, PointName, SessionId, VmName};

/// LIMIT: names tried with `-2`, `-3`, ... on collision.
const SUFFIX_MAX: u32 = 10_000;
/// LIMIT: bytes of a name.
const NAME_BYTES_MAX: usize = 128;
/// LIMIT: layers that one point brings along: 256 disks of 32 layers, or 10 of the deepest chains. A request is one line.
const LAYERS_MAX: usize = 8_192;

/// A request to receive a copy of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// The name of the VM here.
    pub vm: VmName,
    /// The sidecar of the VM where the copy comes from.
    pub of: Vm,
    /// The name of the point there.
    pub name: PointName,
    /// What is sent.
    pub arriving: Arriving,
    /// Whether layers may have been merged there.
    pub is_merged: bool,
}

fn stale(what: String) -> Error {
    Error::new(ErrorKind::Stale, what).advise("nothing is lost; the copy is planned again")
}

/// The name for a point that arrives: that which it had, with `-2`, `-3`, ... when it is taken.
fn arrival_name(
    repository: &Repository,
    index: &Index,
    own: Option<&PointName>,
    wanted: &PointName,
) -> Result<PointName> {
    let sessions = repository.session_names(&index.name)?;
    let sessions = sessions.iter().filter(|name| Some(*name) != own);
    let points = index.points.iter().map(|point| &point.name);
    let mut taken: HashSet<String> = points.chain(sessions).map(PointName::folded).collect();
    // A directory without sidecar is no point, but in the way.
    let places = absent_is_empty(
        repository
            .store()
            .list(&VmKeys::new(&index.name)?.points()?),
    )?;
    taken.extend(places.into_iter().map(|place| place.name.to_lowercase()));
    for n in 1..SUFFIX_MAX {
        let suffix = if n == 1 {
            String::new()
        } else {
            format!("-{n}")
        };
        // Names are ASCII.
        let stem = wanted.as_str();
        let stem = stem.get(..stem.len().min(NAME_BYTES_MAX - suffix.len()));
        let name = PointName::new(format!("{}{suffix}", stem.unwrap_or_default()))?;
        if !taken.contains(&name.folded()) {
            return Ok(name);
        }
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        format!("all names from {wanted} to {wanted}-{SUFFIX_MAX} are taken"),
    ))
}

/// The open copy of a point.
fn copy_of(sessions: Vec<Session>, arriving: &Arriving) -> Option<Session> {
    let is_it = |session: &Session| {
        let other = session.arriving.as_ref();
        other.is_some_and(|other| other.point_id == arriving.point_id)
    };
    sessions.into_iter().find(is_it)
}

/// Walks the chain below a slot; returns its depth.
///
/// # Errors
/// `NotFound`, `Corrupt` for the first layer that is missing or damaged; `LimitExceeded`; `Io`.
fn walk(repository: &Repository, vm: &VmName, top: &Slot) -> Result<u32> {
    let mut seen = HashSet::new();
    let mut next = Some(top.clone());
    while let Some(slot) = next {
        if !seen.insert(slot.clone()) || seen.len() > DEPTH_MAX {
            let what = "the backing chain of a layer is a loop, or too deep";
            return Err(Error::corrupt(what, "a chain that ends", &slot));
        }
        let file = LayerFile::open(repository, vm, &slot)?;
        file.prove_header(repository, vm, &slot)?;
        next = file.below;
    }
    Ok(u32::try_from(seen.len()).unwrap_or(u32::MAX))
}

impl Owner {
    /// Makes sure that no release writes the repository, or reads it, which does not know what copies bring.
    fn require_copies(&self, is_merged: bool) -> Result<()> {
        let mut format = self.repository().format_now()?;
        let has = |list: &[String], feature: &str| list.iter().any(|known| known == feature);
        if has(&format.ro_compat, COPIES) && (!is_merged || has(&format.incompat, MERGE)) {
            return Ok(());
        }
        if !has(&format.ro_compat, COPIES) {
            format.ro_compat.push(COPIES.to_owned());
        }
        if is_merged && !has(&format.incompat, MERGE) {
            format.incompat.push(MERGE.to_owned());
        }
        let (key, bytes) = (layout::format()?, encode(&format)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
    }

    /// Begins to receive a copy of a point, or goes on with it; returns the name of the session. Layers of an earlier attempt
    /// that are not sent any more are removed.
    ///
    /// # Errors
    /// `AlreadyExists` when the name of the VM is another VM's, or other content is in a slot; `NotPermitted` when the VM was
    /// adopted or comes from elsewhere; `Stale` when the point is there, or a layer on which the copy stands is not, or the lock
    /// is lost; `InvalidInput`, `LimitExceeded`; `NoSpace`, `Io`.
    pub fn begin_arrival(&self, arrival: &Arrival) -> Result<PointName> {
        let arriving = &arrival.arriving;
        if arriving.layers.len() + arriving.bases.len() > LAYERS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a copy of one point brings at most {LAYERS_MAX} layers along"),
            ));
        }
        let repository = self.repository();
        if arriving.origin == repository.format().repository_id {
            return Err(Error::invalid(
                "a repository cannot be copied into itself: both have one id",
            ));
        }
        self.verify_lock()?;
        self.require_copies(arrival.is_merged)?;
        let entry = self.ensure_vm_as(&arrival.vm, |serial| {
            self.check_unknown(&arrival.of)?;
            Ok(Vm {
                name: arrival.vm.clone(),
                serial,
                disks: Vec::new(),
                // The policies of the other repository are not known here.
                policy: None,
                origin: Some(Origin {
                    repository_id: arriving.origin,
                    unknown: Unknown::new(),
                }),
                ..arrival.of.clone()
            })
        })?;
        let mut entry = entry.lock();
        self.verify_lock()?;
        if entry.gone {
            return Err(stale(format!("{} is being removed", arrival.vm)));
        }
        if entry.vm.vm_id != arrival.of.vm_id {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("there is another VM {} at the target", arrival.vm),
            )
            .advise("copy it under another name: --as NAME"));
        }
        check_origin(&entry.vm, arriving.origin)?;
        let vm = entry.vm.name.clone();
        let mut points = entry.index.points.iter();
        if points.any(|point| point.point_id == arriving.point_id) {
            return Err(stale(format!("the point is there: {}", arrival.name)));
        }
        self.end_expired_copies(&vm)?;
        self.remove_remains(&vm)?;
        for base in &arriving.bases {
            self.check_base(&vm, base)?;
        }
        for layer in &arriving.layers {
            self.check_slot(&vm, layer)?;
        }
        self.record_disks(&mut entry, &arrival.of.disks)?;
        let now = self.clock().now();
        let arriving = Arriving {
            renewed_at: now,
            ..arriving.clone()
        };
        if let Some(mut session) = copy_of(repository.sessions(&vm)?, &arriving) {
            session.arriving = Some(arriving);
            self.drop_unsent(&session)?;
            self.replace_session(&session)?;
            return Ok(session.name);
        }
        let session = Session {
            schema: Session::SCHEMA,
            session_id: SessionId::random(),
            vm: vm.clone(),
            name: arrival_name(repository, &entry.index, None, &arrival.name)?,
            point: None,
            captured_at: now,
            ttl_seconds: ARRIVING_TTL_SECONDS,
            resumable: true,
            parent: None,
            serial: 0,
            token: None,
            left_out: Vec::new(),
            disks: Vec::new(),
            declared: Declared::default(),
            changed_only: false,
            dismantled: false,
            arriving: Some(arriving),
            compression: Compression::None,
            unknown: Unknown::new(),
        };
        let made = self
            .prepare_session(&vm, &session.name)
            .and_then(|()| self.create_session(&session));
        if let Err(e) = made {
            if let Err(left) = self.discard_session(&session) {
                tracing::error!(error = %left.report(), "a copy that could not begin is left over");
            }
            return Err(e);
        }
        Ok(session.name)
    }

    /// Refuses a VM that is here under another name.
    fn check_unknown(&self, vm: &Vm) -> Result<()> {
        for name in self.repository().vm_names()? {
            // One that cannot be read has its own errors.
            if let Ok(known) = self.repository().vm(&name)
                && known.vm_id == vm.vm_id
            {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("the VM is at the target already, as {name}"),
                )
                .advise("copy it without --as, or under that name"));
            }
        }
        Ok(())
    }

    fn check_base(&self, vm: &VmName, base: &ArrivingBase) -> Result<()> {
        match self.repository().content_in(vm, &base.slot)? {
            Some(found) if found == base.content_root => Ok(()),
            _ => Err(stale(format!(
                "the layer {} of {vm}, on which the copy stands, is not there any more",
                base.slot
            ))),
        }
    }

    /// Refuses a slot with other content; returns whether the layer's content is there.
    fn check_slot(&self, vm: &VmName, layer: &ArrivingLayer) -> Result<bool> {
        match self.repository().content_in(vm, &layer.slot)? {
            None => Ok(false),
            Some(found) if found == layer.content_root => Ok(true),
            Some(found) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "the slot {} of {vm} has other content at the target: {found} rather than {}",
                    layer.slot, layer.content_root
                ),
            )
            .at_path(VmKeys::new(vm)?.layer(&layer.slot)?.as_str())
            .advise(
                "copy the VM under another name (--as NAME), or forget it at the target first",
            )),
        }
    }

    /// Ends copies of a VM with which nobody has gone on for their ttl. The caller holds the VM's mutex.
    fn end_expired_copies(&self, vm: &VmName) -> Result<()> {
        let now = self.clock().now();
        for session in self.repository().sessions(vm)? {
            if session.is_expired_copy(now) {
                self.remove_session(vm, &session.name)?;
                self.keep_job(&Job::of_session(&session, &Ending::expired_copy(), now));
            }
        }
        Ok(())
    }

    /// Removes what a sender wrote into the directory of a copy that was aborted at that moment. The caller holds the VM's mutex, and
    /// only copies have sessions in such a VM, so no session is just beginning.
    fn remove_remains(&self, vm: &VmName) -> Result<()> {
        for name in self.repository().session_names(vm)? {
            match self.repository().session(vm, &name) {
                Err(e) if e.kind() == ErrorKind::NotFound => self.remove_session(vm, &name)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes files of layers that a copy does not send any more.
    fn drop_unsent(&self, session: &Session) -> Result<()> {
        let (keys, stage) = (VmKeys::new(&session.vm)?, self.repository().stage());
        let dir = keys.session(&session.name)?;
        let layers = session.arriving.iter().flat_map(|a| &a.layers);
        let mut sent = HashSet::new();
        for layer in layers {
            let (slot, id) = (&layer.slot, layer.layer_id);
            for key in [
                keys.arriving(&session.name, slot, id)?,
                keys.arriving_sums(&session.name, slot, id)?,
                keys.arrived(&session.name, slot, id)?,
            ] {
                sent.insert(key);
            }
        }
        let kept = [layout::SESSION_FILE, layout::POINT_FILE, layout::ATTACHED];
        for entry in stage.list(&dir)? {
            let key = dir.join(&entry.name)?;
            if !sent.contains(&key) && !kept.contains(&entry.name.as_str()) {
                stage.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Makes a restore point of a copy that has arrived.
    ///
    /// # Errors
    /// `NotFound` when the session was aborted; `InvalidInput` when not everything has arrived; `NotPermitted` when the VM was
    /// adopted meanwhile; `AlreadyExists` (other content in a slot); `Corrupt` when what arrived is not what was announced, or a
    /// chain is not complete; `Stale` (the lock); `NoSpace`, `Io`. The session then still exists.
    pub fn arrive(&self, vm: &VmName, name: &PointName) -> Result<Published> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let (vm, repository) = (&entry.vm.name.clone(), self.repository());
        let session = repository.session(vm, name)?;
        let Some(arriving) = &session.arriving else {
            return Err(Error::invalid(format!(
                "{vm}/{name} is a session that is written here, and no copy"
            )));
        };
        check_origin(&entry.vm, arriving.origin)?;
        self.verify_lock()?;
        let (point, bytes) = self.arrived_point(&entry, &session, arriving)?;
        for layer in &arriving.layers {
            self.place_layer(&session, layer)?;
        }
        let depths = point
            .disks
            .iter()
            .map(|disk| {
                let found = repository.content_in(vm, &disk.layer)?;
                if found != Some(disk.content_root) {
                    return Err(Error::corrupt(
                        format!(
                            "the disk {} of the point has other content than its sidecar states",
                            disk.name
                        ),
                        disk.content_root,
                        found.map_or_else(|| "no layer".to_owned(), |found| found.to_string()),
                    )
                    .at_path(disk.layer.layer_file()));
                }
                walk(repository, vm, &disk.layer)
            })
            .collect::<Result<Vec<u32>>>()?;
        self.drop_received(&session)?;
        self.verify_lock()?;
        let mut short = PointEntry::of(&point, Digest::of(&bytes), self.next_serial()?);
        short.name = arrival_name(repository, &entry.index, Some(name), name)?;
        for (disk, depth) in short.disks.iter_mut().zip(depths) {
            disk.depth = Some(depth);
        }
        let has_hidden =
            arriving.layers.len() > point.disks.len() || !entry.index.hidden.is_empty();
        let published = self.place_point(&mut entry, name, short)?;
        let (point, now) = (&published.entry.name, self.clock().now());
        self.keep_job(&Job::of_arrival(&session, arriving, point, now));
        if has_hidden {
            self.settle_arrived(&mut entry);
        }
        Ok(published)
    }

    /// The sidecar of a point that has arrived, and its bytes: proved, with the attached files.
    fn arrived_point(
        &self,
        entry: &VmEntry,
        session: &Session,
        arriving: &Arriving,
    ) -> Result<(Point, Vec<u8>)> {
        let (keys, stage) = (VmKeys::new(&session.vm)?, self.repository().stage());
        let dir = keys.session(&session.name)?;
        let key = dir.join(layout::POINT_FILE)?;
        let bytes = stage.get(&key, SIDECAR_BYTES_MAX)?;
        let found = Digest::of(&bytes);
        if found != arriving.point_blake3 || !is_sealed(&bytes) {
            let what = "the sidecar that arrived is not the one that was announced";
            return Err(Error::corrupt(what, arriving.point_blake3, found).at_path(key.as_str()));
        }
        let point: Point = parse(&bytes).at_path(key.as_str())?;
        if (point.point_id, point.vm_id) != (arriving.point_id, entry.vm.vm_id) {
            let what = "the sidecar that arrived is of another point or VM";
            return Err(
                Error::corrupt(what, arriving.point_id, point.point_id).at_path(key.as_str())
            );
        }
        let mut points = entry.index.points.iter();
        if let Some(other) = points.find(|other| other.seq == point.seq) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "{}@{} has the position {} in the order of the VM already",
                    session.vm, other.name, point.seq
                ),
            ));
        }
        let attached = dir.join(layout::ATTACHED)?;
        let files = absent_is_empty(stage.list(&attached))?;
        for stated in &point.attached {
            let key = attached.join(&stated.name)?;
            let found = Digest::of(&stage.get(&key, SIDECAR_BYTES_MAX)?);
            if found != stated.blake3 {
                let what = "an attached file that arrived is not the committed one";
                return Err(Error::corrupt(what, stated.blake3, found).at_path(key.as_str()));
            }
        }
        for file in files {
            if !point.attached.iter().any(|stated| stated.name == file.name) {
                stage.delete(&attached.join(&file.name)?)?;
            }
        }
        Ok((point, bytes))
    }

    /// Publishes a layer that has arrived, unless its content is in the slot.
    fn place_layer(&self, session: &Session, layer: &ArrivingLayer) -> Result<()> {
        let (vm, name) = (&session.vm, &session.name);
        if self.check_slot(vm, layer)? {
            return Ok(());
        }
        let (slot, id) = (&layer.slot, layer.layer_id);
        let (keys, stage) = (VmKeys::new(vm)?, self.repository().stage());
        if !self.repository().arrived(vm, name, slot, id)?.is_whole {
            return Err(Error::invalid(format!(
                "the layer {slot} of {vm}/{name} has not arrived as a whole"
            )));
        }
        let (from, from_sums) = (
            keys.arriving(name, slot, id)?,
            keys.arriving_sums(name, slot, id)?,
        );
        let file = LayerFile::of(stage.open(&from)?, slot)?;
        let sums = Sums::open(stage.open(&from_sums)?).at_path(from_sums.as_str())?;
        let summary = sums.summary();
        let found = (file.layer, summary.layer_id, summary.content_root());
        if found != (id, id, layer.content_root) || file.below != layer.below {
            let what = format!("the layer {slot} that arrived is not the one that was announced");
            return Err(Error::corrupt(what, id, file.layer).at_path(from.as_str()));
        }
        let mode = PutMode::Replace;
        // Sums that no layer has are garbage of a commit that was cut short.
        stage.publish(&from_sums, &keys.sums(slot, id)?, mode)?;
        stage.sync_prefix(&keys.layers()?)?;
        stage.publish(&from, &keys.layer(slot)?, PutMode::Create)?;
        stage.sync_prefix(&keys.layers()?)
    }

    /// Removes what of the sent layers is still in the session's directory, which becomes that of the point.
    fn drop_received(&self, session: &Session) -> Result<()> {
        let (keys, stage) = (VmKeys::new(&session.vm)?, self.repository().stage());
        let dir = keys.session(&session.name)?;
        let kept = [layout::SESSION_FILE, layout::POINT_FILE, layout::ATTACHED];
        for entry in stage.list(&dir)? {
            if !kept.contains(&entry.name.as_str()) {
                stage.delete(&dir.join(&entry.name)?)?;
            }
        }
        Ok(())
    }

    /// Records the hidden layers that came along. The next owner completes what fails here.
    fn settle_arrived(&self, entry: &mut VmEntry) {
        let vm = entry.vm.name.clone();
        match Look::at(self.repository(), &vm, &mut entry.index, None) {
            Ok((_, true)) => {
                if let Err(e) = self.write_index(entry) {
                    tracing::error!(vm = %vm, error = %e.report(), "the point is committed, but the index could not be written; it is repaired when the repository is next opened");
                }
            }
            Ok((_, false)) => {}
            Err(e) => {
                tracing::warn!(vm = %vm, error = %e.report(), "layers that came with a point could not be listed");
            }
        }
    }
}
