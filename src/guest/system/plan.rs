//! From volumes to systems: roots are looked for, their fstabs joined.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

use super::filesystem::Filesystems;
use super::fstab;
use super::join::Joiner;
use super::kind::{Kind, kind};
use super::label::Labels;
use super::os_release::{self, OsRelease};
use super::source::is_kernel_name;
use super::tree::Tree;
use super::{Class, Files, Obstacle, Open, Place, System, Unjoined, VolumeFacts, shown};
use crate::error::ErrorKind;
use crate::guest::fs::{FileType, GuestFs, Subvolume};

/// Subvolumes of btrfs that distributions put their root in.
const ROOT_SUBVOLUMES: [&[u8]; 3] = [b"@", b"root", b"@rootfs"];

/// Whether the tree from here on looks like that of a system.
fn is_system(tree: &Tree<'_>) -> bool {
    tree.is(b"/etc", FileType::Directory)
        && [
            &b"/etc/fstab"[..],
            b"/etc/os-release",
            b"/usr/lib/os-release",
        ]
        .iter()
        .any(|path| tree.is(path, FileType::Regular))
}

/// Where a system begins on a volume, if it has one.
fn root_of(volume: usize, fs: &dyn GuestFs, open: Open<'_>) -> Option<Place> {
    let named = ROOT_SUBVOLUMES
        .iter()
        .map(|name| Subvolume::Path(name.to_vec()));
    std::iter::once(Subvolume::Default)
        .chain(named)
        .filter_map(|which| fs.subvolume(&which).ok())
        .chain(std::iter::once(fs.root()))
        .map(|ino| Place { volume, ino })
        .find(|root| is_system(&Tree::new(open, *root)))
}

/// Names of `/etc/crypttab` and the devices that they open.
fn parse_crypttab(text: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

/// The label of the filesystem on a volume.
fn label(filesystems: &Filesystems<'_>, volume: usize) -> Option<String> {
    filesystems.volumes.get(volume)?.label.clone()
}

/// What a system calls itself.
fn release(joiner: &Joiner<'_>) -> OsRelease {
    [&b"/etc/os-release"[..], b"/usr/lib/os-release"]
        .iter()
        .map(|path| joiner.read(path))
        .find(|text| !text.is_empty())
        .map(|text| os_release::parse(&text))
        .unwrap_or_default()
}

/// The text of the fstab; one that cannot be read is said.
fn fstab_text(tree: &Tree<'_>) -> (Vec<u8>, Option<Unjoined>) {
    match tree.read(b"/etc/fstab") {
        Ok(text) => (text, None),
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), None),
        Err(error) => {
            let unread = Unjoined {
                source: "/etc/fstab".to_owned(),
                target: "/".to_owned(),
                reason: format!("it cannot be read: {}", error.report()),
                class: Class::Unreadable,
            };
            (Vec::new(), Some(unread))
        }
    }
}

/// The systems of a point in the order of their volumes.
fn plan(filesystems: &Filesystems<'_>, roots: &BTreeMap<usize, Place>) -> Vec<System> {
    let open: Open<'_> = &|volume| filesystems.get(volume);
    let mut systems: Vec<System> = Vec::new();
    let mut labels = Labels::default();
    for (volume, found) in roots {
        let mut joiner = Joiner {
            filesystems,
            open,
            tree: Tree::new(open, *found),
            mapped: Vec::new(),
            unjoined: Vec::new(),
        };
        joiner.mapped = parse_crypttab(&joiner.read(b"/etc/crypttab"));
        let (text, unread) = fstab_text(&joiner.tree);
        let entries = fstab::parse(&text);
        let own = entries
            .iter()
            .rfind(|entry| matches!(kind(entry), Kind::Root));
        let mut root = *found;
        let told = own.map(|entry| {
            // A disk's name in the kernel may be another one here: the volume that was found is meant.
            if is_kernel_name(&shown(&entry.source)) {
                joiner.subvolume_of(*volume, entry)
            } else {
                joiner.root(entry, Some(*volume))
            }
        });
        match told {
            // It is a copy of another system, which is there too.
            Some(Ok(told)) if told.volume != *volume && roots.contains_key(&told.volume) => {
                continue;
            }
            Some(Ok(told)) if is_system(&Tree::new(open, told)) => root = told,
            // What it says cannot be found (a renamed disk): what was found looks like a system all the same.
            _ => {}
        }
        if systems.iter().any(|system| system.root == root) {
            continue;
        }
        joiner.tree = Tree::new(joiner.open, root);
        joiner.unjoined.extend(unread);
        joiner.join(&entries, root.volume);
        let release = release(&joiner);
        let version = match (release.id, release.version_id) {
            (Some(id), Some(version)) => Some(format!("{id}-{version}")),
            (id, _) => id,
        };
        let path = filesystems
            .volumes
            .get(root.volume)
            .map_or("", |facts| &facts.path);
        systems.push(System {
            label: labels.take(&[label(filesystems, root.volume), version], path),
            name: release.pretty_name,
            root,
            mounts: joiner.tree.mounts,
            unjoined: joiner.unjoined,
        });
    }
    systems
}

