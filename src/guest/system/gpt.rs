//! Partitions that systemd mounts by their types where no other configuration exists
//! (systemd-gpt-auto-generator(8), Discoverable Partitions Specification).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;

use super::fstab::Entry;
use super::tree::Tree;
use super::{FileLocation, VolumeFacts};
use crate::guest::volume::Origin;

/// Types and their mount points; for the EFI system partition, the mount point depends on the existing
/// directories.
const TYPES: [(&str, &[u8]); 6] = [
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", b"/home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", b"/srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", b"/var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", b"/var/tmp"),
    (EXTENDED_BOOT, b"/boot"),
    (ESP, b"/efi"),
];
const EXTENDED_BOOT: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// The entries for the partitions beside a root, with remarks.
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) notes: Vec<String>,
}

fn exists(tree: &Tree<'_>, path: &[u8]) -> bool {
    tree.resolve(path).is_ok()
}

/// The entries for the disk of the root, for mount points that are not among `told`.
pub(super) fn entries(
    volumes: &[VolumeFacts],
    root: FileLocation,
    tree: &Tree<'_>,
    declared: &BTreeSet<Vec<u8>>,
) -> Found {
    let mut found = Found {
        entries: Vec::new(),
        notes: Vec::new(),
    };
    let Some([disk]) = volumes.get(root.volume).map(|facts| facts.disks.as_slice()) else {
        return found;
    };
    let partitions: Vec<&VolumeFacts> = volumes
        .iter()
        .filter(
            |facts| matches!(facts.origin, Origin::Partition { disk: Some(d), .. } if d == *disk),
        )
        .collect();
    let has_extended = partitions
        .iter()
        .any(|facts| facts.alias.gpt_type.as_deref() == Some(EXTENDED_BOOT));
    for (kind, path) in TYPES {
        let mut of_type = partitions
            .iter()
            .filter(|facts| facts.alias.gpt_type.as_deref() == Some(kind));
        let path = match kind {
            ESP if !exists(tree, b"/efi") && !has_extended => b"/boot",
            _ => path,
        };
        let shown = super::shown(path);
        let forbidden = |facts: &&&VolumeFacts| !facts.alias.is_automatic;
        if let Some(facts) = of_type.clone().find(forbidden) {
            let note = format!(
                "{}: not mounted at {shown}: its no-auto attribute",
                facts.path
            );
            found.notes.push(note);
        }
        let Some(first) = of_type.find(|facts| facts.alias.is_automatic) else {
            continue;
        };
        if declared.contains(path) || !tree.is_free(path) {
            continue;
        }
        // A machine that starts without EFI mounts nothing there; a directory for it indicates EFI.
        if matches!(kind, ESP | EXTENDED_BOOT) && !exists(tree, path) {
            continue;
        }
        for other in of_type {
            let (other, first) = (&other.path, &first.path);
            let note = format!("{other}: not mounted at {shown}: {first} is the first of its type");
            found.notes.push(note);
        }
        let Some(uuid) = &first.part_uuid else {
            continue;
        };
        let note = format!("{} is mounted at {shown} by its partition type", first.path);
        found.notes.push(note);
        found.entries.push(Entry {
            source: format!("PARTUUID={uuid}").into_bytes(),
            target: path.to_vec(),
            fs_type: b"auto".to_vec(),
            options: vec![b"nofail".to_vec()],
        });
    }
    found
}
