//! Joining: mounts the filesystems that the entries of an fstab name.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, BTreeSet};

use super::filesystem::Filesystems;
use super::fstab::Entry;
use super::kind::{Kind, kind};
use super::lookup::{Found, Hints};
use super::source::find;
use super::tree::Tree;
use super::{
    Class, FileLocation, MountAt, Obstacle, Open, Refusal, Unjoined, VolumeFacts, hardware, shown,
};
use crate::error::{Error, ErrorKind};
use crate::guest::fs::{FileType, Subvolume};

/// The number of the top level of a btrfs.
pub(super) const TOP_LEVEL: u64 = 5;

/// The subvolume named in the options.
pub(super) fn subvolume(entry: &Entry) -> Result<Subvolume, Refusal> {
    if let Some(path) = entry.option("subvol") {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        return Ok(Subvolume::Path(path.to_vec()));
    }
    match entry.option("subvolid") {
        None => Ok(Subvolume::Default),
        Some(id) => std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.parse().ok())
            // The kernel interprets 0 as the top level (btrfs_parse_subvol_options).
            .map(|id| Subvolume::Id(if id == 0 { TOP_LEVEL } else { id }))
            .ok_or_else(|| Refusal::new(Class::Missing, "its subvolid is no number")),
    }
}

/// LIMIT: unreadable volumes that are named as possible places of a missing one.
const SUSPECTS_MAX: usize = 3;

/// How precisely a source identifies its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sureness {
    Certain,
    BySerial,
    Inferred,
}

/// The refusal for an error: a missing object is missing; any other error means that it exists and is
/// unreadable.
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
    pub(super) tree: Tree<'a>,
    /// Names of `/etc/crypttab`, each with the device that it opens.
    pub(super) mapped: Vec<(String, String)>,
    /// Arrays of `mdadm.conf`, each with its UUID or name.
    pub(super) arrays: Vec<(String, String)>,
    /// The source of the root in the fstab.
    pub(super) own_source: Option<Vec<u8>>,
    /// Volumes that entries identify with certainty.
    taken: BTreeSet<usize>,
    pub(super) unjoined: Vec<Unjoined>,
    pub(super) notes: Vec<String>,
}

