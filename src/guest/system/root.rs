//! Finds the roots of systems on a volume.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::boot;
use super::filesystem::Filesystems;
use super::fstab::{self, Entry};
use super::join::{TOP_LEVEL, subvolume};
use super::kind::{Kind, kind};
use super::ostree;
use super::tree::Tree;
use super::{Class, FileLocation, MountAt, Open, Unjoined};
use crate::error::ErrorKind;
use crate::guest::fs::{FileType, GuestFs, GuestIno, Subvolume};

/// btrfs subvolumes in which distributions put their root.
const ROOT_SUBVOLUMES: [&[u8]; 3] = [b"@", b"root", b"@rootfs"];
/// LIMIT: directories searched for subvolumes, and their depth.
const DIRECTORIES_MAX: usize = 1000;
const DEPTH_MAX: usize = 3;

/// A root.
pub(super) struct Root {
    pub(super) place: FileLocation,
    /// Mounts that precede its fstab.
    pub(super) mounts: Vec<MountAt>,
    /// Whether a boot entry has named this root, so that its fstab does not decide.
    pub(super) is_certain: bool,
}

/// All directories that may be mounted at `/nix`: they contain a store.
fn stores<'a>(filesystems: &'a Filesystems<'_>) -> impl Iterator<Item = FileLocation> + 'a {
    (0..filesystems.volumes.len()).flat_map(|volume| {
        let Ok(fs) = filesystems.get(volume) else {
            return Vec::new();
        };
        let mut tops = vec![fs.root()];
        tops.extend(fs.subvolume(&Subvolume::Default).ok());
        if let Ok(entries) = fs.entries(fs.root()) {
            let more = entries.iter().take(DIRECTORIES_MAX).map(|entry| entry.ino);
            tops.extend(more);
        }
        tops.into_iter()
            .filter(|top| fs.lookup(*top, b"store").is_ok())
            .map(|ino| FileLocation { volume, ino })
            .collect()
    })
}

/// The text of the fstab; an unreadable one is noted.
pub(super) fn fstab_text(
    filesystems: &Filesystems<'_>,
    open: Open<'_>,
    root: FileLocation,
) -> (Vec<u8>, Option<Unjoined>) {
    let mut tree = Tree::new(open, root);
    let error = match tree.read(b"/etc/fstab") {
        Ok(text) => return (text, None),
        Err(error) => error,
    };
    // The fstab of NixOS lies in the store, and itself names the filesystem of the store.
    let over = tree.resolve(b"/nix").ok();
    if tree.is(b"/etc/NIXOS", FileType::Regular)
        && let Some(over) = over.filter(|over| over.file_type == FileType::Directory)
    {
        for store in stores(filesystems) {
            tree.mounts = vec![MountAt {
                path: over.path.clone(),
                over: over.place,
                root: store,
            }];
            if let Ok(text) = tree.read(b"/etc/fstab") {
                return (text, None);
            }
        }
    }
    if error.kind() == ErrorKind::NotFound && !tree.is(b"/etc/NIXOS", FileType::Regular) {
        return (Vec::new(), None);
    }
    let unread = Unjoined {
        source: "/etc/fstab".to_owned(),
        target: "/".to_owned(),
        reason: format!("it cannot be read: {}", error.report()),
        class: Class::Unreadable,
    };
    (Vec::new(), Some(unread))
}

/// Whether the fstab of a root names that root.
fn names_itself(
    filesystems: &Filesystems<'_>,
    open: Open<'_>,
    fs: &dyn GuestFs,
    root: FileLocation,
) -> bool {
    let (text, _) = fstab_text(filesystems, open, root);
    let entries = fstab::parse(&text);
    let is_root = |entry: &&Entry| matches!(kind(entry), Kind::Root);
    let configured = entries.iter().rfind(is_root).map(subvolume);
    match configured {
        Some(Ok(which @ (Subvolume::Path(_) | Subvolume::Id(_)))) => {
            fs.subvolume(&which).is_ok_and(|ino| ino == root.ino)
        }
        _ => false,
    }
}

/// The subvolumes in the upper directories of a btrfs.
fn subvolumes(fs: &dyn GuestFs) -> Vec<GuestIno> {
    if fs.subvolume(&Subvolume::Id(TOP_LEVEL)).is_err() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut looked = 0usize;
    let mut todo = vec![(fs.root(), Vec::new(), 0usize)];
    while let Some((dir, path, depth)) = todo.pop() {
        let Ok(entries) = fs.entries(dir) else {
            continue;
        };
        for entry in entries.iter() {
            looked = looked.saturating_add(1);
            if looked > DIRECTORIES_MAX {
                return found;
            }
            let mut path: Vec<u8> = path.clone();
            path.extend_from_slice(&entry.name);
            if let Ok(ino) = fs.subvolume(&Subvolume::Path(path.clone())) {
                found.push(ino);
                continue;
            }
            let is_directory = fs
                .attributes(entry.ino)
                .is_ok_and(|a| a.file_type == FileType::Directory);
            if is_directory && depth < DEPTH_MAX {
                path.push(b'/');
                todo.push((entry.ino, path, depth.saturating_add(1)));
            }
        }
    }
    found
}

/// The roots on a volume; the first one is the one that the machine starts.
pub(super) fn roots(
    filesystems: &Filesystems<'_>,
    volume: usize,
    fs: &dyn GuestFs,
    open: Open<'_>,
    entries: &[boot::Entry],
) -> Vec<Root> {
    let plain = |place: FileLocation| Root {
        place,
        mounts: Vec::new(),
        is_certain: false,
    };
    let found = |place: &FileLocation| Tree::new(open, *place).is_system();
    let mut roots: Vec<Root> = Vec::new();
    // The subvolume of the newest boot entry.
    let uuid = fs.info().uuid.as_deref();
    let is_own = |entry: &&boot::Entry| match entry.option("root") {
        Some(root) => root
            .strip_prefix("UUID=")
            .is_none_or(|own| uuid == Some(own)),
        None => true,
    };
    let booted = entries
        .iter()
        .filter(is_own)
        .find_map(boot::Entry::subvolume)
        .and_then(|path| fs.subvolume(&Subvolume::Path(path)).ok())
        .map(|ino| FileLocation { volume, ino });
    if let Some(place) = booted.filter(found) {
        roots.push(Root {
            is_certain: true,
            ..plain(place)
        });
    }
    let named = ROOT_SUBVOLUMES
        .iter()
        .map(|name| Subvolume::Path(name.to_vec()));
    let usual: Vec<FileLocation> = std::iter::once(Subvolume::Default)
        .chain(named)
        .filter_map(|which| fs.subvolume(&which).ok())
        .chain(std::iter::once(fs.root()))
        .map(|ino| FileLocation { volume, ino })
        .collect();
    for physical in booted.iter().chain(&usual) {
        let deployments = ostree::deployments(*physical, open, entries);
        if !deployments.is_empty() {
            return deployments
                .into_iter()
                .map(|found| Root {
                    mounts: found.mounts,
                    ..plain(found.root)
                })
                .collect();
        }
    }
    if roots.is_empty() {
        roots.extend(usual.iter().copied().find(found).map(plain));
    }
    // Of all other subvolumes only those that their own fstab names: a snapshot's fstab names its origin.
    for ino in subvolumes(fs) {
        let place = FileLocation { volume, ino };
        let is_known = roots.iter().any(|root| root.place == place);
        if !is_known && found(&place) && names_itself(filesystems, open, fs, place) {
            roots.push(plain(place));
        }
    }
    roots
}
