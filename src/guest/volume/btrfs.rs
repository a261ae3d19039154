//! btrfs over several devices: the first one carries the filesystem, the others are its members.
//!
//! # On-disk layout
//! Linux, `include/uapi/linux/btrfs_tree.h`, `struct btrfs_super_block`, at 64 KiB; little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x20 | 16 | UUID of the filesystem |
//! | 0x48 | 8 | generation: the number of the last commit |
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
use crate::guest::remark::Remarks;
use crate::types::width::u64_from_usize;

const SUPERBLOCK_AT: u64 = 65_536;

/// Facts from the superblock of a device.
struct ScannedDevice {
    filesystem: [u8; 16],
    /// Number of devices of the filesystem.
    devices: u64,
    number: u64,
    /// The last commit in which it took part.
    generation: u64,
}

/// A device of a filesystem with several devices.
struct BtrfsMember {
    /// Its position among the volumes.
    at: usize,
    generation: u64,
}

fn parse(superblock: &[u8]) -> Option<ScannedDevice> {
    Some(ScannedDevice {
        filesystem: array(superblock, 0x20)?,
        devices: le64(superblock, 0x88)?,
        number: le64(superblock, 0xc9)?,
        generation: le64(superblock, 0x48)?,
    })
}

/// A filesystem with several devices: their number, and those found, by device number.
type FoundPool = (u64, BTreeMap<u64, Vec<BtrfsMember>>);

/// Joins the devices of each btrfs with several devices.
pub(super) fn join(volumes: &mut [Volume], sources: &[Arc<dyn ReadAt>], notes: &mut Remarks) {
    // By filesystem: its devices by number, with their positions among the volumes.
    let mut pools: BTreeMap<[u8; 16], FoundPool> = BTreeMap::new();
    for at in 0..volumes.len() {
        let Some(volume) = volumes.get(at) else { break };
        let is_btrfs = volume.content.as_ref().is_some_and(|c| c.format == "btrfs");
        if volume.known != Known::Filesystem || !is_btrfs || volume.is_left_over {
            continue;
        }
        let mut superblock = [0; 4096];
        let read = volume
            .reader(sources)
            .read_at(SUPERBLOCK_AT, &mut superblock);
        // A filesystem with one device stays alone: a snapshot of it has the same UUID, and is a filesystem
        // of its own.
        let Some(device) = read
            .ok()
            .and_then(|()| parse(&superblock))
            .filter(|device| device.devices > 1)
        else {
            continue;
        };
        let pool = pools.entry(device.filesystem).or_default();
        pool.0 = pool.0.max(device.devices);
        pool.1.entry(device.number).or_default().push(BtrfsMember {
            at,
            generation: device.generation,
        });
    }
    for (devices, found) in pools.into_values() {
        let mut members = BTreeMap::new();
        let mut doubts = Vec::new();
        for (number, copies) in found {
            match newest(volumes, &copies, notes) {
                Ok(Some(at)) => {
                    members.insert(number, at);
                }
                Ok(None) => {}
                Err(doubt) => {
                    doubts.push(doubt);
                    members.extend(copies.first().map(|copy| (number, copy.at)));
                }
            }
        }
        let note = join_one(volumes, devices, &members);
        if let Some(carrier) = members.values().next().and_then(|at| volumes.get_mut(*at))
            && !doubts.is_empty()
        {
            let why = doubts.join("; ");
            notes.push(format!("{}: {why}", carrier.path));
            carrier.known = Known::Damaged(why);
        } else if let Some(note) = note {
            notes.push(note);
        }
    }
}

/// Among copies of one device, picks the one with the last commit, as Linux does (`device_list_add`), and
/// sets the roles of the others. Fails with a remark for people when none is newer than the others.
fn newest(
    volumes: &mut [Volume],
    copies: &[BtrfsMember],
    notes: &mut Remarks,
) -> std::result::Result<Option<usize>, String> {
    let Some(newest) = copies.iter().max_by_key(|copy| copy.generation) else {
        return Ok(None);
    };
    let path = |at: usize| volumes.get(at).map_or_else(String::new, |v| v.path.clone());
    let rivals: Vec<&BtrfsMember> = copies.iter().filter(|copy| copy.at != newest.at).collect();
    let is_tie = rivals
        .iter()
        .any(|copy| copy.generation == newest.generation);
    let (role, answer) = if is_tie {
        let all: Vec<String> = copies
            .iter()
            .map(|copy| format!("{} (generation {})", path(copy.at), copy.generation))
            .collect();
        let why = format!(
            "a device of this btrfs is there more than once, and none is newer than the others: {}",
            all.join(", ")
        );
        (format!("btrfs; {why}"), Err(why))
    } else {
        let used = path(newest.at);
        (
            format!("btrfs; it is an older copy of {used}, which is used"),
            Ok(Some(newest.at)),
        )
    };
    for copy in copies {
        let Some(volume) = volumes.get_mut(copy.at) else {
            continue;
        };
        if is_tie || copy.at != newest.at {
            if !is_tie {
                notes.push(format!("{}: {role}", volume.path));
            }
            volume.known = Known::Member(role.clone());
        }
    }
    answer
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
