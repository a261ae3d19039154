//! LVM across all disks of a point: assembles groups as they become complete.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::device::{DEPTH_MAX, ScannedDevice};
use super::physical::Chosen;
use super::scan::Scanner;
use super::{Alias, Known, Origin};
use crate::block::run::RunMap;
use crate::error::ErrorKind;
use crate::guest::lvm::{Budget, Devices, Group, Logical, Resolver};
use crate::guest::remark::Remarks;

/// Where the volumes of a group are added.
struct GroupDirectory<'a> {
    dir: &'a str,
    depth: u32,
    is_left_over: bool,
}

/// An identifier without hyphens, as in device-mapper.
fn plain(id: &str) -> String {
    id.chars().filter(|c| *c != '-').collect()
}

/// Whether all physical volumes of a group were found.
fn is_whole(group: &Group, devices: &Devices) -> bool {
    group
        .physical
        .iter()
        .all(|pv| matches!(devices.get(&pv.id), Some(Ok(_))))
}

impl Scanner<'_> {
    /// Assembles groups until no more are found. Complete groups come first, because their volumes may
    /// complete others.
    pub(super) fn logical_volumes(&mut self) {
        let mut done = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut chosen = Chosen::default();
        let budget = Budget::default();
        // LIMIT: the loop ends, because each round takes at least one group, and volumes that are nested too
        // deep yield no more.
        loop {
            chosen.settle(&self.inventory.found, &mut self.notes);
            let waiting: Vec<Group> = self
                .inventory
                .groups
                .iter()
                .filter(|group| !done.contains(&group.id))
                .cloned()
                .collect();
            let (whole, broken): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|group| is_whole(group, &chosen.devices));
            let mut round = if whole.is_empty() { broken } else { whole };
            if round.is_empty() {
                break;
            }
            round.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            for group in round {
                done.insert(group.id.clone());
                let dir = self.group_dir(&group, &mut names);
                self.group(&group, &dir, &chosen, &budget);
            }
        }
        let mut owners = BTreeMap::new();
        for group in self.inventory.groups.iter() {
            for pv in &group.physical {
                owners.entry(pv.id.as_str()).or_insert(group.name.as_str());
            }
        }
        for found in &self.inventory.found {
            let choice = chosen.choices.get(&found.id);
            let role = self.inventory.role(found, choice, &owners);
            if let Some(volume) = self.volumes.get_mut(found.volume) {
                volume.known = role;
            }
        }
    }

    /// The directory of a group; of several with one name the first one keeps it.
    fn group_dir(&mut self, group: &Group, names: &mut BTreeSet<String>) -> String {
        let name = &group.name;
        if names.insert(name.clone()) {
            return self.names.directory(&format!("lvm/{name}"));
        }
        let short: String = group
            .id
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(8)
            .collect();
        let id = &group.id;
        let dir = self.names.directory(&format!("lvm/{name}@{short}"));
        self.notes.push(format!(
            "{dir}: another LVM group is named {name}; this one is {id}"
        ));
        dir
    }

    fn group(&mut self, group: &Group, dir: &str, chosen: &Chosen, budget: &Budget) {
        self.notes.take("", group.notes.clone());
        for pv in &group.physical {
            let (id, key) = (&pv.id, &pv.key);
            match chosen.devices.get(id) {
                None => self
                    .notes
                    .push(format!("{dir}: PV {id} ({key}) is missing")),
                // The error was noted where it was found.
                Some(Err(_)) => {}
                Some(Ok(_)) if pv.is_missing => {
                    let note =
                        format!("{dir}: PV {id} ({key}) is there, but the group has given it up");
                    self.notes.push(note);
                }
                Some(Ok(_)) => {}
            }
        }
        for found in &self.inventory.found {
            let is_used = chosen.is_used(found);
            if let Some(version) = found.version.as_ref().filter(|_| is_used)
                && version.group == group.id
                && version.seqno < group.seqno
            {
                let (path, old, new) = (&found.path, version.seqno, group.seqno);
                self.notes.push(format!(
                    "{dir}: {path} has an older text of the group (seqno {old}, the newest is {new}); what lies there may be as old"
                ));
            }
        }
        let parts = self.inventory.found.iter().filter(|found| {
            let is_of = group.physical.iter().any(|pv| pv.id == found.id);
            is_of && chosen.is_used(found)
        });
        let (mut depth, mut is_left_over) = (0, false);
        for part in parts {
            depth = part.depth.max(depth);
            is_left_over |= part.is_left_over;
        }
        let place = GroupDirectory {
            dir,
            depth: depth.saturating_add(1),
            is_left_over,
        };
        let resolver = Resolver::new(group, &chosen.devices, self.sources, budget);
        for lv in group.logical.iter().filter(|lv| lv.is_visible) {
            if self.is_full {
                break;
            }
            self.logical(group, lv, &place, &resolver);
        }
    }

    fn logical(
        &mut self,
        group: &Group,
        lv: &Logical,
        place: &GroupDirectory<'_>,
        resolver: &Resolver<'_>,
    ) {
        let (dir, depth) = (place.dir, place.depth);
        let path = format!("{dir}/{}", lv.name);
        let mut notes = Remarks::default();
        let map = resolver.map(&lv.name, &mut notes);
        self.notes.take(&format!("{path}: "), notes);
        let mut device = ScannedDevice {
            origin: Origin::Logical {
                group: group.name.clone(),
                name: lv.name.clone(),
            },
            path,
            map: Arc::new(RunMap::linear(0, 0, 0)),
            depth,
            type_name: Some(group.kind(lv)),
            part_label: None,
            part_uuid: None,
            alias: Alias {
                device_id: lv.id.as_ref().map(|id| plain(&group.id) + &plain(id)),
                ..Alias::default()
            },
            damage: None,
            sector_bytes: None,
            is_left_over: place.is_left_over,
        };
        match map {
            Ok(map) => {
                device.map = map;
                if Group::is_pool(lv) {
                    let role = "a thin pool; its volumes are listed by themselves".to_owned();
                    self.add(device, None, Known::Member(role));
                } else if depth > DEPTH_MAX {
                    let path = &device.path;
                    self.notes.push(format!(
                        "{path}: nested deeper than {DEPTH_MAX}; not looked into"
                    ));
                    self.add(device, None, Known::NoFilesystem);
                } else {
                    self.look(device);
                }
            }
            Err(error) => {
                self.unread(&device.path, &error);
                let known = match error.kind() {
                    ErrorKind::Unsupported | ErrorKind::LimitExceeded => {
                        Known::Unsupported(error.report())
                    }
                    _ => Known::Damaged(error.report()),
                };
                self.add(device, None, known);
            }
        }
    }
}
