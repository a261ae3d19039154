//! A store, and a stage, in one local directory.
//!
//! # Invariants
//! - Every path goes through [`Dir`]: beneath the root, no symlinks, regular files only.
//! - Temporary names ([`TEMPORARY_PREFIX`]) are not objects: they are not listed and cannot be keys.
//!   Temporary files that a crash left are removed with the prefix that contains them.
//!
//! # Concurrency
//! Any number of threads. One process writes: the holder of the lock. The lock is an flock on the lock's
//! file: it ends with its process, on the filesystems of one host and on NFS. The same file holds the note
//! for people and for other hosts.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::local_lock::{LocalHold, LocalLock, NOTE_BYTES_MAX, read_whole};
use super::{
    Entry, Fingerprint, HeldFile, Identity, Key, Lock, PutMode, Space, Stage, Store, transfer,
};
use crate::block::{FileDisk, ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::{Access, Kind, Stat};
use crate::sys::durable::{self, Replace, TEMPORARY_PREFIX};
use crate::sys::{Dir, flock, reflink, statfs};
use crate::types::sync::Mutex;

/// Mode of new files, before the umask: the group may read, others may not, because backups contain secrets
/// of all users.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;
/// Mode of published files.
const PUBLISHED_MODE: u32 = 0o444;
/// LIMIT: attempts to take the lock while other processes probe it for a moment, and the pause between the
/// attempts.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long clients of network filesystems keep look-ups of names: NFS at most 60 seconds (acdirmax).
const NETWORK_LOOK_UPS: Duration = Duration::from_secs(65);
/// LIMIT: deepest prefix that is published (our limit; a session is 3 deep).
const DEPTH_MAX: u32 = 64;

/// Objects of a repository as files below one directory.
#[derive(Debug)]
pub struct LocalStore {
    root: Dir,
}

/// The path of a key; an error for a temporary name.
fn path(key: &Key) -> Result<&Path> {
    if key
        .as_str()
        .split('/')
        .any(|part| part.starts_with(TEMPORARY_PREFIX))
    {
        return Err(Error::invalid(format!(
            "the key \"{key}\" uses a name kept for temporary files"
        )));
    }
    Ok(Path::new(key.as_str()))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl LocalStore {
    /// Opens the directory `root`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, `Io`.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            root: Dir::open(root)?.keeping_owner()?,
        })
    }

    /// Makes the directory `root` (mode 0700) if it is missing, and opens it.
    ///
    /// # Errors
    /// `NotADirectory`, `PermissionDenied`, `Io`.
    pub fn make(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        std::os::unix::fs::DirBuilderExt::mode(
            std::fs::DirBuilder::new().recursive(true),
            DIR_MODE,
        )
        .create(root)
        .or_io("cannot make the directory")
        .at_path(root)?;
        Self::open(root)
    }

    fn put_file(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        let path = path(key)?;
        self.root.make_dirs(parent(path), DIR_MODE)?;
        durable::put(&self.root, path, bytes, FILE_MODE, replace(mode))
    }

    fn get_file(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        let path = path(key)?;
        let file = self.root.open_file(path, Access::Read)?;
        read_whole(&file, bytes_max).at_path(self.root.path().join(path))
    }

    fn list_dir(&self, prefix: &Key) -> Result<Vec<Entry>> {
        let path = path(prefix)?;
        let mut entries = Vec::new();
        for (name, size_bytes) in self.root.list_sizes(path)? {
            let name = name.into_string().map_err(|name| {
                Error::corrupt("a name in the store", "UTF-8", name.to_string_lossy())
                    .at_path(self.root.path().join(path))
            })?;
            if name.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            entries.push(Entry {
                name,
                size_bytes: size_bytes.unwrap_or(0),
                is_prefix: size_bytes.is_none(),
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open_stage_file(&self, path: &Path) -> Result<File> {
        match self.root.open_file(path, Access::ReadWrite) {
            // A crash between the chmod and the rename of a publish leaves a read-only file.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let file = self.root.open_to_protect(path)?;
                file.set_permissions(Permissions::from_mode(FILE_MODE))
                    .or_io("cannot make the file writable")
                    .at_path(self.root.path().join(path))?;
                self.root.open_file(path, Access::ReadWrite)
            }
            other => other,
        }
    }

    fn disk(&self, file: File, path: &Path, access: Access) -> Result<FileDisk> {
        FileDisk::new(file, self.root.path().join(path), access)
    }

    /// Makes a file durable and read-only.
    fn finish(&self, path: &Path) -> Result<File> {
        let file = self.root.open_to_protect(path)?;
        file.set_permissions(Permissions::from_mode(PUBLISHED_MODE))
            .and_then(|()| file.sync_all())
            .or_io("cannot make the file durable")
            .at_path(self.root.path().join(path))?;
        Ok(file)
    }

    /// Makes everything below `path` durable and read-only, children before their directory.
    fn finish_tree(&self, path: &Path, depth: u32) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the directory to publish is deeper than {DEPTH_MAX}"),
            )
            .at_path(self.root.path().join(path)));
        }
        for (name, stat) in self.root.list(path)? {
            let below = path.join(&name);
            if stat.kind == Kind::Directory {
                self.finish_tree(&below, depth + 1)?;
            } else if is_temporary(&name) {
                self.root.unlink(&below)?;
            } else {
                self.finish(&below)?;
            }
        }
        self.root.sync(path)
    }

    /// Removes files that crashed writers left in a directory; `true` when the directory held nothing else.
    fn sweep_dir(&self, path: &Path) -> Result<bool> {
        let is_left = |name: &std::ffi::OsStr| {
            is_temporary(name) && !name.to_str().is_some_and(durable::is_own_temporary)
        };
        let mut was_all = true;
        for (name, _) in self.root.list(path)? {
            if is_left(&name) {
                self.root.unlink(path.join(name))?;
            } else {
                was_all = false;
            }
        }
        Ok(was_all)
    }

    fn delete_tree(&self, key: &Key) -> Result<()> {
        let path = path(key)?;
        match self.root.unlink(path) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => self.root.remove_tree(path)?,
            other => other?,
        }
        self.root.sync(parent(path))
    }

    fn room(&self) -> Result<Option<Space>> {
        let room = statfs::room(&self.root).at_path(self.root.path())?;
        Ok(Some(Space {
            free_bytes: room.free_bytes,
            total_bytes: room.total_bytes,
        }))
    }
}

