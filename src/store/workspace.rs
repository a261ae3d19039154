//! A workspace that lies apart from the store: publishing uploads.
//!
//! # Invariants
//! - A published file stays in the workspace until its session is over: a failed commit continues from it.
//! - A prefix is published by its `last` object, which is uploaded once all others are durable, and only if
//!   there is none. The next attempt, or the next owner, removes what an attempt left that ended before that
//!   upload.
//! - When a prefix leaves the workspace, `last` is removed last: until then its presence shows whether the
//!   prefix was published.

use std::sync::Arc;

use super::{Entry, HeldFile, Key, PutMode, Space, Stage, Store};
use crate::block::WriteAt;
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: deepest prefix that is published (our limit; a session is 2 deep).
const DEPTH_MAX: u32 = 64;

/// A stage in one place that publishes to a store in another.
pub struct Workspace {
    files: Arc<dyn Stage>,
    store: Arc<dyn Store>,
}

impl Workspace {
    /// A workspace whose files are in `files`, and which publishes to `store`.
    #[must_use]
    pub const fn new(files: Arc<dyn Stage>, store: Arc<dyn Store>) -> Self {
        Self { files, store }
    }

    fn upload_below(&self, from: &Key, to: &Key, skip: Option<&str>, depth: u32) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the directory to publish is deeper than {DEPTH_MAX}"),
            )
            .at_path(from.to_string()));
        }
        self.store.make_prefix(to)?;
        for entry in self.files.list(from)? {
            if skip == Some(entry.name.as_str()) {
                continue;
            }
            let (from, to) = (from.join(&entry.name)?, to.join(&entry.name)?);
            if entry.is_prefix {
                self.upload_below(&from, &to, None, depth + 1)?;
            } else {
                self.publish(&from, &to, PutMode::Create)?;
            }
        }
        Ok(())
    }

    /// Removes a published prefix from the workspace, and `last` after all other objects.
    fn remove(&self, prefix: &Key, last: &str) -> Result<()> {
        for entry in self.files.list(prefix)? {
            if entry.name != last {
                self.files.delete(&prefix.join(&entry.name)?)?;
            }
        }
        self.files.delete(prefix)
    }
}

fn absent_is_well(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Stage for Workspace {
    fn is_separate(&self) -> bool {
        true
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.files.make_prefix(prefix)
    }
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.files.create(key)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.files.open(key)
    }
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        self.files.hold_file(key)
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.files.put(key, bytes, mode)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.files.get(key, bytes_max)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.files.list(prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.files.delete(key)
    }
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        let file = self.files.open(from)?;
        self.store.upload(to, file.as_ref(), mode)
    }
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        drop(self.files.open(own)?);
        absent_is_well(self.store.delete(published))
    }
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        let (mark, from_mark) = (to.join(last)?, from.join(last)?);
        drop(self.files.open(&from_mark)?);
        match self.store.open(&mark) {
            Ok(_) => {
                return Err(
                    Error::new(ErrorKind::AlreadyExists, "it exists already").at_path(to.as_str())
                );
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        // Removes leftovers of a failed attempt.
        absent_is_well(self.store.delete_all(to))?;
        self.upload_below(from, to, Some(last), 0)?;
        self.publish(&from_mark, &mark, PutMode::Create)?;
        // The prefix is published. `last` identifies what is left of it in the workspace.
        if let Err(e) = self.remove(from, last) {
            tracing::warn!(prefix = %from, error = %e.report(), "published files are left in the workspace");
        }
        Ok(())
    }
    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.files.sync_prefix(prefix)
    }
    fn space(&self) -> Result<Option<Space>> {
        self.files.space()
    }
}

#[cfg(test)]
mod tests {
    use super::Workspace;
    use crate::block::filter::Power;
    use crate::error::ErrorKind;
    use crate::store::conformance::{check_stage, check_store};
    use crate::store::fault::{FaultStage, FaultStore, Faults, Moment};
    use crate::store::{Key, LocalStore, MemoryStore, PutMode, Stage, Store, VolatileStore};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    fn key(path: &str) -> Key {
        Key::parse(path).unwrap()
    }

    #[test]
    fn two_memory_stores_conform() {
        let (files, store) = (MemoryStore::new(), MemoryStore::new());
        let workspace = Workspace::new(Arc::new(files), Arc::new(store.clone()));
        check_stage(&workspace, Some(&store));
        // After the published objects are removed, the store is as empty as a new one.
        for name in ["layers", "points"] {
            store.delete_all(&key(name)).unwrap();
        }
        check_store(&store);
    }

