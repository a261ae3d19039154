//! A store and a stage that lose everything not durable when their power is cut: for tests of crash
//! consistency.
//!
//! Files are [`Volatile`] disks. A name is durable after [`Stage::sync_prefix`] of its prefix, or where a
//! call promises it. Each sync of a directory is one flush of the [`Power`], so that a test can cut the power
//! at every one.
//!
//! # Faults that must be survived
//! Of the changes of names since the last flush that covers them, any leading part may have reached the disk,
//! in their order (filesystems with a journal commit in order). The content of the files behind them is what
//! [`Volatile::after_power_loss`] leaves.

use std::sync::{Arc, MutexGuard};

use super::{
    Entry, Fingerprint, HeldFile, Identity, Key, Lock, MemoryStore, PutMode, Space, Stage, Store,
    transfer,
};
use crate::block::filter::{Power, Volatile};
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;

#[derive(Clone)]
enum Change {
    Make(Key),
    Create(Key, Arc<Volatile>),
    Put(Key, Vec<u8>),
    Delete(Key),
    Link(Key, Key),
    Rename(Key, Key, PutMode),
}

impl Change {
    /// The name that this change creates.
    const fn gives(&self) -> Option<&Key> {
        match self {
            Self::Make(key)
            | Self::Create(key, _)
            | Self::Put(key, _)
            | Self::Link(_, key)
            | Self::Rename(_, key, _) => Some(key),
            Self::Delete(_) => None,
        }
    }

    /// The name that this change removes.
    const fn takes(&self) -> Option<&Key> {
        match self {
            Self::Delete(key) | Self::Rename(key, _, _) => Some(key),
            _ => None,
        }
    }

    /// Applies the change again. When the power cut lost what it depends on, this change is lost too.
    fn apply(&self, store: &MemoryStore, seed: u64) {
        let _ = match self {
            Self::Make(key) => Stage::make_prefix(store, key),
            Self::Create(key, disk) => disk
                .after_power_loss(seed)
                .and_then(|disk| store.insert(key, Arc::new(disk))),
            Self::Put(key, bytes) => Store::put(store, key, bytes, PutMode::Replace),
            Self::Delete(key) => Stage::delete(store, key),
            Self::Link(from, to) => store.link(from, to).map(drop),
            Self::Rename(from, to, PutMode::Create) => store.rename(from, to),
            Self::Rename(from, to, PutMode::Replace) => store.publish(from, to, PutMode::Replace),
        };
    }
}

struct Logged {
    change: Change,
    durable: bool,
}

/// A store in memory that a power cut returns to its durable state.
pub struct VolatileStore {
    power: Arc<Power>,
    /// The content when the power went on.
    base: MemoryStore,
    /// The content that a running machine sees.
    live: MemoryStore,
    log: Mutex<Vec<Logged>>,
}

fn is_below(key: &Key, prefix: &Key) -> bool {
    key.as_str()
        .strip_prefix(prefix.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.as_str().is_empty())
}

impl VolatileStore {
    /// A store that holds the content of `base`, durably.
    #[must_use]
    pub fn new(power: &Arc<Power>, base: &MemoryStore) -> Self {
        Self {
            power: Arc::clone(power),
            base: base.snapshot(),
            live: base.snapshot(),
            log: Mutex::new(Vec::new()),
        }
    }

