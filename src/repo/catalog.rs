//! The owner's catalog: VMs and points in a redb database, for answers without reading sidecars.
//!
//! # Invariants
//! The catalog can always be rebuilt. It is dropped and built anew when it is missing, damaged, or of another
//! repository or version. A VM in it is replaced when its `generation` differs from that of `index.json`.
//!
//! # Why
//! After one failed write redb rejects every operation until it is opened again. So a catalog that has failed
//! is *behind*: the owner opens it again and fills it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::clean::CleanVm;
use super::sidecar::index::{Index, PointEntry};
use super::sidecar::{encode, parse};
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, Stage};
use crate::types::sync::RwLock;
use crate::types::{RepositoryId, VmName};

/// VM name -> its index without points, as JSON.
const VMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vms");
/// (VM name, seq) -> summary of the point, as JSON.
const POINTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("points");
/// `repository_id`, `version`, `serial_high`.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// VM name -> the marks of the VM at a clean end, as JSON.
const CLEAN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("clean");
/// Key in `META` that is present from a clean end to the next opening.
const CLEAN_END: &str = "clean_end";
/// Version of these tables. A release with another version builds the catalog anew.
const VERSION: &[u8] = b"2";
/// LIMIT: memory of redb's cache.
const CACHE_BYTES: usize = 16 << 20;

/// The open catalog.
pub struct Catalog {
    /// `None` while it cannot be opened again.
    database: RwLock<Option<Database>>,
    repository: RepositoryId,
    is_behind: AtomicBool,
}

/// A file of the stage with the interface that redb needs; the store's fault filters apply to it, too.
struct StageFile(Arc<dyn WriteAt>);

impl std::fmt::Debug for StageFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StageFile")
    }
}

fn to_io(error: Error) -> std::io::Error {
    let kind = match error.kind() {
        ErrorKind::NoSpace => std::io::ErrorKind::StorageFull,
        ErrorKind::NotFound => std::io::ErrorKind::NotFound,
        _ => std::io::ErrorKind::Other,
    };
    std::io::Error::new(kind, error)
}

impl StorageBackend for StageFile {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.size_bytes())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, out).map_err(to_io)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_size(len).map_err(to_io)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.flush().map_err(to_io)
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, data).map_err(to_io)
    }
}

fn broken(error: impl Into<redb::Error>) -> Error {
    let error: redb::Error = error.into();
    let kind = match &error {
        redb::Error::Io(e) => ErrorKind::of_io(e),
        redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "the catalog cannot be used")
        .at_path("catalog.redb")
        .advise("it can be rebuilt: restorefs rebuild-catalog")
        .caused_by(error)
}