    #[test]
    fn two_directories_conform() {
        let (files, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Arc::new(LocalStore::open(objects.path()).unwrap());
        let files = Arc::new(LocalStore::open(files.path()).unwrap());
        let workspace = Workspace::new(files, store.clone());
        check_stage(&workspace, Some(store.as_ref()));
        let mode = std::fs::metadata(objects.path().join("points/p/point.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o444);
    }

    #[test]
    fn stores_that_fail_or_lose_power_conform_while_they_do_not() {
        let faults = Faults::none();
        let store = FaultStore::new(Arc::new(MemoryStore::new()), &faults);
        let (store, files) = (Arc::new(store), Arc::new(MemoryStore::new()));
        let files = Arc::new(FaultStage::new(files, &faults));
        check_stage(&Workspace::new(files, store.clone()), Some(store.as_ref()));
        let volatile = || Arc::new(VolatileStore::new(&Power::steady(), &MemoryStore::new()));
        let (store, files) = (volatile(), volatile());
        check_stage(&Workspace::new(files, store.clone()), Some(store.as_ref()));
    }

    #[test]
    fn a_layer_keeps_its_holes() {
        let (files, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Arc::new(LocalStore::open(objects.path()).unwrap());
        let files = Arc::new(LocalStore::open(files.path()).unwrap());
        let workspace = Workspace::new(files, store.clone());
        let file = workspace.create(&key("f")).unwrap();
        file.write_at(64 << 20, &[7; 70_000]).unwrap();
        file.set_size(128 << 20).unwrap();
        workspace
            .publish(&key("f"), &key("g"), PutMode::Create)
            .unwrap();
        let object = std::fs::File::open(objects.path().join("g")).unwrap();
        assert_eq!(object.metadata().unwrap().len(), 128 << 20);
        assert!(crate::sys::hole::allocated_bytes(&object).unwrap() < 4 << 20);
        let mut bytes = [0; 3];
        let disk = Store::open(store.as_ref(), &key("g")).unwrap();
        disk.read_at((64 << 20) - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 7, 7]);
    }

    /// Fails each change of a publish in turn, either as its last one or once with a second attempt.
    #[test]
    fn whatever_change_fails_a_prefix_is_there_whole_or_not_visible() {
        let (dir, point, last) = (key("points/.s"), key("points/p"), key("points/p/last"));
        let prepare = || {
            let (files, store) = (MemoryStore::new(), MemoryStore::new());
            Stage::make_prefix(&files, &key("points/.s/attached")).unwrap();
            for name in ["points/.s/last", "points/.s/a", "points/.s/attached/b"] {
                Stage::put(&files, &key(name), name.as_bytes(), PutMode::Create).unwrap();
            }
            (files, store)
        };
        let run = |files: &MemoryStore, store: &MemoryStore, faults: &Arc<Faults>| {
            Workspace::new(
                Arc::new(FaultStage::new(Arc::new(files.clone()), faults)),
                Arc::new(FaultStore::new(Arc::new(store.clone()), faults)),
            )
            .publish_prefix(&dir, &point, "last")
        };
        let none = Faults::none();
        let (files, store) = prepare();
        run(&files, &store, &none).unwrap();
        assert!(none.changes() > 6, "{}", none.changes());
        for at in 0..none.changes() {
            for moment in [Moment::Before, Moment::After] {
                let (files, store) = prepare();
                let done = run(&files, &store, &Faults::kill_at(at, moment)).is_ok();
                let is_visible = Store::open(&store, &last).is_ok();
                assert!(is_visible || !done, "{at} {moment:?}");
                if is_visible {
                    let rest = Store::get(&store, &key("points/p/attached/b"), 99);
                    assert_eq!(rest.unwrap(), b"points/.s/attached/b");
                    let again = run(&files, &store, &Faults::none()).unwrap_err();
                    assert!(matches!(
                        again.kind(),
                        ErrorKind::AlreadyExists | ErrorKind::NotFound
                    ));
                } else {
                    run(&files, &store, &Faults::none()).unwrap();
                    assert!(Store::open(&store, &last).is_ok());
                    assert!(Stage::list(&files, &dir).is_err());
                }
            }
        }
    }
}
