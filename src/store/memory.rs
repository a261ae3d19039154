//! A store and a stage in memory, for tests of the code above them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};

use super::{
    Entry, Fingerprint, HeldFile, Identity, Key, Lock, PutMode, Space, Stage, Store, transfer,
};
use crate::block::{MemoryDisk, ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;

#[derive(Clone)]
enum Node {
    Prefix,
    Object(Arc<dyn WriteAt>),
}

#[derive(Default)]
struct State {
    /// By key. The parents of every node are present.
    nodes: BTreeMap<String, Node>,
    /// Held locks: the serial number of the holder, and the note.
    locks: BTreeMap<String, (u64, Vec<u8>)>,
    /// Keys of files that somebody holds.
    held: BTreeSet<String>,
    serial: u64,
}

/// A store in memory. Clones are the same store.
#[derive(Default, Clone)]
pub struct MemoryStore(Arc<Mutex<State>>);

fn missing(key: &Key) -> Error {
    Error::not_found("there is no such object").at_path(key.to_string())
}

fn exists(key: &Key) -> Error {
    Error::new(ErrorKind::AlreadyExists, "it exists already").at_path(key.to_string())
}

impl State {
    fn node(&self, key: &Key) -> Result<Node> {
        if key.as_str().is_empty() {
            return Ok(Node::Prefix);
        }
        self.nodes
            .get(key.as_str())
            .cloned()
            .ok_or_else(|| missing(key))
    }

    fn object(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        match self.node(key)? {
            Node::Object(disk) => Ok(disk),
            Node::Prefix => {
                Err(
                    Error::corrupt("not a regular file", "a regular file", "directory")
                        .at_path(key.to_string()),
                )
            }
        }
    }

    fn make_prefix(&mut self, prefix: &Key) -> Result<()> {
        let Some(parent) = prefix.parent() else {
            return Ok(());
        };
        self.make_prefix(&parent)?;
        match self.nodes.get(prefix.as_str()) {
            Some(Node::Prefix) => Ok(()),
            Some(Node::Object(_)) => Err(not_a_prefix(prefix)),
            None => {
                self.nodes.insert(prefix.as_str().to_owned(), Node::Prefix);
                Ok(())
            }
        }
    }

    fn make_parent(&mut self, key: &Key) -> Result<()> {
        match key.parent() {
            Some(parent) => self.make_prefix(&parent),
            None => Err(Error::invalid("the root is no object")),
        }
    }

    /// Keys below a prefix, at any depth.
    fn below(&self, prefix: &Key) -> Vec<String> {
        let start = if prefix.as_str().is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        self.nodes
            .range(start.clone()..)
            .take_while(|(key, _)| key.starts_with(&start))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        if matches!(self.node(prefix)?, Node::Object(_)) {
            return Err(not_a_prefix(prefix));
        }
        let skip = match prefix.as_str().len() {
            0 => 0,
            length => length + 1,
        };
        let mut entries = Vec::new();
        for key in self.below(prefix) {
            let name = key.get(skip..).unwrap_or_default();
            if name.contains('/') {
                continue;
            }
            let (size_bytes, is_prefix) = match self.nodes.get(&key) {
                Some(Node::Object(disk)) => (disk.size_bytes(), false),
                _ => (0, true),
            };
            entries.push(Entry {
                name: name.to_owned(),
                size_bytes,
                is_prefix,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn put(&mut self, key: &Key, disk: MemoryDisk, mode: PutMode) -> Result<()> {
        self.make_parent(key)?;
        match (self.nodes.get(key.as_str()), mode) {
            (Some(_), PutMode::Create) => return Err(exists(key)),
            (Some(Node::Prefix), PutMode::Replace) => {
                return Err(
                    Error::new(ErrorKind::IsADirectory, "it is a prefix").at_path(key.to_string())
                );
            }
            _ => {}
        }
        let node = Node::Object(Arc::new(disk));
        self.nodes.insert(key.as_str().to_owned(), node);
        Ok(())
    }

    fn delete_all(&mut self, key: &Key) -> Result<()> {
        self.node(key)?;
        for below in self.below(key) {
            self.nodes.remove(&below);
        }
        self.nodes.remove(key.as_str());
        Ok(())
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        let disk = self.object(key)?;
        let size = disk.size_bytes();
        if size > bytes_max {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("it has {size} bytes, at most {bytes_max} are read"),
            )
            .at_path(key.to_string()));
        }
        let mut bytes = vec![0; usize_from_u64(size)];
        disk.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    fn rename(&mut self, from: &Key, to: &Key) -> Result<()> {
        let node = self.node(from)?;
        if self.node(to).is_ok() {
            return Err(exists(to));
        }
        if to.as_str().starts_with(&format!("{from}/")) || from.as_str().is_empty() {
            return Err(Error::invalid("a prefix cannot move into itself"));
        }
        self.make_parent(to)?;
        let below = self.below(from);
        self.nodes.remove(from.as_str());
        self.nodes.insert(to.as_str().to_owned(), node);
        for key in below {
            if let (Some(node), Some(rest)) =
                (self.nodes.remove(&key), key.get(from.as_str().len()..))
            {
                self.nodes.insert(format!("{to}{rest}"), node);
            }
        }
        Ok(())
    }
}

/// Copies a disk with its holes; the copy shares nothing with it.
fn copy(disk: &dyn ReadAt) -> Result<MemoryDisk> {
    let to = MemoryDisk::new();
    transfer::copy(disk, &to)?;
    Ok(to)
}

fn not_a_prefix(key: &Key) -> Error {
    Error::new(ErrorKind::NotADirectory, "it is no prefix").at_path(key.to_string())
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Names `disk`, as [`Stage::create`] does with a new file.
    pub(super) fn insert(&self, key: &Key, disk: Arc<dyn WriteAt>) -> Result<()> {
        let mut state = self.state();
        let parent = key
            .parent()
            .ok_or_else(|| Error::invalid("the root is no object"))?;
        state.node(&parent)?;
        if state.node(key).is_ok() {
            return Err(exists(key));
        }
        let node = Node::Object(disk);
        state.nodes.insert(key.as_str().to_owned(), node);
        Ok(())
    }

    /// A store with the same content that shares nothing with this one: the state that a crashed process
    /// would leave. Its locks are free.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let nodes = self
            .state()
            .nodes
            .iter()
            .map(|(key, node)| {
                let node = match node {
                    Node::Prefix => Node::Prefix,
                    // A disk in memory never fails.
                    Node::Object(disk) => {
                        Node::Object(Arc::new(copy(disk.as_ref()).unwrap_or_default()))
                    }
                };
                (key.clone(), node)
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            nodes,
            ..State::default()
        })))
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.state().nodes.keys()).finish()
    }
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.state().put(key, MemoryDisk::from_bytes(bytes), mode)
    }

    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()> {
        // The copy is made before the lock is taken: the source may lie in this store.
        let disk = copy(source)?;
        self.state().put(key, disk, mode)
    }

    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        match state.object(key) {
            Ok(disk) => disk.write_at(disk.size_bytes(), bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                state.put(key, MemoryDisk::from_bytes(bytes), PutMode::Create)
            }
            Err(e) => Err(e),
        }
    }

    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.state().make_prefix(prefix)
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.state().get(key, bytes_max)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        Ok(self.state().object(key)?)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.state().list(prefix)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let mut state = self.state();
        state.node(key)?;
        if !state.below(key).is_empty() {
            return Err(
                Error::new(ErrorKind::NotEmpty, "the prefix is not empty").at_path(key.to_string())
            );
        }
        state.nodes.remove(key.as_str());
        Ok(())
    }

    fn delete_all(&self, key: &Key) -> Result<()> {
        self.state().delete_all(key)
    }

    fn sweep(&self, _prefix: &Key) -> Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.state().rename(from, to)
    }

    fn link(&self, from: &Key, to: &Key) -> Result<bool> {
        let mut state = self.state();
        let object = state.object(from)?;
        if state.node(to).is_ok() {
            return Err(exists(to));
        }
        state.make_parent(to)?;
        state
            .nodes
            .insert(to.as_str().to_owned(), Node::Object(object));
        Ok(true)
    }

    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>> {
        let mut state = self.state();
        if let Some((_, note)) = state.locks.get(key.as_str()) {
            return Err(Error::new(
                ErrorKind::Locked,
                format!(
                    "another process holds the lock: {}",
                    String::from_utf8_lossy(note)
                ),
            )
            .at_path(key.to_string()));
        }
        state.put(key, MemoryDisk::from_bytes(note), PutMode::Replace)?;
        state.serial += 1;
        let serial = state.serial;
        state
            .locks
            .insert(key.as_str().to_owned(), (serial, note.to_vec()));
        Ok(Box::new(MemoryLock {
            store: self.clone(),
            key: key.clone(),
            serial,
        }))
    }

    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        Ok(self
            .state()
            .locks
            .get(key.as_str())
            .map(|(_, note)| note.clone()))
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