const fn replace(mode: PutMode) -> Replace {
    match mode {
        PutMode::Create => Replace::No,
        PutMode::Replace => Replace::Yes,
    }
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(TEMPORARY_PREFIX))
}

impl Store for LocalStore {
    fn describe(&self) -> String {
        self.root.path().display().to_string()
    }

    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.put_file(key, bytes, mode)
    }

    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()> {
        let path = path(key)?;
        self.root.make_dirs(parent(path), DIR_MODE)?;
        let fill = |file: &File| {
            let to = file.try_clone().or_io("cannot share the file")?;
            transfer::copy(source, &self.disk(to, path, Access::ReadWrite)?)?;
            file.set_permissions(Permissions::from_mode(PUBLISHED_MODE))
                .or_io("cannot make the file read-only")
        };
        durable::put_filled(&self.root, path, FILE_MODE, replace(mode), fill)
    }

    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let path = path(key)?;
        let (file, is_new) = match self.root.open_file(path, Access::ReadWrite) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.root.make_dirs(parent(path), DIR_MODE)?;
                (self.root.create_file(path, FILE_MODE)?, true)
            }
            other => (other?, false),
        };
        let disk = self.disk(file, path, Access::ReadWrite)?;
        disk.write_at(disk.size_bytes(), bytes)?;
        disk.flush()?;
        if is_new {
            self.root.sync(parent(path))?;
        }
        Ok(())
    }

    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.root.make_dirs(path(prefix)?, DIR_MODE)
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.get_file(key, bytes_max)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        let path = path(key)?;
        let file = self.root.open_file(path, Access::Read)?;
        Ok(Arc::new(self.disk(file, path, Access::Read)?))
    }

    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.list_dir(prefix)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = path(key)?;
        match self.root.unlink(path) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                match self.root.remove_dir(path) {
                    Err(error)
                        if error.kind() == ErrorKind::NotEmpty && self.sweep_dir(path)? =>
                    {
                        self.root.remove_dir(path)?;
                    }
                    other => other?,
                }
            }
            other => other?,
        }
        self.root.sync(parent(path))
    }

    fn delete_all(&self, key: &Key) -> Result<()> {
        self.delete_tree(key)
    }

    fn sweep(&self, prefix: &Key) -> Result<()> {
        match self.sweep_dir(path(prefix)?) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let (from, to) = (path(from)?, path(to)?);
        if to != from && to.starts_with(from) {
            return Err(Error::invalid("a prefix cannot move into itself"));
        }
        self.root.make_dirs(parent(to), DIR_MODE)?;
        durable::rename_noreplace(&self.root, from, to)?;
        durable::sync_both(&self.root, from, to)
    }

    fn link(&self, from: &Key, to: &Key) -> Result<bool> {
        let (from, to) = (path(from)?, path(to)?);
        self.root.make_dirs(parent(to), DIR_MODE)?;
        match self.root.link(from, to) {
            Ok(()) => self.root.sync(parent(to)).map(|()| true),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>> {
        let path = path(key)?;
        self.root.make_dirs(parent(path), DIR_MODE)?;
        for attempt in 0..LOCK_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(LOCK_PAUSE);
            }
            let file = match self.root.create_file(path, FILE_MODE) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    match self.root.open_file(path, Access::ReadWrite) {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        other => other?,
                    }
                }
                other => other?,
            };
            if !flock::try_lock(&file, flock::Mode::Exclusive)? {
                continue;
            }
            let held = LocalLock {
                root: self.root.dir("")?,
                key: key.clone(),
                file,
                note: Mutex::new(Vec::new()),
            };
            // Another process may have replaced the file after it was opened here and before it was locked.
            if !held.is_in_place()? {
                continue;
            }
            held.write(note)?;
            self.root.sync(parent(path))?;
            return Ok(Box::new(held));
        }
        let note = self.lock_note(key)?.unwrap_or_default();
        let holder = String::from_utf8_lossy(&note).trim().to_owned();
        Err(Error::new(
            ErrorKind::Locked,
            if holder.is_empty() {
                "another process holds the lock".to_owned()
            } else {
                format!("another process holds the lock: {holder}")
            },
        )
        .at_path(self.root.path().join(path)))
    }

    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let file = match self.root.open_file(path(key)?, Access::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // Held for a moment only; a process that takes the lock at that moment tries again.
        if flock::try_lock(&file, flock::Mode::Shared)? {
            return Ok(None);
        }
        read_whole(&file, NOTE_BYTES_MAX).map(Some)
    }

    fn identity(&self, key: &Key) -> Result<Option<Identity>> {
        Ok(self.root.stat(path(key)?)?.map(|stat| Identity {
            device: stat.device,
            inode: stat.inode,
        }))
    }

    fn stored_bytes(&self, key: &Key) -> Result<u64> {
        let path = path(key)?;
        let stat = self.root.stat(path)?.ok_or_else(|| {
            Error::not_found("no such object").at_path(self.root.path().join(path))
        })?;
        Ok(stat.allocated_bytes)
    }

    fn fingerprint(&self, key: &Key) -> Result<Option<Fingerprint>> {
        Ok(Fingerprint::of(&self.root.path().join(path(key)?)))
    }

    fn local_root(&self) -> Option<&Path> {
        Some(self.root.path())
    }

    fn look_up_delay(&self) -> Duration {
        match statfs::type_name(&self.root) {
            Ok(name) if statfs::is_network(&name) => NETWORK_LOOK_UPS,
            _ => Duration::ZERO,
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        self.room()
    }
}