/// Looks at every filesystem once: what it says of itself, and whether a system begins on it.
fn look(filesystems: &mut Filesystems<'_>) -> BTreeMap<usize, Place> {
    let mut roots = BTreeMap::new();
    for volume in 0..filesystems.volumes.len() {
        let Ok(fs) = filesystems.get(volume) else {
            continue;
        };
        filesystems.complete(volume, &*fs);
        let open: Open<'_> = &|volume| filesystems.get(volume);
        if let Some(root) = root_of(volume, &*fs, open) {
            roots.insert(volume, root);
        }
    }
    roots
}

/// The systems on these volumes, each with the tree that its fstab tells, in the order of the volumes of their roots.
///
/// A filesystem that cannot be opened is none of them; one that an fstab names is listed there with the reason. `open` is asked for each
/// volume that may have a filesystem, and again when more than a few are in use.
#[must_use]
pub fn plan_systems(volumes: &[VolumeFacts], open: Open<'_>) -> Vec<System> {
    let mut filesystems = Filesystems::new(volumes, open);
    let roots = look(&mut filesystems);
    plan(&filesystems, &roots)
}

/// What `files/` of a point is: its systems, else the filesystems of its data disks.
#[must_use]
pub fn plan_files(volumes: &[VolumeFacts], open: Open<'_>) -> Files {
    let mut filesystems = Filesystems::new(volumes, open);
    let roots = look(&mut filesystems);
    let systems = plan(&filesystems, &roots);
    if !systems.is_empty() {
        return Files::Systems(systems);
    }
    let mut labels = Labels::default();
    let mut places: Vec<(String, Place)> = volumes
        .iter()
        .enumerate()
        .filter_map(|(volume, facts)| {
            let fs = filesystems.get(volume).ok()?;
            let ino = fs.subvolume(&Subvolume::Default).unwrap_or(fs.root());
            let name = labels.take(&[label(&filesystems, volume)], &facts.path);
            Some((name, Place { volume, ino }))
        })
        .collect();
    match places.len() {
        0 => Files::Nothing,
        1 => places
            .pop()
            .map_or(Files::Nothing, |(_, place)| Files::One(place)),
        _ => Files::Several(places),
    }
}

/// The volumes that are left out of a tree without a system, each with its reason: those that cannot be read, and, where nothing at all
/// is read, those without files.
#[must_use]
pub fn left_out(volumes: &[VolumeFacts], files: &Files) -> Vec<Unjoined> {
    if matches!(files, Files::Systems(_)) {
        return Vec::new();
    }
    let is_empty = matches!(files, Files::Nothing);
    volumes
        .iter()
        .filter_map(|facts| {
            let (class, reason) = match facts.obstacle.as_ref()? {
                Obstacle::Unreadable(reason) => (Class::Unreadable, reason),
                Obstacle::Other(reason) if is_empty => (Class::NoFiles, reason),
                Obstacle::Other(_) => return None,
            };
            Some(Unjoined {
                source: facts.path.clone(),
                target: "/".to_owned(),
                reason: reason.clone(),
                class,
            })
        })
        .collect()
}
