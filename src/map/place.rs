//! The directory of all maps, and the directory of each map.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::record::{RECORD_BYTES_MAX, Record};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::{Access, Dir, Kind, Stat};
use crate::sys::durable::{self, Replace};
use crate::sys::flock::{self, Mode};
use crate::sys::runtime_dir;
use crate::types::DiskName;

const NAME: &str = "map";
const LOCK: &str = "lock";
const RECORD: &str = "map.json";
const LOG: &str = "log";
const DISKS: &str = "disk";

/// LIMIT: maps of this machine.
const MAPS_MAX: usize = 256;
/// LIMIT: how long another process may hold the directory's lock to examine the directory or make
/// an entry.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// Digits of an id.
const ID_DIGITS: usize = 12;

/// The id of a map; ids are never reused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapId(String);

impl MapId {
    /// Creates an id.
    #[must_use]
    pub fn random() -> Self {
        let text = uuid::Uuid::new_v4().simple().to_string();
        Self(text.chars().take(ID_DIGITS).collect())
    }
}

impl FromStr for MapId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let is_digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
        if text.len() == ID_DIGITS && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid(format!(
            "\"{}\" is not the id of a map",
            text.escape_debug()
        )))
    }
}

impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the file that shows a disk in a map's mount.
pub(super) fn file_name(disk: &DiskName) -> String {
    format!("{disk}.raw")
}

/// The disk that such a file shows.
pub(super) fn disk_of(file: &Path) -> Option<DiskName> {
    let name = file.file_name()?.to_str()?.strip_suffix(".raw")?;
    DiskName::new(name).ok()
}

/// The directory of all maps.
#[derive(Debug)]
pub struct MapDir {
    dir: Dir,
}

/// A map's directory, which this process owns until the value is dropped.
#[derive(Debug)]
pub(super) struct Own {
    _lock: File,
    /// The file that takes the log of the process from now on.
    pub(super) log: File,
}

/// The state of a map's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The process lives.
    Alive,
    /// The process has ended.
    Dead,
    /// The map is gone.
    Gone,
}

impl MapDir {
    /// Opens the directory, if it exists.
    ///
    /// # Errors
    /// `PermissionDenied` when other users could enter it, or replace it; `Corrupt` when it is a
    /// symlink; `Io`.
    pub fn open() -> Result<Option<Self>> {
        match Self::below(&runtime_dir::own_path()?) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// As [`MapDir::open`].
    pub fn make() -> Result<Self> {
        let above = runtime_dir::make()?;
        match Dir::open(&above)?.make_dir(NAME, 0o700) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            _ => Self::below(&above),
        }
    }