impl Stage for MemoryStore {
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.state().make_prefix(prefix)
    }

    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        let disk = Arc::new(MemoryDisk::new());
        self.insert(key, Arc::<MemoryDisk>::clone(&disk))?;
        Ok(disk)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.state().object(key)
    }

    fn clone_object(&self, published: &Key, to: &Key) -> Result<Option<Arc<dyn WriteAt>>> {
        let object = self.state().object(published)?;
        let disk = Arc::new(copy(object.as_ref())?);
        self.insert(to, Arc::<MemoryDisk>::clone(&disk))?;
        Ok(Some(disk))
    }

    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        let mut state = self.state();
        state.object(key)?;
        Ok(state.held.insert(key.as_str().to_owned()).then(|| {
            Box::new(MemoryHold {
                store: self.clone(),
                key: key.clone(),
            }) as Box<dyn HeldFile>
        }))
    }

    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.state().put(key, MemoryDisk::from_bytes(bytes), mode)
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.state().get(key, bytes_max)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.state().list(prefix)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.state().delete_all(key)
    }

    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        let mut state = self.state();
        state.object(from)?;
        if mode == PutMode::Replace && state.object(to).is_ok() {
            state.nodes.remove(to.as_str());
        }
        state.rename(from, to)
    }

    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        let mut state = self.state();
        if state.node(own).is_ok() {
            return Ok(());
        }
        state.rename(published, own)
    }

    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        let mut state = self.state();
        state.object(&from.join(last)?)?;
        state.rename(from, to)
    }

    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        match self.state().node(prefix)? {
            Node::Prefix => Ok(()),
            Node::Object(_) => Err(not_a_prefix(prefix)),
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// A held file.
struct MemoryHold {
    store: MemoryStore,
    key: Key,
}

impl HeldFile for MemoryHold {}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        self.store.state().held.remove(self.key.as_str());
    }
}