impl Catalog {
    /// Opens the catalog of `repository`, or makes an empty one when it is missing, damaged or of another
    /// repository. Also returns the VMs that a clean end recorded; the caller brings every other VM up to
    /// date.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn open(
        stage: &dyn Stage,
        repository: RepositoryId,
    ) -> Result<(Self, HashMap<String, CleanVm>)> {
        let (database, clean) = Self::open_database(stage, repository)?;
        let catalog = Self {
            database: RwLock::new(Some(database)),
            repository,
            is_behind: AtomicBool::new(false),
        };
        Ok((catalog, clean))
    }

    /// Marks a clean end. `changed` are the VMs that were examined since the catalog was opened; a value is
    /// `None` when the VM is not in order. The catalog keeps marks only of the VMs in `vms`.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn mark_clean(
        &self,
        vms: &HashSet<&str>,
        changed: &[(VmName, Option<CleanVm>)],
    ) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(broken)?;
            {
                let mut clean = write.open_table(CLEAN).map_err(broken)?;
                clean.retain(|name, _| vms.contains(name)).map_err(broken)?;
                for (vm, row) in changed {
                    match row {
                        Some(row) => {
                            let bytes = serde_json::to_vec(row).map_err(|e| {
                                Error::invalid("a row of the catalog cannot be encoded")
                                    .caused_by(e)
                            })?;
                            clean
                                .insert(vm.as_str(), bytes.as_slice())
                                .map_err(broken)?;
                        }
                        None => {
                            clean.remove(vm.as_str()).map_err(broken)?;
                        }
                    }
                }
                let mut meta = write.open_table(META).map_err(broken)?;
                meta.insert(CLEAN_END, [1].as_slice()).map_err(broken)?;
            }
            write.commit().map_err(broken)
        })
    }

    /// Whether a read or write has failed: the catalog must be opened again and filled.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    /// Records that a change was not written to the catalog.
    pub(super) fn note_behind(&self) {
        self.is_behind.store(true, Ordering::SeqCst);
    }

    /// Opens the catalog again; the caller then replaces every VM in it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the catalog then stays behind.
    pub fn reopen(&self, stage: &dyn Stage) -> Result<()> {
        let mut database = self.database.write();
        // The old database must release the file first.
        drop(database.take());
        let (opened, _) = Self::open_database(stage, self.repository)?;
        *database = Some(opened);
        self.is_behind.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let held = self.database.read();
        let done = match held.as_ref() {
            Some(database) => work(database),
            None => Err(Error::new(
                ErrorKind::Io,
                "the catalog could not be opened again",
            )),
        };
        if done.is_err() {
            self.note_behind();
        }
        done
    }

    fn open_database(
        stage: &dyn Stage,
        repository: RepositoryId,
    ) -> Result<(Database, HashMap<String, CleanVm>)> {
        let key = Key::parse("catalog.redb")?;
        match stage.open(&key) {
            Ok(file) => match Self::load(file, repository) {
                Ok(loaded) => return Ok(loaded),
                Err(e) => {
                    tracing::warn!(error = %e.report(), "the catalog is rebuilt from the sidecars");
                    stage.delete(&key)?;
                }
            },
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::debug!("no catalog yet; it is built from the sidecars");
            }
            Err(e) => return Err(e),
        }
        Self::load(stage.create(&key)?, repository)
    }

    /// Records another id of the repository, which this catalog describes as before.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn renew_id(&self, repository: RepositoryId) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(broken)?;
            {
                let mut meta = write.open_table(META).map_err(broken)?;
                let id = repository.to_bytes();
                meta.insert("repository_id", id.as_slice())
                    .map_err(broken)?;
            }
            write.commit().map_err(broken)
        })
    }

    /// Opens the database and removes the mark of a clean end; the next clean end sets it again.
    fn load(
        file: Arc<dyn WriteAt>,
        repository: RepositoryId,
    ) -> Result<(Database, HashMap<String, CleanVm>)> {
        let fresh = file.size_bytes() == 0;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(StageFile(file))
            .map_err(broken)?;
        let id = repository.to_bytes();
        let mut clean = HashMap::new();
        let write = database.begin_write().map_err(broken)?;
        {
            let mut meta = write.open_table(META).map_err(broken)?;
            write.open_table(VMS).map_err(broken)?;
            write.open_table(POINTS).map_err(broken)?;
            let rows = write.open_table(CLEAN).map_err(broken)?;
            if fresh {
                meta.insert("repository_id", id.as_slice())
                    .map_err(broken)?;
                meta.insert("version", VERSION).map_err(broken)?;
            } else {
                let same = |name: &str, want: &[u8]| -> Result<bool> {
                    Ok(meta
                        .get(name)
                        .map_err(broken)?
                        .is_some_and(|found| found.value() == want))
                };
                if !same("repository_id", &id)? || !same("version", VERSION)? {
                    return Err(Error::corrupt(
                        "the catalog is of another repository or version",
                        repository,
                        "another id",
                    ));
                }
            }
            if meta.remove(CLEAN_END).map_err(broken)?.is_some() {
                for row in rows.iter().map_err(broken)? {
                    let (name, bytes) = row.map_err(broken)?;
                    // An unreadable row counts as missing.
                    if let Ok(row) = serde_json::from_slice(bytes.value()) {
                        clean.insert(name.value().to_owned(), row);
                    }
                }
            }
        }
        write.commit().map_err(broken)?;
        Ok((database, clean))
    }

    /// The index of a VM as the catalog has it.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn index(&self, vm: &VmName) -> Result<Option<Index>> {
        self.with(|database| {
            let read = database.begin_read().map_err(broken)?;
            let vms = read.open_table(VMS).map_err(broken)?;
            let Some(bytes) = vms.get(vm.as_str()).map_err(broken)? else {
                return Ok(None);
            };
            let mut index: Index = parse(bytes.value())?;
            let points = read.open_table(POINTS).map_err(broken)?;
            for row in points
                .range((vm.as_str(), 0)..=(vm.as_str(), u64::MAX))
                .map_err(broken)?
            {
                let (_, bytes) = row.map_err(broken)?;
                let point: PointEntry = serde_json::from_slice(bytes.value()).map_err(|e| {
                    Error::corrupt("a point in the catalog cannot be read", "JSON", e)
                })?;
                index.points.push(point);
            }
            Ok(Some(index))
        })
    }

    /// Generation of a VM's index as the catalog has it.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn generation(&self, vm: &VmName) -> Result<Option<u64>> {
        self.with(|database| {
            let read = database.begin_read().map_err(broken)?;
            let vms = read.open_table(VMS).map_err(broken)?;
            match vms.get(vm.as_str()).map_err(broken)? {
                Some(bytes) => Ok(Some(parse::<Index>(bytes.value())?.generation)),
                None => Ok(None),
            }
        })
    }

    /// Names of all VMs in the catalog.
    ///
    /// # Errors
    /// `Io`.
    pub fn vm_names(&self) -> Result<Vec<VmName>> {
        self.with(|database| {
            let read = database.begin_read().map_err(broken)?;
            let vms = read.open_table(VMS).map_err(broken)?;
            let mut names = Vec::new();
            for row in vms.iter().map_err(broken)? {
                names.push(VmName::new(row.map_err(broken)?.0.value())?);
            }
            Ok(names)
        })
    }

    /// Replaces everything that the catalog has of a VM; `None` removes it. Unchanged points are not written
    /// again.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn replace(&self, vm: &VmName, index: Option<&Index>) -> Result<()> {
        self.replace_all([(vm, index)])
    }

    /// [`Catalog::replace`] for many VMs in one transaction.
    ///
    /// # Errors
    /// As [`Catalog::replace`]; nothing is replaced then.
    pub fn replace_all<'a>(
        &self,
        vms: impl IntoIterator<Item = (&'a VmName, Option<&'a Index>)>,
    ) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(broken)?;
            for (vm, index) in vms {
                let mut vms = write.open_table(VMS).map_err(broken)?;
                let mut points = write.open_table(POINTS).map_err(broken)?;
                match index {
                    Some(index) => {
                        let short = Index {
                            points: Vec::new(),
                            ..index.clone()
                        };
                        vms.insert(vm.as_str(), encode(&short)?.as_slice())
                            .map_err(broken)?;
                    }
                    None => {
                        vms.remove(vm.as_str()).map_err(broken)?;
                    }
                }
                let wanted: std::collections::BTreeSet<u64> = index
                    .map(|i| i.points.iter().map(|p| p.seq).collect())
                    .unwrap_or_default();
                points
                    .retain_in((vm.as_str(), 0)..=(vm.as_str(), u64::MAX), |(_, seq), _| {
                        wanted.contains(&seq)
                    })
                    .map_err(broken)?;
                for point in index.into_iter().flat_map(|i| &i.points) {
                    let bytes = serde_json::to_vec(point)
                        .map_err(|e| Error::invalid("a point cannot be encoded").caused_by(e))?;
                    let row = (vm.as_str(), point.seq);
                    let same = points
                        .get(row)
                        .map_err(broken)?
                        .is_some_and(|old| old.value() == bytes.as_slice());
                    if !same {
                        points.insert(row, bytes.as_slice()).map_err(broken)?;
                    }
                }
            }
            write.commit().map_err(broken)
        })
    }

    /// Adds one point and the index's counters, at a commit.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn add_point(&self, vm: &VmName, index: &Index, point: &PointEntry) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(broken)?;
            {
                let mut vms = write.open_table(VMS).map_err(broken)?;
                let mut points = write.open_table(POINTS).map_err(broken)?;
                let short = Index {
                    points: Vec::new(),
                    ..index.clone()
                };
                vms.insert(vm.as_str(), encode(&short)?.as_slice())
                    .map_err(broken)?;
                let bytes = serde_json::to_vec(point)
                    .map_err(|e| Error::invalid("a point cannot be encoded").caused_by(e))?;
                points
                    .insert((vm.as_str(), point.seq), bytes.as_slice())
                    .map_err(broken)?;
            }
            write.commit().map_err(broken)
        })
    }
}
