//! Fault injection: stops a store and its stage at the nth change, so that tests can kill a writer at every instant.
//!
//! A *change* is any call that alters stored state: puts, uploads, appends, deletes, renames, locks,
//! publishes, and each write, flush, truncate and punch of a staged file. [`Faults`] counts the changes over
//! all stores that share it. From the chosen one on, every change fails and does nothing, as if the process
//! had been killed there. Reads still work; a test inspects the remaining state through a new store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Fingerprint, HeldFile, Identity, Key, Lock, PutMode, Space, Stage, Store};
use crate::block::{Extent, ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};

/// When the chosen change fails, relative to its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The change has no effect.
    Before,
    /// The change takes effect, but its caller receives an error: the answer was lost.
    After,
}

/// Counts changes, and fails the chosen one and all later ones.
#[derive(Debug)]
pub struct Faults {
    changes: AtomicU64,
    fail_at: u64,
    moment: Moment,
    kind: ErrorKind,
    /// Whether changes after the chosen one fail too.
    dead: bool,
}

impl Faults {
    /// A counter that fails nothing: for pass 1, which counts.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Self::kill_at(u64::MAX, Moment::Before)
    }

    /// Kills at change number `n`, from 0: it and all later ones fail with `Io`.
    #[must_use]
    pub fn kill_at(n: u64, moment: Moment) -> Arc<Self> {
        Arc::new(Self {
            changes: AtomicU64::new(0),
            fail_at: n,
            moment,
            kind: ErrorKind::Io,
            dead: true,
        })
    }

    /// Fails change number `n`, from 0, with `kind`; later ones work again.
    #[must_use]
    pub fn fail_once(n: u64, kind: ErrorKind) -> Arc<Self> {
        Arc::new(Self {
            changes: AtomicU64::new(0),
            fail_at: n,
            moment: Moment::Before,
            kind,
            dead: false,
        })
    }

    /// Changes requested so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn change<T>(&self, what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let n = self.changes.fetch_add(1, Ordering::SeqCst);
        let fault = || {
            Error::new(
                self.kind,
                format!("an injected fault at change {n} ({what})"),
            )
        };
        if n == self.fail_at {
            if self.moment == Moment::After {
                run()?;
            }
            return Err(fault());
        }
        if n > self.fail_at && self.dead {
            return Err(fault());
        }
        run()
    }
}

/// A store whose changes are counted and can be made to fail.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl FaultStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, faults: &Arc<Faults>) -> Self {
        Self {
            inner,
            faults: Arc::clone(faults),
        }
    }
}

impl Store for FaultStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.faults
            .change("put", || self.inner.put(key, bytes, mode))
    }
    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()> {
        self.faults
            .change("upload", || self.inner.upload(key, source, mode))
    }
    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        // The same steps as for a directory: it may exist while it is empty, and it may exist although its
        // fsync fails.
        self.faults
            .change("create", || self.inner.append(key, b""))?;
        self.faults
            .change("append", || self.inner.append(key, bytes))?;
        self.faults.change("flush", || Ok(()))
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.faults
            .change("make_prefix", || self.inner.make_prefix(prefix))
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(key, bytes_max)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(key)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.faults.change("delete", || self.inner.delete(key))
    }
    fn delete_all(&self, key: &Key) -> Result<()> {
        self.faults
            .change("delete_all", || self.inner.delete_all(key))
    }
    fn sweep(&self, prefix: &Key) -> Result<()> {
        self.faults.change("sweep", || self.inner.sweep(prefix))
    }
    fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.faults.change("rename", || self.inner.rename(from, to))
    }
    fn link(&self, from: &Key, to: &Key) -> Result<bool> {
        self.faults.change("link", || self.inner.link(from, to))
    }
    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>> {
        let inner = self.faults.change("lock", || self.inner.lock(key, note))?;
        Ok(Box::new(FaultLock {
            inner,
            faults: Arc::clone(&self.faults),
        }))
    }
    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.inner.lock_note(key)
    }
    fn identity(&self, key: &Key) -> Result<Option<Identity>> {
        self.inner.identity(key)
    }
    fn stored_bytes(&self, key: &Key) -> Result<u64> {
        self.inner.stored_bytes(key)
    }
    fn fingerprint(&self, key: &Key) -> Result<Option<Fingerprint>> {
        self.inner.fingerprint(key)
    }
    fn look_up_delay(&self) -> std::time::Duration {
        self.inner.look_up_delay()
    }
    fn local_root(&self) -> Option<&std::path::Path> {
        self.inner.local_root()
    }
    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }
}