    fn below(above: &Path) -> Result<Self> {
        // The kernel lists mounts by resolved paths.
        let path = std::fs::canonicalize(above)
            .or_io("cannot resolve the runtime directory")
            .at_path(above)?;
        let above = Dir::open(path)?;
        let dir = above.dir(NAME)?;
        let (own, root) = (rustix::process::geteuid().as_raw(), 0);
        let stat = Stat::of(&dir)?;
        if stat.uid != own || stat.mode & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the directory of maps must be ours, and closed to others (0700)",
            )
            .at_path(dir.path()));
        }
        let stat = Stat::of(&above)?;
        // Other users may have write access only if the sticky bit keeps them from renaming our
        // directory.
        let is_firm = stat.mode & 0o022 == 0 || stat.mode & 0o1000 != 0;
        if ![own, root].contains(&stat.uid) || !is_firm {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "others could put another directory in the place of the directory of maps",
            )
            .at_path(above.path())
            .advise("let only root write there: chown root DIR; chmod 755 DIR"));
        }
        Ok(Self { dir })
    }

    /// The resolved path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The mountpoint of a map's disks.
    pub(super) fn mountpoint(&self, id: &MapId) -> PathBuf {
        self.path().join(id.to_string()).join(DISKS)
    }

    /// The file of a disk, below the mountpoint.
    pub(super) fn disk_file(&self, id: &MapId, disk: &DiskName) -> PathBuf {
        self.mountpoint(id).join(file_name(disk))
    }

    /// Keeps other processes from making, examining or removing maps until the returned value is
    /// dropped.
    pub(super) fn lock(&self) -> Result<File> {
        let file = loop {
            match self.dir.open_file(LOCK, Access::ReadWrite) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => break other?,
            }
            match self.dir.create_file(LOCK, 0o600) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                other => break other?,
            }
        };
        let begun = Instant::now();
        while !flock::try_lock(&file, Mode::Exclusive)? {
            if begun.elapsed() > LOCK_PATIENCE {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "another process holds the lock of the directory of maps",
                )
                .at_path(self.path().join(LOCK)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(file)
    }

    /// Ids of all maps; entries with other names are ignored.
    pub(super) fn ids(&self) -> Result<Vec<MapId>> {
        let mut ids: Vec<MapId> = self
            .dir
            .list("")?
            .into_iter()
            .filter(|(_, stat)| stat.kind == Kind::Directory)
            .filter_map(|(name, _)| name.to_str()?.parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Creates the directory of a map, and takes its lock before other processes can examine it.
    pub(super) fn create(&self, id: &MapId) -> Result<Own> {
        let _lock = self.lock()?;
        if self.ids()?.len() >= MAPS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("there are {MAPS_MAX} maps already"),
            )
            .advise(
                "see `restorefs map`, and unmap some: restorefs unmap, restorefs unmap --stale",
            ));
        }
        let name = Path::new(&id.0);
        self.dir.make_dir(name, 0o700)?;
        let made = self.fill(name);
        if made.is_err() {
            // The first error is the one to report.
            let _ = self.dir.remove_tree(name);
        }
        made
    }

    fn fill(&self, name: &Path) -> Result<Own> {
        let lock = self.dir.create_file(name.join(LOCK), 0o600)?;
        if !flock::try_lock(&lock, Mode::Exclusive)? {
            return Err(Error::new(ErrorKind::Busy, "a new file is locked").at_path(name));
        }
        let log = self.dir.create_file(name.join(LOG), 0o600)?;
        self.dir.make_dir(name.join(DISKS), 0o700)?;
        Ok(Own { _lock: lock, log })
    }

    /// The state of a map's process. The caller holds the directory's lock.
    pub(super) fn life(&self, id: &MapId) -> Result<Life> {
        let name = Path::new(&id.0);
        if self.dir.stat(name)?.is_none() {
            return Ok(Life::Gone);
        }
        match self.dir.open_file(name.join(LOCK), Access::Read) {
            Ok(lock) if flock::try_lock(&lock, Mode::Shared)? => Ok(Life::Dead),
            Ok(_) => Ok(Life::Alive),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Life::Dead),
            Err(e) => Err(e),
        }
    }

    /// The record of a map; `None` before it is written.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `Io`.
    pub fn record(&self, id: &MapId) -> Result<Option<Record>> {
        let path = Path::new(&id.0).join(RECORD);
        let at = || self.path().join(&path);
        let file = match self.dir.open_file(&path, Access::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX)
            .read_to_end(&mut bytes)
            .or_io("cannot read the record of a map")
            .at_path(at())?;
        Record::parse(&bytes).at_path(at()).map(Some)
    }

    /// Writes the record of a map.
    pub(super) fn put_record(&self, id: &MapId, record: &Record) -> Result<()> {
        let path = Path::new(&id.0).join(RECORD);
        durable::put(&self.dir, path, &record.to_bytes()?, 0o600, Replace::Yes)
    }

    /// Removes the directory of a map, whose mount must be gone.
    pub(super) fn remove(&self, id: &MapId) -> Result<()> {
        let _lock = self.lock()?;
        let name = Path::new(&id.0);
        // The directory is empty, or still has a mount, which must not be walked into.
        match self.dir.remove_dir(name.join(DISKS)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        match self.dir.remove_tree(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MapId, disk_of};
    use std::path::Path;

    #[test]
    fn ids_and_names() {
        let id = MapId::random();
        assert_eq!(id.to_string().parse::<MapId>().unwrap(), id);
        for bad in [
            "",
            "..",
            "0123456789AB",
            "0123456789abc",
            "0123456789a/",
            "lock",
        ] {
            assert!(bad.parse::<MapId>().is_err(), "{bad}");
        }
        let disk = disk_of(Path::new("/run/x/disk/vda.raw")).unwrap();
        assert_eq!(disk.as_str(), "vda");
        assert!(disk_of(Path::new("/run/x/disk/vda")).is_none());
    }
}
