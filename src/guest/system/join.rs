//! Joining: what the entries of an fstab name is mounted.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::filesystem::Filesystems;
use super::fstab::Entry;
use super::kind::{Kind, kind};
use super::source::find;
use super::tree::Tree;
use super::{Class, MountAt, Open, Place, Refusal, Unjoined, shown};
use crate::error::{Error, ErrorKind};
use crate::guest::fs::{FileType, Subvolume};

/// The subvolume that the options name.
fn subvolume(entry: &Entry) -> Result<Subvolume, Refusal> {
    if let Some(path) = entry.option("subvol") {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        return Ok(Subvolume::Path(path.to_vec()));
    }
    match entry.option("subvolid") {
        None => Ok(Subvolume::Default),
        Some(id) => std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.parse().ok())
            .map(Subvolume::Id)
            .ok_or_else(|| Refusal::new(Class::Missing, "its subvolid is no number")),
    }
}

/// The refusal that an error stands for: what is not there is missing, all else is there and cannot be read.
fn refusal(what: &str, error: &Error) -> Refusal {
    let class = match error.kind() {
        ErrorKind::NotFound => Class::Missing,
        _ => Class::Unreadable,
    };
    Refusal::new(class, format!("{what}: {}", error.report()))
}

/// A system whose tree is being joined.
pub(super) struct Joiner<'a> {
    pub(super) filesystems: &'a Filesystems<'a>,
    pub(super) open: Open<'a>,
    pub(super) tree: Tree<'a>,
    /// Names of `/etc/crypttab`, each with what it opens.
    pub(super) mapped: Vec<(String, String)>,
    pub(super) unjoined: Vec<Unjoined>,
}

impl Joiner<'_> {
    /// The directory that an entry's source and options name; of several volumes of one name `own` comes first.
    pub(super) fn root(&self, entry: &Entry, own: Option<usize>) -> Result<Place, Refusal> {
        let source = shown(&entry.source);
        let found = find(&self.filesystems.volumes, &source, &self.mapped)?;
        let volume = match own.filter(|own| found.contains(own)) {
            Some(own) => own,
            // The members of one filesystem have its UUID too.
            None => *found
                .iter()
                .find(|volume| self.filesystems.may_open(**volume))
                .or(found.first())
                .ok_or_else(|| Refusal::new(Class::Missing, "there is no such volume"))?,
        };
        self.subvolume_of(volume, entry)
    }

    /// The directory of a volume that an entry's options name.
    pub(super) fn subvolume_of(&self, volume: usize, entry: &Entry) -> Result<Place, Refusal> {
        let fs = self
            .filesystems
            .get(volume)
            .map_err(|error| Refusal::new(Class::Unreadable, error.report()))?;
        let ino = fs
            .subvolume(&subvolume(entry)?)
            .map_err(|error| refusal("its subvolume", &error))?;
        Ok(Place { volume, ino })
    }

    fn refuse(&mut self, entry: &Entry, refusal: Refusal) {
        let class = match refusal.class {
            Class::Missing if entry.has("nofail") => Class::MissingNofail,
            class => class,
        };
        self.unjoined.push(Unjoined {
            source: shown(&entry.source),
            target: shown(&entry.target),
            reason: refusal.reason,
            class,
        });
    }

    /// Mounts `root` at the entry's target.
    fn mount(&mut self, entry: &Entry, root: Place) -> Result<(), Refusal> {
        let unreadable = |reason: String| Refusal::new(Class::Unreadable, reason);
        let over = self
            .tree
            .resolve(&entry.target)
            .map_err(|error| unreadable(format!("its mount point: {}", error.report())))?;
        if over.file_type != FileType::Directory {
            return Err(unreadable("its mount point is no directory".to_owned()));
        }
        if over.path == b"/" {
            return Err(unreadable("another filesystem is mounted there".to_owned()));
        }
        self.tree.mounts.push(MountAt {
            path: over.path,
            over: over.place,
            root,
        });
        Ok(())
    }

    fn bind(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let source = self
            .tree
            .resolve(&entry.source)
            .map_err(|error| refusal("what it shows", &error))?;
        if source.file_type != FileType::Directory {
            return Err(Refusal::new(
                Class::Unreadable,
                "what it shows is no directory",
            ));
        }
        self.mount(entry, source.place)
    }

    /// Joins all entries: parents before children, then what shows parts of the tree a second time.
    pub(super) fn join(&mut self, entries: &[Entry], own: usize) {
        let mut volumes = Vec::new();
        let mut binds = Vec::new();
        for entry in entries {
            match kind(entry) {
                Kind::Silent | Kind::Root => {}
                Kind::Refused(class, reason) => self.refuse(entry, Refusal::new(class, reason)),
                Kind::Bind => binds.push(entry),
                Kind::Volume => volumes.push(entry),
            }
        }
        let depth = |entry: &&Entry| {
            let parts = entry.target.split(|b| *b == b'/');
            parts.filter(|part| !part.is_empty()).count()
        };
        volumes.sort_by_key(depth);
        for entry in volumes {
            let joined = self
                .root(entry, Some(own))
                .and_then(|root| self.mount(entry, root));
            if let Err(refusal) = joined {
                self.refuse(entry, refusal);
            }
        }
        for entry in binds {
            if let Err(refusal) = self.bind(entry) {
                self.refuse(entry, refusal);
            }
        }
    }

    pub(super) fn read(&self, path: &[u8]) -> Vec<u8> {
        self.tree.read(path).unwrap_or_default()
    }
}