impl Stage for LocalStore {
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.root.make_dirs(path(prefix)?, DIR_MODE)
    }

    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        let path = path(key)?;
        let file = self.root.create_file(path, FILE_MODE)?;
        Ok(Arc::new(self.disk(file, path, Access::ReadWrite)?))
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        let path = path(key)?;
        let file = self.open_stage_file(path)?;
        Ok(Arc::new(self.disk(file, path, Access::ReadWrite)?))
    }

    fn clone_object(&self, published: &Key, to: &Key) -> Result<Option<Arc<dyn WriteAt>>> {
        let (published, to) = (path(published)?, path(to)?);
        let from = self.root.open_file(published, Access::Read)?;
        let length = Stat::of(&from)?.size_bytes;
        let file = self.root.create_file(to, FILE_MODE)?;
        match reflink::clone_range(&from, 0, length, &file, 0) {
            Ok(()) => Ok(Some(Arc::new(self.disk(file, to, Access::ReadWrite)?))),
            Err(e) => {
                self.root.unlink(to)?;
                match e.kind() {
                    ErrorKind::Unsupported | ErrorKind::InvalidInput => Ok(None),
                    _ => Err(e).at_path(self.root.path().join(to)),
                }
            }
        }
    }

    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        let file = self.root.open_file(path(key)?, Access::ReadWrite)?;
        Ok(flock::try_lock(&file, flock::Mode::Exclusive)?
            .then(|| Box::new(LocalHold(file)) as Box<dyn HeldFile>))
    }

    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.put_file(key, bytes, mode)
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.get_file(key, bytes_max)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.list_dir(prefix)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.delete_tree(key)
    }

    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        let (from, to) = (path(from)?, path(to)?);
        self.root.make_dirs(parent(to), DIR_MODE)?;
        let file = self.finish(from)?;
        let result = match mode {
            PutMode::Create => durable::rename_noreplace(&self.root, from, to),
            PutMode::Replace => self.root.rename(from, to),
        };
        if result.is_err() {
            // The session stays open, and must be able to open its own file again.
            let _ = file.set_permissions(Permissions::from_mode(FILE_MODE));
        }
        result
    }

    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        if self.root.stat(path(own)?)?.is_some() {
            return Ok(());
        }
        self.rename(published, own)
    }

    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        let last = from.join(last)?;
        let (from, to) = (path(from)?, path(to)?);
        if self.root.stat(path(&last)?)?.is_none() {
            return Err(Error::not_found(format!("\"{last}\" is missing"))
                .at_path(self.root.path().join(from)));
        }
        if self.root.stat(to)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "it exists already")
                .at_path(self.root.path().join(to)));
        }
        self.root.make_dirs(parent(to), DIR_MODE)?;
        self.finish_tree(from, 0)?;
        durable::rename_noreplace(&self.root, from, to)?;
        durable::sync_both(&self.root, from, to)
    }

    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.root.sync(path(prefix)?)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.room()
    }
}

