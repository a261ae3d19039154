//! Roots of ostree and bootc, several of which lie in one filesystem:
//! `/ostree/deploy/NAME/deploy/CHECKSUM.N`, with `/var` in `/ostree/deploy/NAME/var`.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::boot;
use super::tree::Tree;
use super::{FileLocation, MountAt, Open};
use crate::guest::fs::FileType;

/// LIMIT: deployments of one filesystem (our limit; a machine has two or three).
const DEPLOYMENTS_MAX: usize = 50;

/// A root of ostree.
pub(super) struct Deployment {
    pub(super) root: FileLocation,
    /// Its mounts at boot (ostree-prepare-root(8)).
    pub(super) mounts: Vec<MountAt>,
}

/// The directories to bind into a deployment, according to its content.
fn mounts(physical: &Tree<'_>, open: Open<'_>, root: FileLocation, var: &[u8]) -> Vec<MountAt> {
    let deployment = Tree::new(open, root);
    let mut mounts = Vec::new();
    let boot = physical
        .is(b"/boot/loader", FileType::Directory)
        .then_some((&b"/boot"[..], &b"/boot"[..]));
    for (path, from) in boot.into_iter().chain([(&b"/var"[..], var)]) {
        let (Ok(over), Ok(from)) = (deployment.resolve(path), physical.resolve(from)) else {
            continue;
        };
        if over.file_type == FileType::Directory && from.file_type == FileType::Directory {
            mounts.push(MountAt {
                path: over.path,
                over: over.place,
                root: from.place,
            });
        }
    }
    mounts
}

/// The deployments below a physical root; the one in the newest boot entry comes first.
pub(super) fn deployments(
    physical: FileLocation,
    open: Open<'_>,
    entries: &[boot::Entry],
) -> Vec<Deployment> {
    let tree = Tree::new(open, physical);
    let mut found: Vec<Deployment> = Vec::new();
    for name in tree.names(b"/ostree/deploy") {
        let dir = [&b"/ostree/deploy/"[..], &name].concat();
        let all = [&dir[..], b"/deploy"].concat();
        for checksum in tree.names(&all) {
            let path = [&all[..], b"/", &checksum].concat();
            let Ok(place) = tree.resolve(&path) else {
                continue;
            };
            if place.file_type != FileType::Directory || found.len() >= DEPLOYMENTS_MAX {
                continue;
            }
            if Tree::new(open, place.place).is_system() {
                found.push(Deployment {
                    root: place.place,
                    mounts: mounts(&tree, open, place.place, &[&dir[..], b"/var"].concat()),
                });
            }
        }
    }
    let booted: Vec<FileLocation> = entries
        .iter()
        .filter_map(|entry| tree.resolve(entry.option("ostree")?.as_bytes()).ok())
        .map(|found| found.place)
        .collect();
    let rank = |deployment: &Deployment| {
        let at = booted.iter().position(|place| *place == deployment.root);
        at.unwrap_or(booted.len())
    };
    found.sort_by_key(rank);
    found
}
