//! A guest filesystem with cached answers: no question is asked twice while its answer is cached.
//!
//! # Invariants
//! - Memory is bounded by the [`Store`], which all filesystems of a process share.
//! - Every answer of a reader is checked here, wherever the reader runs: invalid names, sizes and times
//!   become `Corrupt` and do not reach the tree.
//!
//! # Concurrency
//! The store has shards. The lock of a shard is never held during a question.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fs::{
    Attributes, Entry, FileType, FsInfo, GuestFs, GuestIno, Subvolume, Trouble, Xattr,
};
use super::record::{Listing, Reader, Record};
use super::walk::Walk;
use crate::block::run::RunMap;
use crate::block::{Weighted, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::cache::Cache;
use crate::types::width::u64_from_usize;

/// LIMIT: entries of one directory (our limit; the formats have none).
const ENTRIES_MAX: usize = 4 << 20;
/// LIMIT: bytes of a symlink's target.
const TARGET_BYTES_MAX: usize = 65_536;
const SHARDS: usize = 16;

/// Key of a cached answer: filesystem, inode, and whether it is the inode or the directory.
type Key = (u64, u64, bool);

/// A cached answer.
#[derive(Clone)]
enum Kept {
    Record(Arc<Record>),
    Directory(Arc<Directory>),
}

/// The entries of a directory, with an index by name.
struct Directory {
    entries: Arc<[Entry]>,
    by_name: Vec<u32>,
}

impl Directory {
    fn new(entries: Vec<Entry>) -> Self {
        let mut by_name: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        by_name.sort_by(|a, b| name_at(&entries, *a).cmp(&name_at(&entries, *b)));
        Self {
            entries: entries.into(),
            by_name,
        }
    }

    fn find(&self, name: &[u8]) -> Option<GuestIno> {
        let at = self
            .by_name
            .binary_search_by(|ix| name_at(&self.entries, *ix).cmp(&Some(name)))
            .ok()?;
        let ix = usize::try_from(*self.by_name.get(at)?).ok()?;
        self.entries.get(ix).map(|entry| entry.ino)
    }

    fn weight(&self) -> usize {
        let names: usize = self.entries.iter().map(|entry| entry.name.len()).sum();
        128 + self.entries.len() * 56 + names
    }
}

fn name_at(entries: &[Entry], ix: u32) -> Option<&[u8]> {
    usize::try_from(ix)
        .ok()
        .and_then(|ix| entries.get(ix))
        .map(|entry| entry.name.as_slice())
}

/// Cached answers of all open filesystems, within one memory limit.
pub struct Store {
    shards: Vec<Weighted<Key, Kept>>,
    hasher: RandomState,
    next: AtomicU64,
}

impl Store {
    /// A store of at most about `bytes_max` bytes of answers.
    #[must_use]
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let shard = || Weighted::metered(bytes_max / SHARDS, Cache::GuestAnswers);
        Arc::new(Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
            next: AtomicU64::new(1),
        })
    }

    /// Approximate bytes of the cached answers.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(Weighted::weight).sum()
    }

    fn shard(&self, key: &Key) -> Option<&Weighted<Key, Kept>> {
        let ix = usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS;
        self.shards.get(ix)
    }

    fn get(&self, key: &Key) -> Option<Kept> {
        self.shard(key)?.get(key)
    }

    fn put(&self, key: Key, kept: Kept, weight: usize) {
        if let Some(shard) = self.shard(&key) {
            shard.put(key, kept, weight);
        }
    }

    /// Drops all answers of one filesystem.
    fn forget(&self, fs: u64) {
        for shard in &self.shards {
            shard.forget(|key| key.0 == fs);
        }
    }
}

/// A filesystem with cached answers.
pub struct Recorded<R: Reader> {
    reader: R,
    store: Arc<Store>,
    id: u64,
    walk: Walk,
}

impl<R: Reader> Recorded<R> {
    /// Caches the answers of `reader` in `store`.
    pub fn new(reader: R, store: &Arc<Store>) -> Self {
        Self {
            reader,
            walk: Walk::new(),
            id: store.next.fetch_add(1, Ordering::Relaxed),
            store: Arc::clone(store),
        }
    }

    fn keep(&self, ino: GuestIno, record: Record) -> Result<Arc<Record>> {
        check_record(ino, &record)?;
        let weight = record.weight();
        let record = Arc::new(record);
        self.store.put(
            (self.id, ino.0, false),
            Kept::Record(Arc::clone(&record)),
            weight,
        );
        Ok(record)
    }

    fn record(&self, ino: GuestIno) -> Result<Arc<Record>> {
        if let Some(Kept::Record(record)) = self.store.get(&(self.id, ino.0, false)) {
            return Ok(record);
        }
        self.keep(ino, self.reader.record(ino)?)
    }