#[cfg(test)]
mod tests {
    use super::LocalStore;
    use crate::error::ErrorKind;
    use crate::store::conformance::{check_stage, check_store};
    use crate::store::{Key, PutMode, Stage, Store};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn key(path: &str) -> Key {
        Key::parse(path).unwrap()
    }

    #[test]
    fn conforms() {
        let temp = tempfile::tempdir().unwrap();
        check_store(&LocalStore::open(temp.path()).unwrap());
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        check_stage(&store, Some(&store));
    }

    #[test]
    fn published_files_are_read_only() {
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        store.create(&key("f")).unwrap();
        store
            .publish(&key("f"), &key("g"), PutMode::Create)
            .unwrap();
        let mode = |name: &str| {
            let metadata = std::fs::metadata(temp.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!(mode("g"), 0o444);
        Stage::make_prefix(&store, &key("s/deep")).unwrap();
        store.create(&key("s/deep/f")).unwrap();
        store.create(&key("s/last")).unwrap();
        store.publish_prefix(&key("s"), &key("p"), "last").unwrap();
        assert_eq!((mode("p/deep/f"), mode("p/last")), (0o444, 0o444));
    }

    #[test]
    fn an_empty_directory_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        Stage::make_prefix(&store, &key("s")).unwrap();
        store.create(&key("s/last")).unwrap();
        Stage::make_prefix(&store, &key("p")).unwrap();
        let error = store
            .publish_prefix(&key("s"), &key("p"), "last")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(temp.path().join("s/last").exists());
    }

    #[test]
    fn leftovers_are_invisible_and_go_with_their_prefix() {
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        Store::put(&store, &key("d/f"), b"x", PutMode::Create).unwrap();
        std::fs::write(temp.path().join("d/.tmp-1-7"), b"half").unwrap();
        assert_eq!(Store::list(&store, &key("d")).unwrap().len(), 1);
        assert!(Store::get(&store, &key("d/.tmp-1-7"), 10).is_err());
        assert_eq!(
            Store::delete(&store, &key("d")).unwrap_err().kind(),
            ErrorKind::NotEmpty
        );
        Store::delete(&store, &key("d/f")).unwrap();
        Store::delete(&store, &key("d")).unwrap();
        assert!(!temp.path().join("d").exists());
    }

    #[test]
    fn symlinks_in_the_store_are_damage() {
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        symlink("/etc/hostname", temp.path().join("f")).unwrap();
        symlink("/etc", temp.path().join("d")).unwrap();
        for path in ["f", "d/hostname"] {
            let error = Store::get(&store, &key(path), 1000).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        }
    }

    #[test]
    fn a_lock_whose_file_was_taken_is_stale() {
        let temp = tempfile::tempdir().unwrap();
        let store = LocalStore::open(temp.path()).unwrap();
        let lock = store.lock(&key("lock"), b"one").unwrap();
        std::fs::write(temp.path().join("lock"), b"two").unwrap();
        assert_eq!(lock.verify().unwrap_err().kind(), ErrorKind::Stale);
        drop(lock);
        let lock = store.lock(&key("lock"), b"three").unwrap();
        std::fs::remove_file(temp.path().join("lock")).unwrap();
        assert_eq!(lock.renew(b"x").unwrap_err().kind(), ErrorKind::Stale);
        let other = store.lock(&key("lock"), b"four").unwrap();
        assert_eq!(lock.verify().unwrap_err().kind(), ErrorKind::Stale);
        drop(lock);
        other.verify().unwrap();
        assert_eq!(store.lock_note(&key("lock")).unwrap().unwrap(), b"four");
    }
}