struct MemoryLock {
    store: MemoryStore,
    key: Key,
    serial: u64,
}

impl MemoryLock {
    fn check(&self, state: &State) -> Result<()> {
        if let Some((serial, note)) = state.locks.get(self.key.as_str())
            && *serial == self.serial
            && state.get(&self.key, u64::MAX).ok().as_ref() == Some(note)
        {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Stale, "the lock is no longer ours")
            .at_path(self.key.to_string()))
    }
}

impl Lock for MemoryLock {
    fn renew(&self, note: &[u8]) -> Result<()> {
        let mut state = self.store.state();
        self.check(&state)?;
        state.put(&self.key, MemoryDisk::from_bytes(note), PutMode::Replace)?;
        state
            .locks
            .insert(self.key.as_str().to_owned(), (self.serial, note.to_vec()));
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        self.check(&self.store.state())
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if state
            .locks
            .get(self.key.as_str())
            .is_some_and(|(serial, _)| *serial == self.serial)
        {
            state.locks.remove(self.key.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryStore;
    use crate::store::conformance::{check_stage, check_store};
    use crate::store::{Key, PutMode, Store};

    #[test]
    fn conforms() {
        check_store(&MemoryStore::new());
        let store = MemoryStore::new();
        check_stage(&store, Some(&store));
    }

    #[test]
    fn a_snapshot_shares_nothing() {
        let store = MemoryStore::new();
        let key = Key::parse("a/b").unwrap();
        Store::put(&store, &key, b"1", PutMode::Create).unwrap();
        let lock = store.lock(&Key::parse("lock").unwrap(), b"me").unwrap();
        let snapshot = store.snapshot();
        Store::put(&store, &key, b"2", PutMode::Replace).unwrap();
        assert_eq!(Store::get(&snapshot, &key, 9).unwrap(), b"1");
        assert!(snapshot.lock(&Key::parse("lock").unwrap(), b"x").is_ok());
        lock.verify().unwrap();
    }
}