    /// The content that the next boot finds. Each seed is one possible outcome: seed 0 loses all that was not
    /// durable, seed 1 loses nothing.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> MemoryStore {
        let found = self.base.snapshot();
        let log = self.log();
        let pending = log.iter().filter(|logged| !logged.durable).count();
        let kept = match seed {
            0 => 0,
            1 => pending,
            seed => {
                usize::try_from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).unwrap_or(0)
                    % (pending + 1)
            }
        };
        let mut n = 0;
        for (logged, at) in log.iter().zip(0u64..) {
            if !logged.durable {
                n += 1;
            }
            if logged.durable || n <= kept {
                // Seeds 0 and 1 have the same meaning for files.
                let seed = if seed < 2 {
                    seed
                } else {
                    seed.wrapping_add(at << 32)
                };
                logged.change.apply(&found, seed);
            }
        }
        found
    }

    fn log(&self) -> MutexGuard<'_, Vec<Logged>> {
        self.log.lock()
    }

    fn push(&self, change: Change) {
        self.log().push(Logged {
            change,
            durable: false,
        });
    }

    /// Makes durable the changes that `covers` picks, and the changes that created the names that those
    /// removed.
    fn settle(&self, covers: impl Fn(&Key) -> bool) -> Result<()> {
        self.power.flush()?;
        let mut needed: Vec<Key> = Vec::new();
        for logged in self.log().iter_mut().rev() {
            let (gives, takes) = (logged.change.gives(), logged.change.takes());
            let is_needed = gives.is_some_and(|key| needed.iter().any(|need| is_below(need, key)));
            if is_needed || gives.is_some_and(&covers) || takes.is_some_and(&covers) {
                needed.extend(takes.cloned());
                logged.durable = true;
            }
        }
        Ok(())
    }

    /// Simulates fsync of the directory `prefix`.
    fn settle_prefix(&self, prefix: &Key) -> Result<()> {
        self.settle(|key| key.parent().as_ref() == Some(prefix))
    }

    fn settle_parent(&self, key: &Key) -> Result<()> {
        self.settle_prefix(&key.parent().unwrap_or_else(Key::root))
    }

    fn make(&self, prefix: &Key) -> Result<()> {
        self.power.check()?;
        if Store::list(&self.live, prefix).is_ok() {
            return Ok(());
        }
        if let Some(parent) = prefix.parent() {
            self.make(&parent)?;
        }
        Stage::make_prefix(&self.live, prefix)?;
        self.push(Change::Make(prefix.clone()));
        self.settle_parent(prefix)
    }

    fn delete_below(&self, key: &Key) -> Result<()> {
        self.power.check()?;
        Stage::delete(&self.live, key)?;
        self.push(Change::Delete(key.clone()));
        self.settle_parent(key)
    }

    fn create_file(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.power.check()?;
        let disk = Arc::new(Volatile::new(&self.power));
        self.live.insert(key, Arc::<Volatile>::clone(&disk))?;
        self.push(Change::Create(key.clone(), Arc::clone(&disk)));
        Ok(disk)
    }

    fn put_durably(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.make(&key.parent().unwrap_or_else(Key::root))?;
        self.power.flush()?;
        Store::put(&self.live, key, bytes, mode)?;
        self.push(Change::Put(key.clone(), bytes.to_vec()));
        self.settle_parent(key)
    }

    /// Flushes the content of every file at or below `prefix`.
    fn flush_files(&self, prefix: &Key) -> Result<()> {
        let mut todo = vec![prefix.clone()];
        while let Some(key) = todo.pop() {
            match Stage::list(&self.live, &key) {
                Ok(entries) => {
                    for entry in entries {
                        todo.push(key.join(&entry.name)?);
                    }
                }
                Err(_) => Stage::open(&self.live, &key)?.flush()?,
            }
        }
        Ok(())
    }
}

impl Store for VolatileStore {
    fn describe(&self) -> String {
        "volatile memory".to_owned()
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.put_durably(key, bytes, mode)
    }
    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()> {
        let mut bytes = vec![0; usize_from_u64(source.size_bytes())];
        source.read_at(0, &mut bytes)?;
        self.put_durably(key, &bytes, mode)
    }
    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.power.check()?;
        let (file, is_new) = match Stage::open(&self.live, key) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.make(&key.parent().unwrap_or_else(Key::root))?;
                (self.create_file(key)?, true)
            }
            other => (other?, false),
        };
        file.write_at(file.size_bytes(), bytes)?;
        file.flush()?;
        if is_new {
            self.settle_parent(key)?;
        }
        Ok(())
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.make(prefix)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.power.check()?;
        Store::get(&self.live, key, bytes_max)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        self.power.check()?;
        Store::open(&self.live, key)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.power.check()?;
        Store::list(&self.live, prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.power.check()?;
        Store::delete(&self.live, key)?;
        self.push(Change::Delete(key.clone()));
        self.settle_parent(key)
    }
    fn delete_all(&self, key: &Key) -> Result<()> {
        self.delete_below(key)
    }
    fn sweep(&self, _prefix: &Key) -> Result<()> {
        self.power.check()
    }
    fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.power.check()?;
        // The live store makes missing parents; they are not durable by themselves, and come back with the
        // rename.
        self.live.rename(from, to)?;
        self.push(Change::Rename(from.clone(), to.clone(), PutMode::Create));
        self.settle_parent(to)
    }
    fn link(&self, from: &Key, to: &Key) -> Result<bool> {
        self.power.check()?;
        self.live.link(from, to)?;
        self.push(Change::Link(from.clone(), to.clone()));
        self.settle_parent(to)?;
        Ok(true)
    }
    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>> {
        self.power.check()?;
        self.live.lock(key, note)
    }
    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.power.check()?;
        self.live.lock_note(key)
    }
    fn identity(&self, _key: &Key) -> Result<Option<Identity>> {
        Ok(None)
    }
    fn fingerprint(&self, _key: &Key) -> Result<Option<Fingerprint>> {
        Ok(None)
    }
    fn local_root(&self) -> Option<&std::path::Path> {
        None
    }
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

