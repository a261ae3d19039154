//! md arrays: a mirror is read from a current half; arrays of other levels are only named.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use super::device::{DEPTH_MAX, ScannedDevice};
use super::half::{Half, judge, named};
use super::scan::Scanner;
use super::{Alias, Known, Origin};
use crate::block::run::RunMap;
use crate::guest::md::Superblock;
use crate::guest::probe::{Class, Content};

/// The level of a mirror.
const MIRROR: u32 = 1;

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Scanner<'_> {
    /// Adds a device with a superblock; its array is assembled later.
    pub(super) fn member(&mut self, device: &ScannedDevice, superblock: Superblock) {
        let content = Content {
            format: "linux_raid_member",
            class: Class::Container,
            label: None,
            uuid: crate::guest::bytes::uuid(superblock.uuid),
        };
        self.halves.push(Half {
            volume: self.volumes.len(),
            path: device.path.clone(),
            map: Arc::clone(&device.map),
            depth: device.depth,
            superblock,
        });
        let known = Known::Unsupported("an md array, which is not assembled".to_owned());
        self.add(device.clone(), Some(content), known);
    }

    /// Assembles the found arrays, and the arrays within them.
    pub(super) fn arrays(&mut self) {
        // LIMIT: the loop ends, because arrays that are nested too deep are not scanned.
        while !self.halves.is_empty() {
            let mut waiting = std::mem::take(&mut self.halves);
            let uuids: BTreeSet<[u8; 16]> =
                waiting.iter().map(|half| half.superblock.uuid).collect();
            for uuid in uuids {
                let (halves, rest) = waiting
                    .into_iter()
                    .partition(|half| half.superblock.uuid == uuid);
                waiting = rest;
                self.array(&halves);
            }
        }
    }

    fn set_known(&mut self, volume: usize, known: Known) {
        if let Some(volume) = self.volumes.get_mut(volume) {
            volume.known = known;
        }
    }

    fn array(&mut self, halves: &[Half]) {
        let Some(newest) = halves.iter().max_by_key(|half| half.superblock.events) else {
            return;
        };
        let superblock = &newest.superblock;
        let (level, name) = (superblock.level_name(), &superblock.name);
        if superblock.level != MIRROR || superblock.is_reshaped {
            let role = format!("a device of the md array {name} ({level}), which is not assembled");
            for half in halves {
                self.set_known(half.volume, Known::Unsupported(role.clone()));
            }
            return;
        }
        let verdict = judge(halves);
        let dir = self.names.directory("md");
        let path = format!("{dir}/{name}");
        for (half, stale) in halves.iter().zip(&verdict.stale) {
            let known = match stale {
                Some(why) => {
                    self.notes
                        .push(format!("{}: not read for {path}: {why}", half.path));
                    Known::Damaged(format!("a device of the md array {name}: {why}"))
                }
                None => Known::Member(format!("md array {name}")),
            };
            self.set_known(half.volume, known);
        }
        let current = verdict.stale.iter().filter(|stale| stale.is_none()).count();
        let current = u32::try_from(current).unwrap_or(u32::MAX);
        let carrier = verdict.carrier.and_then(|at| halves.get(at));
        let depth = halves.iter().map(|half| half.depth).max().unwrap_or(0);
        let mut device = ScannedDevice {
            path: path.clone(),
            origin: Origin::Array { name: name.clone() },
            map: Arc::new(RunMap::linear(0, 0, 0)),
            depth: depth.saturating_add(1),
            type_name: Some(format!("md {level}")),
            part_label: None,
            part_uuid: None,
            alias: Alias {
                device_id: Some(hex(&superblock.uuid)),
                ..Alias::default()
            },
            damage: None,
            sector_bytes: None,
            is_left_over: false,
        };
        let Some(carrier) = carrier else {
            let all: Vec<String> = halves.iter().map(named).collect();
            let why = format!(
                "none of the devices of this md array that are there is current beyond doubt: {}",
                all.join(", ")
            );
            self.add(device, None, Known::Damaged(why));
            return;
        };
        let (start, length) = carrier.superblock.data;
        let whole = RunMap::linear((), start, length);
        match whole.compose(|(), at, length| Ok(carrier.map.run_at(at, length))) {
            Ok(map) => device.map = Arc::new(map),
            Err(error) => {
                self.unread(&path, &error);
                self.add(device, None, Known::Damaged(error.report()));
                return;
            }
        }
        if current < carrier.superblock.devices {
            let (of, from) = (carrier.superblock.devices, named(carrier));
            self.notes.push(format!(
                "{path}: {current} of the {of} devices of this md array are there and current; it is read from {from}, which may be old if \
                 the array had dropped it"
            ));
        }
        if device.depth > DEPTH_MAX {
            self.notes.push(format!(
                "{path}: nested deeper than {DEPTH_MAX}; not looked into"
            ));
            self.add(device, None, Known::NoFilesystem);
        } else {
            self.look(device);
        }
    }
}
