//! btrfs over several devices: the first carries the filesystem, the others are its members.
//!
//! # On-disk layout
//! Linux, `include/uapi/linux/btrfs_tree.h`, `struct btrfs_super_block`, at 64 KiB; little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x20 | 16 | UUID of the filesystem |
//! | 0x88 | 8 | number of devices |
//! | 0xc9 | 8 | number of this device |
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Known, Volume};
use crate::block::ReadAt;
use crate::guest::bytes::{array, le64};
use crate::types::width::u64_from_usize;

const SUPERBLOCK_AT: u64 = 65_536;

/// What a device says of itself.
struct Device {
    filesystem: [u8; 16],
    /// How many devices the filesystem has.
    devices: u64,
    number: u64,
}

fn parse(superblock: &[u8]) -> Option<Device> {
    Some(Device {
        filesystem: array(superblock, 0x20)?,
        devices: le64(superblock, 0x88)?,
        number: le64(superblock, 0xc9)?,
    })
}

/// Joins the devices of each btrfs that has several; answers remarks for people.
pub(super) fn join(volumes: &mut [Volume], sources: &[Arc<dyn ReadAt>]) -> Vec<String> {
    // By filesystem: its devices by number, with their places among the volumes.
    let mut pools: BTreeMap<[u8; 16], (u64, BTreeMap<u64, usize>)> = BTreeMap::new();
    let mut notes = Vec::new();
    for at in 0..volumes.len() {
        let Some(volume) = volumes.get(at) else { break };
        let is_btrfs = volume.content.as_ref().is_some_and(|c| c.format == "btrfs");
        if volume.known != Known::Filesystem || !is_btrfs {
            continue;
        }
        let mut superblock = [0; 4096];
        let read = volume
            .reader(sources)
            .read_at(SUPERBLOCK_AT, &mut superblock);
        // The filesystem of one device is left alone: a snapshot of it has the same UUID and is one of its own.
        let Some(device) = read
            .ok()
            .and_then(|()| parse(&superblock))
            .filter(|device| device.devices > 1)
        else {
            continue;
        };
        let pool = pools.entry(device.filesystem).or_default();
        pool.0 = pool.0.max(device.devices);
        let first = *pool.1.entry(device.number).or_insert(at);
        if first != at {
            let of = volumes.get(first).map(|volume| volume.path.clone());
            let role = format!(
                "btrfs; it is a copy of {}, which is used",
                of.unwrap_or_default()
            );
            if let Some(volume) = volumes.get_mut(at) {
                notes.push(format!("{}: {role}", volume.path));
                volume.known = Known::Member(role);
            }
        }
    }
    for (devices, members) in pools.values() {
        notes.extend(join_one(volumes, *devices, members));
    }
    notes
}

fn join_one(
    volumes: &mut [Volume],
    devices: u64,
    members: &BTreeMap<u64, usize>,
) -> Option<String> {
    let mut places = members.values();
    let carrier = *places.next()?;
    let path = volumes.get(carrier)?.path.clone();
    let mut maps = Vec::new();
    for place in places {
        let volume = volumes.get_mut(*place)?;
        volume.known = Known::Member(format!("btrfs of {path}"));
        maps.push(Arc::clone(&volume.map));
    }
    volumes.get_mut(carrier)?.members = maps;
    let there = u64_from_usize(members.len());
    (there < devices)
        .then(|| format!("{path}: {there} of the {devices} devices of its btrfs are there"))
}