struct FaultLock {
    inner: Box<dyn Lock>,
    faults: Arc<Faults>,
}

impl Lock for FaultLock {
    fn renew(&self, note: &[u8]) -> Result<()> {
        self.faults.change("renew", || self.inner.renew(note))
    }
    fn verify(&self) -> Result<()> {
        self.inner.verify()
    }
}

/// A stage whose changes, and those of its files, are counted and can be made to fail.
pub struct FaultStage {
    inner: Arc<dyn Stage>,
    faults: Arc<Faults>,
}

impl FaultStage {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Stage>, faults: &Arc<Faults>) -> Self {
        Self {
            inner,
            faults: Arc::clone(faults),
        }
    }

    fn file(&self, inner: Arc<dyn WriteAt>) -> Arc<dyn WriteAt> {
        Arc::new(FaultFile {
            inner,
            faults: Arc::clone(&self.faults),
        })
    }
}

impl Stage for FaultStage {
    fn is_separate(&self) -> bool {
        self.inner.is_separate()
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.faults
            .change("make_prefix", || self.inner.make_prefix(prefix))
    }
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.faults
            .change("create", || self.inner.create(key))
            .map(|file| self.file(file))
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.inner.open(key).map(|file| self.file(file))
    }
    fn clone_object(&self, published: &Key, to: &Key) -> Result<Option<Arc<dyn WriteAt>>> {
        self.faults
            .change("clone_object", || self.inner.clone_object(published, to))
            .map(|file| file.map(|file| self.file(file)))
    }
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        self.inner.hold_file(key)
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.faults
            .change("put", || self.inner.put(key, bytes, mode))
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(key, bytes_max)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.faults.change("delete", || self.inner.delete(key))
    }
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        self.faults
            .change("publish", || self.inner.publish(from, to, mode))
    }
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        self.faults
            .change("reclaim", || self.inner.reclaim(published, own))
    }
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        self.faults.change("publish_prefix", || {
            self.inner.publish_prefix(from, to, last)
        })
    }
    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.faults
            .change("sync_prefix", || self.inner.sync_prefix(prefix))
    }
    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }
}

struct FaultFile {
    inner: Arc<dyn WriteAt>,
    faults: Arc<Faults>,
}

impl ReadAt for FaultFile {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.inner.extent_at(offset, length_max)
    }
}

impl WriteAt for FaultFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.faults
            .change("write", || self.inner.write_at(offset, buf))
    }
    fn flush(&self) -> Result<()> {
        self.faults.change("flush", || self.inner.flush())
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.faults
            .change("set_size", || self.inner.set_size(size_bytes))
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.faults
            .change("punch", || self.inner.punch(offset, length_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{FaultStage, FaultStore, Faults, Moment};
    use crate::error::ErrorKind;
    use crate::store::conformance::{check_stage, check_store};
    use crate::store::{Key, MemoryStore, PutMode, Stage, Store};
    use std::sync::Arc;

    fn wrapped(memory: &MemoryStore, faults: &Arc<Faults>) -> (FaultStore, FaultStage) {
        (
            FaultStore::new(Arc::new(memory.clone()), faults),
            FaultStage::new(Arc::new(memory.clone()), faults),
        )
    }

    #[test]
    fn conforms_while_nothing_fails() {
        let faults = Faults::none();
        check_store(&wrapped(&MemoryStore::new(), &faults).0);
        let (store, stage) = wrapped(&MemoryStore::new(), &faults);
        check_stage(&stage, Some(&store));
        assert!(faults.changes() > 20);
    }

    #[test]
    fn a_kill_stops_every_later_change() {
        let (a, b) = (Key::parse("a").unwrap(), Key::parse("b").unwrap());
        for (moment, kept) in [(Moment::Before, 1), (Moment::After, 2)] {
            let memory = MemoryStore::new();
            let (store, stage) = wrapped(&memory, &Faults::kill_at(1, moment));
            store.put(&a, b"x", PutMode::Create).unwrap();
            assert!(stage.put(&b, b"y", PutMode::Create).is_err());
            assert!(stage.make_prefix(&Key::parse("c").unwrap()).is_err());
            assert_eq!(store.get(&a, 9).unwrap(), b"x");
            assert_eq!(store.list(&Key::root()).unwrap().len(), kept);
        }
        let memory = MemoryStore::new();
        let (store, _) = wrapped(&memory, &Faults::fail_once(0, ErrorKind::NoSpace));
        let error = store.put(&a, b"x", PutMode::Create).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        store.put(&a, b"x", PutMode::Create).unwrap();
    }
}
