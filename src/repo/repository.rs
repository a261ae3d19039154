//! Reading a repository, which any process may do, with or without a writer beside it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::format::Format;
use super::layout::{self, VmKeys};
use super::selector::Selector;
use super::sidecar::index::{Index, PointEntry, SERIAL_MAX};
use super::sidecar::point::{Attached, Point};
use super::sidecar::retained::Retained;
use super::sidecar::seal::is_sealed;
use super::sidecar::session::Session;
use super::sidecar::state::State;
use super::sidecar::vm::Vm;
use super::sidecar::{SIDECAR_BYTES_MAX, Sidecar, Unknown, encode, parse, parse_part};
use super::slot::Slot;
use super::sums::{LayerSums, Sums};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::local::LocalStore;
use crate::store::{Entry, Key, PutMode, Stage, Store};
use crate::task::{Monitor, on_threads, threads};
use crate::types::sync::Mutex;
use crate::types::{Digest, LayerId, PointName, VmName};

/// LIMIT: threads that read sidecars.
const READERS_MAX: usize = 8;

/// A listing; empty when the prefix does not exist.
pub(super) fn absent_is_empty(listing: Result<Vec<Entry>>) -> Result<Vec<Entry>> {
    match listing {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// A layer that is missing is damage for callers that look nowhere else.
fn missing_is_corrupt(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.with_kind(ErrorKind::Corrupt),
        _ => error,
    }
}

/// An open repository.
pub struct Repository {
    store: Arc<dyn Store>,
    stage: Arc<dyn Stage>,
    format: Format,
}

impl Repository {
    /// Opens the repository in a local directory.
    ///
    /// # Errors
    /// `NoRepository` when there is none; `Unsupported` when its format is newer than this release;
    /// `Corrupt`, `Io`.
    pub fn open(path: &Path) -> Result<Self> {
        let store = LocalStore::open(path)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    Self::none_there(&path.display().to_string())
                }
                _ => e,
            })
            .map(Arc::new)?;
        Self::open_store(Arc::clone(&store) as Arc<dyn Store>, store)
    }

    /// Opens the repository in any store.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_store(store: Arc<dyn Store>, stage: Arc<dyn Stage>) -> Result<Self> {
        let bytes = store
            .get(&layout::format()?, SIDECAR_BYTES_MAX)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => Self::none_there(&store.describe()),
                _ => e,
            })?;
        let format: Format = parse(&bytes).at_path(layout::FORMAT_FILE)?;
        format.check(false)?;
        Ok(Self {
            store,
            stage,
            format,
        })
    }

    fn none_there(place: &str) -> Error {
        Error::new(
            ErrorKind::NoRepository,
            format!("there is no repository in {place}"),
        )
        .advise("make one with: restorefs init DIR, or name another with --repo or RESTOREFS_REPO")
    }

    /// Makes a repository in a local directory, and the directory too; an existing directory must be empty.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a repository; `NotEmpty` when there are other files; `Io`.
    pub fn init(path: &Path, now: Timestamp) -> Result<Self> {
        let store = LocalStore::make(path).map(Arc::new)?;
        Self::init_store(Arc::clone(&store) as Arc<dyn Store>, store, now)
    }

    /// Finds a point: the VM's index, the point's entry in it, and the point itself.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`; `Io`.
    pub fn find(&self, selector: &Selector) -> Result<(Index, PointEntry, Point)> {
        let vm = self.spelled(&selector.vm)?;
        let index = self.index(&vm)?;
        let entry = selector.which.find(&index)?.clone();
        let point = self.point(&vm, &entry)?;
        Ok((index, entry, point))
    }

    /// Makes a repository in any store.
    ///
    /// # Errors
    /// As [`Repository::init`].
    pub fn init_store(
        store: Arc<dyn Store>,
        stage: Arc<dyn Stage>,
        now: Timestamp,
    ) -> Result<Self> {
        let entries = store.list(&Key::root())?;
        if entries.iter().any(|e| e.name == layout::FORMAT_FILE) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} is a repository already", store.describe()),
            ));
        }
        if let Some(other) = entries.iter().find(|e| e.name != "lost+found") {
            return Err(Error::new(
                ErrorKind::NotEmpty,
                format!("{} is not empty (it has {})", store.describe(), other.name),
            )
            .advise("name an empty or a new directory"));
        }
        for prefix in [layout::vms()?, layout::jobs()?, layout::trash()?] {
            store.make_prefix(&prefix)?;
        }
        stage.make_prefix(&layout::cache()?)?;
        let format = Format::new(now);
        store.put(&layout::format()?, &encode(&format)?, PutMode::Create)?;
        Ok(Self {
            store,
            stage,
            format,
        })
    }

    /// The repository's own sidecar.
    #[must_use]
    pub const fn format(&self) -> &Format {
        &self.format
    }

    /// The repository's own sidecar, read again: an owner may have rewritten it since it was opened.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `Io`.
    pub(super) fn format_now(&self) -> Result<Format> {
        self.load(&layout::format()?)
    }

    /// The store of committed objects.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The workspace, where sessions write.
    #[must_use]
    pub fn stage(&self) -> &Arc<dyn Stage> {
        &self.stage
    }

    pub(super) fn load<T: Sidecar>(&self, key: &Key) -> Result<T> {
        let bytes = self.store.get(key, SIDECAR_BYTES_MAX)?;
        parse(&bytes).at_path(key.as_str())
    }

    /// Names of all VMs, sorted.
    ///
    /// # Errors
    /// `Io`.
    pub fn vm_names(&self) -> Result<Vec<VmName>> {
        let entries = absent_is_empty(self.store.list(&layout::vms()?))?;
        Ok(entries
            .into_iter()
            .filter(|e| e.is_prefix)
            .filter_map(|e| VmName::new(e.name).ok())
            .collect())
    }

    /// The VM's name in its spelling on disk; the search ignores case.
    ///
    /// # Errors
    /// `NotFound` naming the VM; `Io`.
    pub fn spelled(&self, name: &VmName) -> Result<VmName> {
        let names = self.vm_names()?;
        names
            .into_iter()
            .find(|known| known.same_as(name))
            .ok_or_else(|| Self::no_such_vm(name))
    }

    fn no_such_vm(name: &VmName) -> Error {
        Error::not_found(format!("there is no VM {name}")).advise("list the VMs with: restorefs ls")
    }

    /// The VM's sidecar.
    ///
    /// # Errors
    /// `NotFound` naming the VM; `Corrupt`, also when the sidecar is missing and the VM has points; `Io`.
    pub fn vm(&self, name: &VmName) -> Result<Vm> {
        match self.load::<Vm>(&VmKeys::new(name)?.vm()?) {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.without_sidecar(name)?),
            Err(e) => Err(e),
            // A renamed VM has the name of its directory, also before its sidecars have it.
            Ok(vm) => Ok(Vm {
                name: name.clone(),
                ..vm
            }),
        }
    }

    /// The error for a VM without a sidecar: a directory without restore points is not a VM, and one with
    /// restore points has lost its sidecar.
    fn without_sidecar(&self, name: &VmName) -> Result<Error> {
        let keys = VmKeys::new(name)?;
        let entries = absent_is_empty(self.store.list(&keys.points()?))?;
        // Names of sessions begin with a dot.
        if !entries.iter().any(|e| PointName::new(&e.name).is_ok()) {
            return Ok(Self::no_such_vm(name));
        }
        Ok(Error::corrupt(
            format!("the sidecar of the VM {name} is missing, though the VM has restore points"),
            "vm.json",
            "no such file",
        )
        .at_path(keys.vm()?.as_str())
        .advise("restore the file from a copy of the repository"))
    }

    /// `index.json` as it stands, not compared with `points/`.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Corrupt`, `Io`.
    pub fn stored_index(&self, vm: &VmName) -> Result<Index> {
        let index = self.load::<Index>(&VmKeys::new(vm)?.index()?)?;
        Ok(Index {
            name: vm.clone(),
            ..index
        })
    }

    /// All points of a VM: `index.json` reconciled with the directory `points/`, which wins.
    ///
    /// # Errors
    /// `NotFound` naming the VM; `Corrupt`, `Io`.
    pub fn index(&self, vm: &VmName) -> Result<Index> {
        let sidecar = self.vm(vm)?;
        let stored = match self.stored_index(vm) {
            Ok(index) => index,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                if e.kind() == ErrorKind::Corrupt {
                    tracing::warn!(vm = %vm, error = %e.report(), "index.json cannot be read; the points' own sidecars are used");
                }
                Self::empty_index(&sidecar)
            }
            Err(e) => return Err(e),
        };
        let mut index = self.reconcile(vm, stored)?;
        // Points that the writer has not indexed yet get provisional serials.
        let mut provisional = SERIAL_MAX;
        for point in &mut index.points {
            if point.serial == 0 {
                point.serial = provisional;
                provisional -= 1;
            }
        }
        Ok(index)
    }

    /// [`Repository::index`] for many VMs, in their order, read on several threads.
    ///
    /// # Errors
    /// `Io` when a thread panicked; the errors of single VMs are in the returned list.
    pub fn indexes(&self, vms: &[VmName]) -> Result<Vec<Result<Index>>> {
        each_on_threads(vms, |vm| self.index(vm))
    }

    /// An index without points.
    #[must_use]
    pub fn empty_index(vm: &Vm) -> Index {
        Index {
            schema: Index::SCHEMA,
            vm_id: vm.vm_id,
            name: vm.name.clone(),
            serial: vm.serial,
            generation: 0,
            seq_high: 0,
            serial_high: vm.serial,
            points: Vec::new(),
            hidden: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// Adjusts `stored` to the points in `points/`; new points get serial 0.
    ///
    /// # Errors
    /// `Corrupt` when a point's sidecar cannot be read; `Io`.
    pub fn reconcile(&self, vm: &VmName, mut stored: Index) -> Result<Index> {
        let keys = VmKeys::new(vm)?;
        let names: Vec<String> = absent_is_empty(self.store.list(&keys.points()?))?
            .into_iter()
            .filter(|e| e.is_prefix)
            .map(|e| e.name)
            .collect();
        let listed: HashSet<&str> = names.iter().map(String::as_str).collect();
        stored
            .points
            .retain(|point| listed.contains(point.name.as_str()));
        let known: HashSet<String> = stored
            .points
            .iter()
            .map(|point| point.name.as_str().to_owned())
            .collect();
        for name in names
            .iter()
            .filter(|name| !name.starts_with('.') && !known.contains(*name))
        {
            let Ok(name) = PointName::new(name.as_str()) else {
                continue;
            };
            let (point, digest, _) = match self.point_with_digest(vm, &name) {
                // The point is being uploaded or copied, or whoever did that ended meanwhile; or it is no point at all.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            let mut entry = PointEntry::of(&point, digest, 0);
            // A copy of a point whose name was taken has another name here.
            entry.name = name;
            self.repeat_labels(vm, &mut entry)?;
            stored.points.push(entry);
        }
        stored.points.sort_by_key(|point| point.seq);
        let highest = stored.points.last().map_or(0, |point| point.seq);
        stored.seq_high = stored.seq_high.max(highest);
        Ok(stored)
    }

    /// Directories below `points/` that have files and no sidecar: points that somebody copies or restores, or whose sidecar is
    /// lost. Nobody lists them, and nothing is cleaned up while there is one, as nobody knows which layers it needs.
    ///
    /// # Errors
    /// `Io`.
    pub fn points_without_sidecar(&self, vm: &VmName, index: &Index) -> Result<Vec<String>> {
        let prefix = VmKeys::new(vm)?.points()?;
        let known: HashSet<&str> = index.points.iter().map(|p| p.name.as_str()).collect();
        let mut without = Vec::new();
        for entry in absent_is_empty(self.store.list(&prefix))? {
            if !entry.is_prefix
                || known.contains(entry.name.as_str())
                || entry.name.starts_with('.')
            {
                continue;
            }
            let files = absent_is_empty(self.store.list(&prefix.join(&entry.name)?))?;
            if !files.is_empty() && !files.iter().any(|f| f.name == layout::POINT_FILE) {
                without.push(entry.name);
            }
        }
        Ok(without)
    }

    /// What the last run of retention has kept of a VM; `None` when there was none.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn retained(&self, vm: &VmName) -> Result<Option<Retained>> {
        match self.load(&VmKeys::new(vm)?.retained()?) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// A point's sidecar, the hash of its bytes, and whether it carries its own hash.
    fn point_with_digest(&self, vm: &VmName, name: &PointName) -> Result<(Point, Digest, bool)> {
        let key = VmKeys::new(vm)?.point_file(name)?;
        let bytes = self
            .store
            .get(&key, SIDECAR_BYTES_MAX)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => {
                    Error::not_found(format!("there is no restore point {vm}@{name}"))
                        .advise(format!("list the points with: restorefs ls {vm}"))
                }
                _ => e,
            })?;
        let point = parse::<Point>(&bytes).at_path(key.as_str())?;
        Ok((point, Digest::of(&bytes), is_sealed(&bytes)))
    }

    /// A point's sidecar, proved against the hash that it carries and the hash in the index. Where only the
    /// index disagrees, the sidecar is right.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when its bytes differ from the committed ones; `Io`.
    pub fn point(&self, vm: &VmName, entry: &PointEntry) -> Result<Point> {
        match self.point_and_doubt(vm, entry)? {
            (point, None) => Ok(point),
            (point, Some(doubt)) => {
                tracing::warn!(vm = %vm, point = %entry.name, error = %doubt.report(), "the point's own sidecar is believed");
                Ok(point)
            }
        }
    }

    /// [`Repository::point`], with the disagreement of the index, if any.
    pub(super) fn point_and_doubt(
        &self,
        vm: &VmName,
        entry: &PointEntry,
    ) -> Result<(Point, Option<Error>)> {
        let (point, digest, is_sealed) = self.point_with_digest(vm, &entry.name)?;
        if digest == entry.point_blake3 {
            return Ok((point, None));
        }
        let keys = VmKeys::new(vm)?;
        if is_sealed && point.point_id == entry.point_id {
            let doubt = Error::corrupt(
                format!(
                    "index.json has another hash of the sidecar of {}",
                    entry.name
                ),
                digest,
                entry.point_blake3,
            );
            return Ok((point, Some(doubt.at_path(keys.index()?.as_str()))));
        }
        Err(Error::corrupt(
            "a point sidecar differs from the committed one",
            entry.point_blake3,
            digest,
        )
        .at_path(keys.point_file(&entry.name)?.as_str()))
    }

    /// The exact bytes of an attached file, proved against the hash in `stated`, which comes from the point's
    /// own sidecar.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`; `Io`.
    pub fn attached(&self, vm: &VmName, point: &PointName, stated: &Attached) -> Result<Vec<u8>> {
        let key = VmKeys::new(vm)?
            .point(point)?
            .join(layout::ATTACHED)?
            .join(&stated.name)?;
        let bytes = self.store.get(&key, SIDECAR_BYTES_MAX)?;
        let found = Digest::of(&bytes);
        if found != stated.blake3 {
            return Err(Error::corrupt(
                "an attached file differs from the committed one",
                stated.blake3,
                found,
            )
            .at_path(key.as_str()));
        }
        Ok(bytes)
    }

    /// Opens a committed layer.
    ///
    /// # Errors
    /// `Corrupt` when it is missing (the chain is broken); `Io`.
    pub fn open_layer(&self, vm: &VmName, slot: &Slot) -> Result<Arc<dyn ReadAt>> {
        self.find_layer(vm, slot).map_err(missing_is_corrupt)
    }

    /// [`Repository::open_layer`] for callers that know where else to look for a layer.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Io`.
    pub fn find_layer(&self, vm: &VmName, slot: &Slot) -> Result<Arc<dyn ReadAt>> {
        let key = VmKeys::new(vm)?.layer(slot)?;
        self.store.open(&key).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::corrupt("a layer is missing", key.as_str(), "no such file")
                .with_kind(ErrorKind::NotFound)
                .at_path(key.as_str())
                .advise("repair it from a copy of the repository (restorefs repair VM --from REPOSITORY); points that do not need it are unharmed"),
            _ => e.at_path(key.as_str()),
        })
    }

    /// Opens the sums of a committed layer.
    ///
    /// # Errors
    /// `Corrupt` when they are missing or belong to another layer; `Io`.
    pub fn open_sums(&self, vm: &VmName, slot: &Slot, layer: LayerId) -> Result<LayerSums> {
        self.find_sums(vm, slot, layer).map_err(missing_is_corrupt)
    }

    /// [`Repository::open_sums`] for callers that know where else to look for sums.
    ///
    /// # Errors
    /// `NotFound` when they are missing; `Corrupt` when they belong to another layer; `Io`.
    pub fn find_sums(&self, vm: &VmName, slot: &Slot, layer: LayerId) -> Result<LayerSums> {
        let key = VmKeys::new(vm)?.sums(slot, layer)?;
        let file = self.store.open(&key).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::corrupt(
                "the sums of a layer are missing",
                key.as_str(),
                "no such file",
            )
            .with_kind(ErrorKind::NotFound),
            _ => e,
        });
        let sums = Sums::open(file?).at_path(key.as_str())?;
        if sums.summary().layer_id != layer {
            return Err(
                Error::corrupt("sums of another layer", layer, sums.summary().layer_id)
                    .at_path(key.as_str()),
            );
        }
        Ok(sums)
    }

    /// Names of a VM's sessions, sorted.
    ///
    /// # Errors
    /// `Io`.
    pub fn session_names(&self, vm: &VmName) -> Result<Vec<PointName>> {
        let prefix = VmKeys::new(vm)?.points()?;
        Ok(absent_is_empty(self.stage.list(&prefix))?
            .iter()
            .filter(|e| e.is_prefix)
            .filter_map(|e| layout::session_name(&e.name))
            .collect())
    }

    /// Sidecars of a VM's sessions, by name. A session that is just beginning has none yet, and is left out: a use of its parent keeps what
    /// it needs, and only it names the layers that it makes.
    ///
    /// # Errors
    /// `Corrupt` when one cannot be read; `Io`.
    pub(super) fn sessions(&self, vm: &VmName) -> Result<Vec<Session>> {
        let mut sessions = Vec::new();
        for name in self.session_names(vm)? {
            match self.session(vm, &name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => sessions.push(other?),
            }
        }
        Ok(sessions)
    }

    /// A session's sidecar.
    ///
    /// # Errors
    /// `NotFound` naming the session; `Corrupt`, `Io`.
    pub fn session(&self, vm: &VmName, name: &PointName) -> Result<Session> {
        let key = VmKeys::new(vm)?.session_file(name)?;
        let bytes = self
            .stage
            .get(&key, SIDECAR_BYTES_MAX)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::not_found(format!("there is no session {vm}/{name}"))
                    .advise("list the sessions with: restorefs sessions"),
                _ => e,
            })?;
        parse(&bytes).at_path(key.as_str())
    }

    /// The summary of a point's volumes in its state; `V` has the wanted members. `None` when the point was
    /// not probed yet.
    ///
    /// # Errors
    /// As [`Repository::state`].
    pub fn volumes_in_short<V: DeserializeOwned>(
        &self,
        vm: &VmName,
        point: &PointEntry,
    ) -> Result<Option<V>> {
        #[derive(Deserialize)]
        struct Part<V> {
            #[serde(default = "Option::default")]
            volumes: Option<V>,
        }
        let key = VmKeys::new(vm)?.state(point.point_id)?;
        let bytes = match self.store.get(&key, SIDECAR_BYTES_MAX) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if let Some(Part { volumes }) = parse_part::<State, Part<V>>(&bytes) {
            return Ok(volumes);
        }
        let state: State = parse(&bytes).at_path(key.as_str())?;
        let volumes = state.volumes.map(serde_json::from_value).transpose();
        volumes.map_err(|e| {
            let what = "what the state of the point has of its volumes cannot be read";
            Error::corrupt(what, "JSON of volumes.json", e).at_path(key.as_str())
        })
    }

    /// The changing facts of a point; a fresh state when none was written.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn state(&self, vm: &VmName, point: &PointEntry) -> Result<State> {
        match self.load(&VmKeys::new(vm)?.state(point.point_id)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(State {
                schema: State::SCHEMA,
                point_id: point.point_id,
                tags: std::collections::BTreeMap::new(),
                kept: false,
                copies: Vec::new(),
                damage: None,
                volumes: None,
                unknown: Unknown::new(),
            }),
            other => other,
        }
    }
}

/// The results of `look` for each VM, in their order, on several threads.
///
/// # Errors
/// `Io` when a thread panicked.
pub fn each_on_threads<T: Send>(
    vms: &[VmName],
    look: impl Fn(&VmName) -> Result<T> + Sync,
) -> Result<Vec<Result<T>>> {
    let found: Vec<Mutex<Option<Result<T>>>> = vms.iter().map(|_| Mutex::new(None)).collect();
    let mut next = vms.iter().zip(&found);
    on_threads(
        threads(None, READERS_MAX.min(vms.len())),
        &Monitor::default(),
        || Ok(next.next()),
        || (),
        |(), (vm, slot)| {
            *slot.lock() = Some(look(vm));
            Ok(())
        },
    )?;
    let missing = || Error::new(ErrorKind::Io, "a VM was not looked at");
    let found = found.into_iter().map(Mutex::into_inner);
    Ok(found
        .map(|found| found.unwrap_or_else(|| Err(missing())))
        .collect())
}