impl<'a> Joiner<'a> {
    /// A system with this root and nothing joined to it yet.
    pub(super) fn new(
        filesystems: &'a Filesystems<'a>,
        open: Open<'a>,
        root: FileLocation,
    ) -> Self {
        Self {
            filesystems,
            tree: Tree::new(open, root),
            mapped: Vec::new(),
            arrays: Vec::new(),
            own_source: None,
            taken: BTreeSet::new(),
            unjoined: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The directory of an entry's source and options; of several volumes with one name, `own` wins.
    pub(super) fn root(
        &mut self,
        entry: &Entry,
        own: Option<usize>,
    ) -> Result<FileLocation, Refusal> {
        // The root's source in the fstab means the root, whichever volume has that name here.
        if let (Some(own), true) = (own, self.own_source.as_ref() == Some(&entry.source)) {
            return self.subvolume_of(own, entry);
        }
        let source = shown(&entry.source);
        let (found, note) = self.find(entry)?;
        let volume = self.choose(&source, found, own)?;
        if let Some(note) = note {
            self.notes
                .push(format!("{}: {source}: {note}", shown(&entry.target)));
        }
        self.subvolume_of(volume, entry)
    }

    fn find(&self, entry: &Entry) -> Found {
        let hints = Hints {
            fs_type: &shown(&entry.fs_type),
            mapped: &self.mapped,
            arrays: &self.arrays,
            taken: match &entry.fs_type[..] {
                // One filesystem may be mounted in several places.
                b"btrfs" => BTreeSet::new(),
                _ => self.taken.clone(),
            },
        };
        find(&self.filesystems.volumes, &shown(&entry.source), &hints)
    }

    /// All volumes to which an entry may refer.
    pub(super) fn meant(&self, entry: &Entry) -> Vec<usize> {
        self.find(entry).map(|(found, _)| found).unwrap_or_default()
    }

    /// Chooses among several volumes of one name: `own`, then those that can be opened, that are not
    /// snapshots, and that are on the disks of `own`.
    fn choose(
        &self,
        source: &str,
        found: Vec<usize>,
        own: Option<usize>,
    ) -> Result<usize, Refusal> {
        if let Some(own) = own.filter(|own| found.contains(own)) {
            return Ok(own);
        }
        let facts = |volume: &usize| self.filesystems.volumes.get(*volume);
        let disks = own.and_then(|own| Some(facts(&own)?.disks.clone()));
        let disks = disks.unwrap_or_default();
        let mut left = found;
        let mut narrow = |is_meant: &dyn Fn(&VolumeFacts) -> bool| {
            let meant: Vec<usize> = left
                .iter()
                .copied()
                .filter(|volume| facts(volume).is_some_and(is_meant))
                .collect();
            if !meant.is_empty() {
                left = meant;
            }
        };
        // The members of a filesystem have its UUID too.
        narrow(&|facts| facts.may_open);
        narrow(&|facts| !facts.is_snapshot);
        narrow(&|facts| facts.disks.iter().any(|disk| disks.contains(disk)));
        match left.as_slice() {
            [] => Err(Refusal::absent()),
            [one] => Ok(*one),
            // If none can be opened, any of them gives the reason.
            [first, ..] if left.iter().all(|at| !self.filesystems.may_open(*at)) => Ok(*first),
            several => {
                let paths: Vec<&str> = several
                    .iter()
                    .filter_map(facts)
                    .map(|facts| facts.path.as_str())
                    .collect();
                let list = paths.join(", ");
                Err(Refusal::new(
                    Class::Unreadable,
                    format!("{list} all are {source}, and nothing decides between them"),
                ))
            }
        }
    }

    /// The directory of a volume that an entry's options name.
    pub(super) fn subvolume_of(
        &self,
        volume: usize,
        entry: &Entry,
    ) -> Result<FileLocation, Refusal> {
        let fs = self
            .filesystems
            .get(volume)
            .map_err(|error| Refusal::new(Class::Unreadable, error.report()))?;
        let ino = fs
            .subvolume(&subvolume(entry)?)
            .map_err(|error| refusal("its subvolume", &error))?;
        Ok(FileLocation { volume, ino })
    }

    /// The unreadable volumes, which may contain a missing one.
    fn suspects(&self) -> Option<String> {
        let mut unreadable =
            self.filesystems
                .volumes
                .iter()
                .filter_map(|facts| match &facts.obstacle {
                    Some(Obstacle::Unreadable(why)) => Some(format!("{}: {why}", facts.path)),
                    _ => None,
                });
        let named: Vec<String> = unreadable.by_ref().take(SUSPECTS_MAX).collect();
        let more = if unreadable.next().is_some() {
            "; and others"
        } else {
            ""
        };
        (!named.is_empty()).then(|| format!("{}{more}", named.join("; ")))
    }

    fn refuse(&mut self, entry: &Entry, mut refusal: Refusal) {
        if refusal.is_absent
            && let Some(suspects) = self.suspects()
        {
            let reason = &mut refusal.reason;
            *reason = format!("{reason}, unless it is in what cannot be read: {suspects}");
        }
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
    fn mount(&mut self, entry: &Entry, root: FileLocation) -> Result<(), Refusal> {
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

    fn sureness(&self, entry: &Entry) -> Sureness {
        if !hardware::is_name(&shown(&entry.source)) {
            return Sureness::Certain;
        }
        match self.find(entry) {
            Ok((_, None)) => Sureness::BySerial,
            _ => Sureness::Inferred,
        }
    }

    /// Joins all entries: parents before children, then entries that show parts of the tree a second time.
    pub(super) fn join(&mut self, entries: &[Entry], own: usize) {
        let mut volumes = Vec::new();
        let mut binds = Vec::new();
        for entry in entries {
            match kind(entry) {
                Kind::Silent | Kind::Root => {}
                Kind::Refused(class, reason) => self.refuse(entry, Refusal::new(class, reason)),
                Kind::PassedOver(why) => self.notes.push(format!(
                    "{} at {} is passed over: {why}",
                    shown(&entry.source),
                    shown(&entry.target)
                )),
                Kind::Bind => binds.push(entry),
                Kind::Volume => volumes.push(entry),
            }
        }
        let depth = |entry: &&Entry| {
            let parts = entry.target.split(|b| *b == b'/');
            parts.filter(|part| !part.is_empty()).count()
        };
        volumes.sort_by_key(depth);
        // Imprecise names refer to the remaining volumes.
        let mut roots: BTreeMap<usize, Result<FileLocation, Refusal>> = BTreeMap::new();
        for sureness in [Sureness::Certain, Sureness::BySerial, Sureness::Inferred] {
            for (at, entry) in volumes.iter().enumerate() {
                if roots.contains_key(&at) || self.sureness(entry) > sureness {
                    continue;
                }
                let root = self.root(entry, Some(own));
                if let Ok(place) = &root {
                    self.taken.insert(place.volume);
                }
                roots.insert(at, root);
            }
            self.taken.insert(own);
        }
        for ((_, root), entry) in roots.into_iter().zip(volumes) {
            let joined = root.and_then(|root| self.mount(entry, root));
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