impl Stage for VolatileStore {
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.make(prefix)
    }
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.create_file(key)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.power.check()?;
        Stage::open(&self.live, key)
    }
    fn clone_object(&self, published: &Key, to: &Key) -> Result<Option<Arc<dyn WriteAt>>> {
        self.power.check()?;
        let from = Store::open(&self.live, published)?;
        let file = self.create_file(to)?;
        transfer::copy(from.as_ref(), file.as_ref())?;
        Ok(Some(file))
    }
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        self.power.check()?;
        self.live.hold_file(key)
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.put_durably(key, bytes, mode)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.power.check()?;
        Stage::get(&self.live, key, bytes_max)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.power.check()?;
        Stage::list(&self.live, prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.delete_below(key)
    }
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        self.power.check()?;
        Stage::open(&self.live, from)?.flush()?;
        self.live.publish(from, to, mode)?;
        self.push(Change::Rename(from.clone(), to.clone(), mode));
        Ok(())
    }
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        self.power.check()?;
        if Stage::open(&self.live, own).is_ok() {
            return Ok(());
        }
        Store::rename(self, published, own)
    }
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        self.power.check()?;
        Stage::open(&self.live, &from.join(last)?)?;
        if Store::list(&self.live, to).is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists already"));
        }
        self.flush_files(from)?;
        self.settle(|key| is_below(key, from))?;
        self.live.publish_prefix(from, to, last)?;
        self.push(Change::Rename(from.clone(), to.clone(), PutMode::Create));
        self.settle_parent(to)
    }
    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.power.check()?;
        self.live.sync_prefix(prefix)?;
        self.settle_prefix(prefix)
    }
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::VolatileStore;
    use crate::block::filter::Power;
    use crate::error::Result;
    use crate::store::conformance::{check_stage, check_store};
    use crate::store::{Key, MemoryStore, PutMode, Stage, Store};

    fn key(path: &str) -> Key {
        Key::parse(path).unwrap()
    }

    #[test]
    fn conforms_while_the_power_is_on() {
        check_store(&VolatileStore::new(&Power::steady(), &MemoryStore::new()));
        let store = VolatileStore::new(&Power::steady(), &MemoryStore::new());
        check_stage(&store, Some(&store));
    }

    /// Follows the order of a commit: the layer, its name, the point.
    fn commit(stage: &dyn Stage) -> Result<()> {
        stage.make_prefix(&key("layers"))?;
        stage.make_prefix(&key("points/.s"))?;
        let layer = stage.create(&key("layers/x.open"))?;
        layer.write_at(0, &[7; 5000])?;
        stage.publish(&key("layers/x.open"), &key("layers/x"), PutMode::Create)?;
        stage.sync_prefix(&key("layers"))?;
        stage.put(&key("points/.s/point.json"), b"{}", PutMode::Create)?;
        stage.publish_prefix(&key("points/.s"), &key("points/p"), "point.json")
    }

    #[test]
    fn every_power_cut_leaves_a_commit_whole_or_absent() {
        let power = Power::steady();
        commit(&VolatileStore::new(&power, &MemoryStore::new())).unwrap();
        let flushes = power.flushes();
        assert!(flushes > 8, "{flushes}");
        let (mut lost, mut kept) = (0, 0);
        for at in 0..=flushes {
            let store = VolatileStore::new(&Power::off_at(at), &MemoryStore::new());
            let done = commit(&store).is_ok();
            assert_eq!(done, at == flushes);
            for seed in 0..50 {
                let found = store.after_power_loss(seed);
                let point = Store::get(&found, &key("points/p/point.json"), 9);
                let layer = Store::get(&found, &key("layers/x"), 9999);
                if let Ok(bytes) = &layer {
                    assert_eq!(bytes, &[7; 5000], "a published layer is whole");
                }
                match point {
                    Ok(bytes) => {
                        assert_eq!(bytes, b"{}");
                        assert!(layer.is_ok(), "a point has its layer");
                        kept += 1;
                    }
                    Err(_) => {
                        assert!(!done, "what was answered stays");
                        lost += 1;
                    }
                }
            }
        }
        assert!(lost > 0 && kept > 50, "{lost} lost, {kept} kept");
    }

    /// The same without the sync that makes the layer's name durable: the store must show that the name is
    /// missing.
    #[test]
    fn a_sync_left_out_is_found_out() {
        let mut orphans = 0;
        for seed in 0..50 {
            let store = VolatileStore::new(&Power::steady(), &MemoryStore::new());
            Stage::make_prefix(&store, &key("layers")).unwrap();
            let layer = store.create(&key("layers/x.open")).unwrap();
            layer.write_at(0, b"x").unwrap();
            store
                .publish(&key("layers/x.open"), &key("layers/x"), PutMode::Create)
                .unwrap();
            Stage::put(&store, &key("points/p/point.json"), b"{}", PutMode::Create).unwrap();
            let found = store.after_power_loss(seed);
            assert!(Store::get(&found, &key("points/p/point.json"), 9).is_ok());
            orphans += usize::from(Store::get(&found, &key("layers/x"), 9).is_err());
        }
        assert!(orphans > 0);
    }
}