    fn kept_directory(&self, ino: GuestIno) -> Option<Arc<Directory>> {
        match self.store.get(&(self.id, ino.0, true)) {
            Some(Kept::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    fn directory(&self, ino: GuestIno) -> Result<Arc<Directory>> {
        if let Some(directory) = self.kept_directory(ino) {
            return Ok(directory);
        }
        if let Some(directory) = self.directory_with_siblings(ino)? {
            return Ok(directory);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut dirs = Vec::new();
        loop {
            let listing = self.reader.list(ino, entries.len())?;
            let is_last = !listing.more || listing.entries.is_empty();
            self.take(ino, listing, &mut entries, &mut dirs)?;
            if entries.len() > ENTRIES_MAX {
                let what = format!("a directory has more than {ENTRIES_MAX} entries");
                return Err(Error::new(ErrorKind::LimitExceeded, what));
            }
            if is_last {
                return Ok(self.keep_directory(ino, entries, dirs));
            }
        }
    }

    /// Fetches the directory together with those that are likely to be requested next; `None` when there are
    /// none, or the directory does not fit.
    fn directory_with_siblings(&self, ino: GuestIno) -> Result<Option<Arc<Directory>>> {
        let ahead = self
            .walk
            .ahead(ino, |dir| self.kept_directory(dir).is_some());
        if ahead.is_empty() {
            return Ok(None);
        }
        let wanted: Vec<GuestIno> = std::iter::once(ino).chain(ahead).collect();
        let mut found = None;
        let mut requested: HashSet<GuestIno> = wanted.iter().copied().collect();
        for (dir, listing) in self.reader.list_many(&wanted)? {
            let (mut entries, mut dirs) = (Vec::new(), Vec::new());
            // An invalid directory returns its error when it is requested itself. Only requested directories
            // and those below them are cached.
            if !requested.remove(&dir) || self.take(dir, listing, &mut entries, &mut dirs).is_err()
            {
                continue;
            }
            requested.extend(&dirs);
            let directory = self.keep_directory(dir, entries, dirs);
            if dir == ino {
                found = Some(directory);
            }
        }
        Ok(found)
    }

    /// Checks and caches the content of a listing.
    fn take(
        &self,
        dir: GuestIno,
        listing: Listing,
        entries: &mut Vec<Entry>,
        dirs: &mut Vec<GuestIno>,
    ) -> Result<()> {
        for (entry, record) in listing.entries {
            check_name(dir, &entry.name)?;
            // An invalid record is damage of that file only, and is reported when the file is requested; the
            // directory is sound.
            if let Some(Ok(record)) = record.map(|record| self.keep(entry.ino, record))
                && record.attributes.file_type == FileType::Directory
            {
                dirs.push(entry.ino);
            }
            entries.push(entry);
        }
        Ok(())
    }

    fn keep_directory(
        &self,
        ino: GuestIno,
        entries: Vec<Entry>,
        dirs: Vec<GuestIno>,
    ) -> Arc<Directory> {
        self.walk.note(ino, dirs);
        let directory = Arc::new(Directory::new(entries));
        let weight = directory.weight();
        let kept = Kept::Directory(Arc::clone(&directory));
        self.store.put((self.id, ino.0, true), kept, weight);
        directory
    }
}

impl<R: Reader> Drop for Recorded<R> {
    fn drop(&mut self) {
        self.store.forget(self.id);
    }
}

fn nonsense(what: &'static str, ino: GuestIno, found: impl std::fmt::Display) -> Error {
    Error::corrupt(
        format!("{what} of inode {}", ino.0),
        "a possible one",
        found,
    )
}

fn check_name(dir: GuestIno, name: &[u8]) -> Result<()> {
    let is_bad = name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, 0 | b'/'));
    if is_bad {
        return Err(nonsense(
            "a name in the directory",
            dir,
            name.escape_ascii(),
        ));
    }
    Ok(())
}

fn check_record(ino: GuestIno, record: &Record) -> Result<()> {
    let Attributes {
        mode,
        nlink,
        size_bytes,
        ..
    } = record.attributes;
    if record.attributes.ino != ino {
        return Err(nonsense("the number", ino, record.attributes.ino.0));
    }
    if mode & !0o7777 != 0 || nlink == 0 {
        return Err(nonsense(
            "mode and links",
            ino,
            format!("{mode:o}, {nlink}"),
        ));
    }
    if i64::try_from(size_bytes).is_err() {
        return Err(nonsense("the size", ino, size_bytes));
    }
    let times = [
        record.attributes.atime,
        record.attributes.mtime,
        record.attributes.ctime,
    ];
    if times.iter().any(|time| time.nanoseconds >= 1_000_000_000) {
        return Err(nonsense("a time", ino, "a fraction above one second"));
    }
    if let Some(target) = &record.target {
        check_target(ino, target)?;
    }
    if let Some(xattrs) = &record.xattrs {
        check_xattrs(ino, xattrs)?;
    }
    match &record.runs {
        Some(runs) if runs.size_bytes() != size_bytes => {
            Err(nonsense("the length of the runs", ino, runs.size_bytes()))
        }
        _ => Ok(()),
    }
}

fn check_target(ino: GuestIno, target: &[u8]) -> Result<()> {
    if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
        return Err(nonsense(
            "the symlink's target",
            ino,
            format!("{} bytes", target.len()),
        ));
    }
    Ok(())
}

fn check_xattrs(ino: GuestIno, xattrs: &[Xattr]) -> Result<()> {
    let is_bad = |x: &Xattr| {
        x.name.is_empty() || x.name.len() > 255 || x.name.contains(&0) || x.value.len() > 65_536
    };
    match xattrs.iter().find(|x| is_bad(x)) {
        Some(bad) => Err(nonsense(
            "an extended attribute",
            ino,
            bad.name.escape_ascii(),
        )),
        None => Ok(()),
    }
}

impl<R: Reader> GuestFs for Recorded<R> {
    fn info(&self) -> &FsInfo {
        self.reader.info()
    }

