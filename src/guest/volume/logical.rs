//! LVM across all disks of a point: physical volumes are gathered, groups assembled as they become whole.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scan::{DEPTH_MAX, Device, Scanner};
use super::{Known, Origin};
use crate::block::ReadAt;
use crate::block::run::RunMap;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::lvm::{Budget, Group, Groups, Label, Logical, Resolver, load_texts};
use crate::guest::remark::Remarks;

/// LIMIT: bytes of all groups' texts together (ours; a group of a thousand volumes on ten devices has 10 MiB of them).
const TEXT_BYTES_MAX: usize = 64 << 20;

/// The physical volumes found so far.
#[derive(Default)]
pub(super) struct Physicals {
    groups: Groups,
    /// By identifier; of copies the first.
    maps: BTreeMap<String, Arc<RunMap<usize>>>,
    /// Depth by identifier.
    depths: BTreeMap<String, u32>,
    found: Vec<Found>,
    /// Bytes of text parsed.
    text_bytes: usize,
}

/// One of them.
struct Found {
    /// Its position among the volumes.
    volume: usize,
    path: String,
    id: String,
    /// The group that its own text names.
    group: Option<String>,
    /// Why its text cannot be read.
    damage: Option<String>,
    /// The path of the first volume with this identifier.
    copy_of: Option<String>,
}

impl Physicals {
    /// Takes a device with a label.
    pub(super) fn add(
        &mut self,
        volume: usize,
        device: &Device,
        label: &Label,
        reader: &Arc<dyn ReadAt>,
        notes: &mut Remarks,
    ) {
        let mut found = Found {
            volume,
            path: device.path.clone(),
            id: label.id.clone(),
            group: None,
            damage: None,
            copy_of: None,
        };
        let first = self.found.iter().find(|other| other.id == found.id);
        if let Some(first) = first {
            let (path, id, first) = (&found.path, &found.id, first.path.clone());
            notes.push(format!(
                "{path}: LVM device {id} is there a second time; {first} is used"
            ));
            found.copy_of = Some(first);
            self.found.push(found);
            return;
        }
        for text in load_texts(reader, label) {
            let added = text.and_then(|text| text.map(|text| self.text(&text)).transpose());
            match added {
                Ok(Some(group)) => found.group = Some(group),
                Ok(None) => {}
                Err(error) => {
                    let report = error.report();
                    notes.push(format!("{}: LVM metadata: {report}", found.path));
                    found.damage = Some(report);
                }
            }
        }
        self.maps.insert(found.id.clone(), Arc::clone(&device.map));
        self.depths.insert(found.id.clone(), device.depth);
        self.found.push(found);
    }

    /// Takes the text of a group; answers the group's identifier.
    fn text(&mut self, text: &[u8]) -> Result<String> {
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        if self.text_bytes > TEXT_BYTES_MAX {
            let what = format!("more than {TEXT_BYTES_MAX} bytes of LVM metadata");
            return Err(Error::new(ErrorKind::LimitExceeded, what));
        }
        self.groups.add(text)
    }

    /// What a physical volume is a part of.
    fn role(&self, found: &Found, owners: &BTreeMap<&str, &str>) -> Known {
        if let Some(first) = &found.copy_of {
            return Known::Member(format!("LVM; it is a copy of {first}, which is used"));
        }
        if let Some(group) = owners.get(found.id.as_str()) {
            return Known::Member(format!("LVM group {group}"));
        }
        let own = self
            .groups
            .iter()
            .find(|group| Some(&group.id) == found.group.as_ref());
        match (own, &found.damage) {
            (Some(group), _) => {
                let name = &group.name;
                Known::Member(format!(
                    "LVM; it was in the group {name}, which has removed it"
                ))
            }
            (None, Some(damage)) => Known::Damaged(damage.clone()),
            (None, None) => Known::Member("LVM; in no group".to_owned()),
        }
    }
}

/// Whether all of a group's physical volumes are there.
fn is_whole(group: &Group, maps: &BTreeMap<String, Arc<RunMap<usize>>>) -> bool {
    group.physical.iter().all(|pv| maps.contains_key(&pv.id))
}

impl Scanner<'_> {
    /// Assembles groups until no more are found: whole ones first, for what lies in them may complete others.
    pub(super) fn logical_volumes(&mut self) {
        let mut done = BTreeSet::new();
        let mut names = BTreeSet::new();
        let budget = Budget::default();
        // LIMIT: rounds end, because each takes at least one group, and a volume nested too deep gives no more.
        loop {
            let waiting: Vec<Group> = self
                .physicals
                .groups
                .iter()
                .filter(|group| !done.contains(&group.id))
                .cloned()
                .collect();
            let maps = self.physicals.maps.clone();
            let (whole, broken): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|group| is_whole(group, &maps));
            let mut round = if whole.is_empty() { broken } else { whole };
            if round.is_empty() {
                break;
            }
            round.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            for group in round {
                done.insert(group.id.clone());
                let dir = self.group_dir(&group, &mut names);
                self.group(&group, &dir, &maps, &budget);
            }
        }
        let mut owners = BTreeMap::new();
        for group in self.physicals.groups.iter() {
            for pv in &group.physical {
                owners.entry(pv.id.as_str()).or_insert(group.name.as_str());
            }
        }
        for found in &self.physicals.found {
            let role = self.physicals.role(found, &owners);
            if let Some(volume) = self.volumes.get_mut(found.volume) {
                volume.known = role;
            }
        }
    }

    /// The directory of a group; of several with one name the first keeps it.
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

    fn group(
        &mut self,
        group: &Group,
        dir: &str,
        maps: &BTreeMap<String, Arc<RunMap<usize>>>,
        budget: &Budget,
    ) {
        self.notes.take("", group.notes.clone());
        for pv in &group.physical {
            let (id, key) = (&pv.id, &pv.key);
            if !maps.contains_key(id) {
                self.notes
                    .push(format!("{dir}: PV {id} ({key}) is missing"));
            } else if pv.is_missing {
                let note =
                    format!("{dir}: PV {id} ({key}) is there, but the group has given it up");
                self.notes.push(note);
            }
        }
        let depths = group
            .physical
            .iter()
            .filter_map(|pv| self.physicals.depths.get(&pv.id));
        let depth = depths.max().copied().unwrap_or(0).saturating_add(1);
        let resolver = Resolver::new(group, maps, self.sources, budget);
        for lv in group.logical.iter().filter(|lv| lv.is_visible) {
            if self.is_full {
                break;
            }
            self.logical(group, lv, dir, depth, &resolver);
        }
    }

    fn logical(
        &mut self,
        group: &Group,
        lv: &Logical,
        dir: &str,
        depth: u32,
        resolver: &Resolver<'_>,
    ) {
        let path = format!("{dir}/{}", lv.name);
        let mut notes = Remarks::default();
        let map = resolver.map(&lv.name, &mut notes);
        self.notes.take(&format!("{path}: "), notes);
        let mut device = Device {
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
            damage: None,
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
