//! From volumes to systems: finds roots and joins their fstabs.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;

use super::filesystem::Filesystems;
use super::fstab::{self, Entry};
use super::join::Joiner;
use super::kind::{Kind, kind};
use super::label::Labels;
use super::os_release::{self, OsRelease};
use super::root::{Root, fstab_text, roots};
use super::source::is_kernel_name;
use super::tree::Tree;
use super::{
    Class, FileLocation, Files, Obstacle, Open, System, Unjoined, VolumeFacts, boot, gpt, hardware,
    shown, unit,
};
use crate::guest::fs::Subvolume;

/// Names of `/etc/crypttab`, with the devices that they open.
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

/// The system's own name.
fn release(joiner: &Joiner<'_>) -> OsRelease {
    [&b"/etc/os-release"[..], b"/usr/lib/os-release"]
        .iter()
        .map(|path| joiner.read(path))
        .find(|text| !text.is_empty())
        .map(|text| os_release::parse(&text))
        .unwrap_or_default()
}

/// The devices of `mdadm.conf`, each with the UUID of its array, else the name.
fn parse_mdadm(text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if !words.next()?.eq_ignore_ascii_case("ARRAY") {
            return None;
        }
        let device = words.next()?.to_owned();
        let value = |name: &str| {
            let mut words = words.clone();
            words.find_map(|word| {
                let (key, value) = word.split_once('=')?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        Some((device, value("uuid").or_else(|| value("name"))?))
    });
    lines.collect()
}

/// The root according to the fstab, if it exists; `None` when this system is a copy of another one that
/// exists too.
fn told_root(
    joiner: &mut Joiner<'_>,
    own: Option<&Entry>,
    found: &Root,
    roots: &[Root],
) -> Option<FileLocation> {
    let place = found.place;
    let Some(entry) = own.filter(|_| !found.is_certain) else {
        return Some(place);
    };
    let source = shown(&entry.source);
    // The kernel's name of a disk may differ here: the volume that was found is the root.
    let declared = if is_kernel_name(&source) || hardware::is_name(&source) {
        joiner.subvolume_of(place.volume, entry)
    } else {
        let meant = joiner.meant(entry);
        let is_root = |volume: &usize| roots.iter().any(|root| root.place.volume == *volume);
        if !meant.contains(&place.volume) && meant.iter().any(is_root) {
            return None;
        }
        joiner.root(entry, Some(place.volume))
    };
    match declared {
        Ok(root) if Tree::new(joiner.tree.open(), root).is_system() => Some(root),
        // The named volume cannot be found (a renamed disk), but the found one looks like a system.
        _ => Some(place),
    }
}

/// The entries of the fstab, then of the mount units, then by partition type; earlier ones win.
fn entries(joiner: &mut Joiner<'_>, fstab: Vec<Entry>, root: FileLocation) -> Vec<Entry> {
    let targets = |entries: &[Entry]| -> BTreeSet<Vec<u8>> {
        entries
            .iter()
            .map(|entry| unit::plain(&entry.target))
            .collect()
    };
    let mut all = fstab;
    let declared = targets(&all);
    let (units, notes) = unit::entries(&joiner.tree);
    joiner.notes.extend(notes);
    let new = units
        .into_iter()
        .filter(|entry| !declared.contains(&unit::plain(&entry.target)));
    all.extend(new);
    let found = gpt::entries(
        &joiner.filesystems.volumes,
        root,
        &joiner.tree,
        &targets(&all),
    );
    joiner.notes.extend(found.notes);
    all.extend(found.entries);
    all
}

/// The system that begins at a root; `None` when it is a copy of another one.
fn system(
    filesystems: &Filesystems<'_>,
    found: &Root,
    roots: &[Root],
    systems: &[System],
    labels: &mut Labels,
) -> Option<System> {
    let open: Open<'_> = &|volume| filesystems.get(volume);
    let mut joiner = Joiner::new(filesystems, open, found.place);
    joiner.mapped = parse_crypttab(&joiner.read(b"/etc/crypttab"));
    for path in [&b"/etc/mdadm/mdadm.conf"[..], b"/etc/mdadm.conf"] {
        joiner.arrays.extend(parse_mdadm(&joiner.read(path)));
    }
    let (text, _) = fstab_text(filesystems, open, found.place);
    let declared = fstab::parse(&text);
    let own = declared
        .iter()
        .rfind(|entry| matches!(kind(entry), Kind::Root));
    let root = told_root(&mut joiner, own, found, roots)?;
    if systems.iter().any(|system| system.root == root) {
        return None;
    }
    let (text, unread) = fstab_text(filesystems, open, root);
    let (fstab, notes) = fstab::parse_with_notes(&text);
    joiner.tree = Tree::new(open, root);
    joiner.notes = notes;
    joiner.own_source = fstab
        .iter()
        .rfind(|entry| matches!(kind(entry), Kind::Root))
        .map(|entry| entry.source.clone());
    joiner.tree.mounts.clone_from(&found.mounts);
    joiner.unjoined.extend(unread);
    let entries = entries(&mut joiner, fstab, root);
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
    Some(System {
        label: labels.take(&[label(filesystems, root.volume), version], path),
        name: release.pretty_name,
        root,
        mounts: joiner.tree.mounts,
        unjoined: joiner.unjoined,
        notes: joiner.notes,
    })
}

/// The systems of a point in the order of their volumes; of several roots with one partition type the first
/// one wins.
fn plan(filesystems: &Filesystems<'_>, roots: &[Root]) -> Vec<System> {
    let mut systems: Vec<System> = Vec::new();
    let mut labels = Labels::default();
    for found in roots {
        systems.extend(system(filesystems, found, roots, &systems, &mut labels));
    }
    systems
}

/// Opens every filesystem once, to read its label and UUID and to find the systems on it.
fn look(filesystems: &mut Filesystems<'_>) -> Vec<Root> {
    for volume in 0..filesystems.volumes.len() {
        if let Ok(fs) = filesystems.get(volume) {
            filesystems.complete(volume, &*fs);
        }
    }
    let filesystems = &*filesystems;
    let open: Open<'_> = &|volume| filesystems.get(volume);
    let booted = boot::entries(filesystems, open);
    let mut found = Vec::new();
    for volume in 0..filesystems.volumes.len() {
        if let Ok(fs) = filesystems.get(volume) {
            found.extend(roots(filesystems, volume, &*fs, open, &booted));
        }
    }
    found
}

/// The content of a point's `files/`: its systems, else the filesystems of its data disks.
#[must_use]
pub fn plan_files(volumes: &[VolumeFacts], open: Open<'_>) -> Files {
    let mut filesystems = Filesystems::new(volumes, open);
    let roots = look(&mut filesystems);
    let systems = plan(&filesystems, &roots);
    if !systems.is_empty() {
        return Files::Systems(systems);
    }
    let mut labels = Labels::default();
    let mut places: Vec<(String, FileLocation)> = volumes
        .iter()
        .enumerate()
        .filter_map(|(volume, facts)| {
            let fs = filesystems.get(volume).ok()?;
            let ino = fs.subvolume(&Subvolume::Default).unwrap_or(fs.root());
            let name = labels.take(&[label(&filesystems, volume)], &facts.path);
            Some((name, FileLocation { volume, ino }))
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

/// The volumes that a tree without a system omits, each with the reason: unreadable ones, and, where none is
/// readable, those without files.
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