    fn root(&self) -> GuestIno {
        self.reader.root()
    }

    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        self.reader.subvolume(which)
    }

    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        self.record(ino).map(|record| record.attributes.clone())
    }

    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        self.directory(ino)
            .map(|directory| Arc::clone(&directory.entries))
    }

    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        if let Some(directory) = self.kept_directory(ino) {
            return directory
                .find(name)
                .ok_or_else(|| Error::not_found("no such file or directory in the guest"));
        }
        check_name(ino, name).map_err(|_| Error::not_found("no such name can be in the guest"))?;
        let record = self.reader.lookup(ino, name)?;
        let child = record.attributes.ino;
        self.keep(child, record)?;
        Ok(child)
    }

    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        if let Some(target) = &self.record(ino)?.target {
            return Ok(target.to_vec());
        }
        let target = self.reader.target(ino)?;
        check_target(ino, &target)?;
        Ok(target.to_vec())
    }

    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        let record = self.record(ino)?;
        if let Some(xattrs) = &record.xattrs {
            return Ok(Arc::clone(xattrs));
        }
        let xattrs = self.reader.xattrs(ino)?;
        check_xattrs(ino, &xattrs)?;
        let more = Record {
            xattrs: Some(Arc::clone(&xattrs)),
            ..Record::clone(&record)
        };
        self.keep(ino, more)?;
        Ok(xattrs)
    }

    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        let record = self.record(ino)?;
        if let Some(runs) = &record.runs {
            return Ok(Arc::clone(runs));
        }
        if record.attributes.file_type != FileType::Regular {
            return Err(Error::invalid("not a regular file"));
        }
        let runs = self.reader.runs(ino)?;
        let more = Record {
            runs: Some(Arc::clone(&runs)),
            ..Record::clone(&record)
        };
        self.keep(ino, more)?;
        Ok(runs)
    }

    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        let record = self.record(ino)?;
        if record.attributes.file_type != FileType::Regular {
            return Err(Error::invalid("not a regular file"));
        }
        check_range(
            record.attributes.size_bytes,
            offset,
            u64_from_usize(buf.len()),
        )?;
        self.reader.read(ino, offset, buf)
    }

    fn trouble(&self) -> Option<Trouble> {
        self.reader.trouble()
    }
}

#[cfg(test)]
mod tests {
    use super::{Recorded, Store};
    use crate::error::ErrorKind;
    use crate::guest::conformance::check_guest_fs;
    use crate::guest::fs::GuestFs;
    use crate::guest::memory::MemoryFs;
    use crate::guest::record::Direct;

    fn many_files() -> MemoryFs {
        let mut fs = MemoryFs::new();
        for dir in 0..30 {
            fs.directory(&format!("d{dir}")).unwrap();
            for file in 0..50 {
                fs.file(&format!("d{dir}/{file}"), b"content").unwrap();
            }
        }
        fs
    }

    #[test]
    fn conforms_and_stays_within_its_bound() {
        for bound in [64 << 10, 16 << 20] {
            let store = Store::new(bound);
            let fs = many_files();
            let volume = fs.volume();
            let recorded = Recorded::new(Direct(Box::new(fs)), &store);
            assert_eq!(check_guest_fs(&recorded, &volume), 1531);
            // A shard always keeps its newest answer.
            assert!(store.bytes() <= bound + (64 << 10), "{}", store.bytes());
            assert!(store.bytes() > 10_000);
            drop(recorded);
            assert_eq!(store.bytes(), 0, "what a filesystem told goes with it");
        }
    }

    #[test]
    fn an_impossible_file_is_its_own_damage() {
        let mut fs = many_files();
        fs.change("d1/7", |attributes| attributes.size_bytes = u64::MAX)
            .unwrap();
        fs.change("d1/8", |attributes| {
            attributes.mtime.nanoseconds = 1_000_000_000
        })
        .unwrap();
        let recorded = Recorded::new(Direct(Box::new(fs)), &Store::new(1 << 20));
        let dir = recorded.lookup(recorded.root(), b"d1").unwrap();
        let entries = recorded.entries(dir).unwrap();
        assert_eq!(entries.len(), 50);
        for entry in entries.iter() {
            let is_bad = entry.name == b"7" || entry.name == b"8";
            let kind = recorded.attributes(entry.ino).err().map(|e| e.kind());
            assert_eq!(kind, is_bad.then_some(ErrorKind::Corrupt));
        }
    }
}
