//! Planning a session: which point it is compared with, which disks it has, and which of the
//! parent's disks each of them continues.
//!
//! # Why
//! A hypervisor may call a disk `vda` today and `sda` tomorrow, and two disks may swap their names.
//! The key stays. So a disk with a real key (one that is not just its name) is found by its key,
//! and only a disk without one is found by its name. A mistake here would compare a disk with a
//! different one. No data would be lost, but nearly all of it would be stored again; with an agent
//! that sends only changes, the result would be a mixture of two disks.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, ErrorKind, Result};
use crate::ingest::request::limit::check_key;
use crate::ingest::request::{BeginRequest, DiskRequest};
use crate::repo::Slot;
use crate::repo::entry::VmEntry;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::{Kind, Point, PointDisk};
use crate::repo::sidecar::session::{ParentDisk, SessionDisk};
use crate::types::{DiskName, LayerId};

/// LIMIT: disks of one VM.
pub const DISKS_MAX: usize = 256;

/// Chooses the point that a session is compared with.
pub(in crate::ingest) fn choose_parent<'e>(
    entry: &'e VmEntry,
    request: &BeginRequest,
) -> Result<Option<&'e PointEntry>> {
    if request.full && (request.differential || request.parent.is_some()) {
        return Err(Error::invalid(
            "a full backup has no parent: --full excludes --differential and --parent",
        ));
    }
    Ok(if request.full {
        None
    } else if let Some(which) = &request.parent {
        Some(which.find(&entry.index)?)
    } else if request.differential {
        entry
            .index
            .points
            .iter()
            .filter(|point| point.is_full())
            .max_by_key(|p| p.seq)
    } else {
        entry.index.latest()
    })
}

/// A disk of the session: what the caller requested, which of the parent's disks it continues, and
/// why it continues none although it could.
#[derive(Debug, Clone, Copy, Default)]
struct DiskMatch<'a> {
    request: Option<&'a DiskRequest>,
    /// The parent's disk that it continues.
    base: Option<&'a PointDisk>,
    /// The parent's disk of the same name, when that is a different disk.
    namesake: Option<&'a PointDisk>,
}

/// Whether a key identifies more than the name does.
fn is_real(key: &str, name: &DiskName) -> bool {
    key != name.as_str()
}

fn real_key(request: &DiskRequest) -> Option<&str> {
    let key = request.key.as_deref();
    key.filter(|key| is_real(key, &request.name))
}

pub(in crate::ingest) fn same(one: &DiskName, other: &DiskName) -> bool {
    one.same_as(other)
}

/// Refuses a request that names a disk or a key twice, or that declares a disk as gone which the
/// parent does not have.
fn check_request(request: &BeginRequest, parent: Option<&Point>) -> Result<()> {
    let names: BTreeSet<String> = request.disks.iter().map(|d| d.name.folded()).collect();
    if names.len() != request.disks.len() {
        return Err(Error::invalid(
            "a disk is named twice (names are compared without regard to case)",
        ));
    }
    let mut keys: BTreeMap<&str, &DiskName> = BTreeMap::new();
    for disk in &request.disks {
        if let Some(key) = real_key(disk) {
            check_key(&disk.name, key)?;
        }
        if let Some(key) = real_key(disk)
            && let Some(other) = keys.insert(key, &disk.name)
        {
            return Err(Error::invalid(format!(
                "disks {other} and {} have the same key {key}",
                disk.name
            )));
        }
    }
    for gone in request.without.iter().filter(|_| !request.full) {
        if parent.is_none_or(|parent| parent.disk(gone).is_none()) {
            return Err(Error::not_found(format!(
                "the parent point has no disk {gone} that could be left out"
            )));
        }
    }
    Ok(())
}

/// Finds the parent's disk that each requested disk continues, first by its key, then by its name.
/// The parent's other disks follow.
fn place_disks<'a>(
    request: &'a BeginRequest,
    parent: Option<&'a Point>,
) -> Result<Vec<DiskMatch<'a>>> {
    check_request(request, parent)?;
    let is_gone = |disk: &PointDisk| request.without.iter().any(|gone| same(gone, &disk.name));
    let old: Vec<&PointDisk> = parent
        .iter()
        .flat_map(|p| &p.disks)
        .filter(|disk| !is_gone(disk))
        .collect();
    // The request that has taken each disk of `old`.
    let mut taken: BTreeMap<usize, &DiskRequest> = BTreeMap::new();
    for disk in &request.disks {
        let by_key = real_key(disk).and_then(|key| {
            let known = |old: &&PointDisk| old.key == key && is_real(&old.key, &old.name);
            old.iter().position(known)
        });
        if let Some(at) = by_key {
            taken.insert(at, disk);
        }
    }
    let mut new: Vec<DiskMatch<'a>> = Vec::new();
    let mut replaced: BTreeSet<usize> = BTreeSet::new();
    for disk in &request.disks {
        if taken.values().any(|other| same(&other.name, &disk.name)) {
            continue;
        }
        let Some(at) = old.iter().position(|o| same(&o.name, &disk.name)) else {
            new.push(DiskMatch {
                request: Some(disk),
                ..DiskMatch::default()
            });
            continue;
        };
        let namesake = old.get(at).copied();
        let is_other = taken.contains_key(&at)
            || real_key(disk).is_some_and(|key| {
                namesake.is_some_and(|o| is_real(&o.key, &o.name) && o.key != key)
            });
        if is_other {
            replaced.insert(at);
            new.push(DiskMatch {
                request: Some(disk),
                base: None,
                namesake,
            });
        } else {
            taken.insert(at, disk);
        }
    }
    let is_complete = request.complete;
    let mut places = Vec::new();
    for (at, disk) in old.iter().enumerate() {
        let request = taken.get(&at).copied();
        let is_named = request.is_some();
        if !is_named && (replaced.contains(&at) || is_complete) {
            continue;
        }
        if !is_named && let Some(other) = taken.values().find(|other| same(&other.name, &disk.name))
        {
            return Err(collision(other, disk));
        }
        places.push(DiskMatch {
            request,
            base: Some(disk),
            namesake: None,
        });
    }
    places.append(&mut new);
    Ok(places)
}

fn collision(renamed: &DiskRequest, old: &PointDisk) -> Error {
    let key = renamed.key.as_deref().unwrap_or_default();
    let (name, old_key) = (&old.name, &old.key);
    let advice = if is_real(old_key, name) {
        format!(
            "name the disk that has key {old_key} now (--key NAME={old_key}), or declare it removed: --without {name}"
        )
    } else {
        format!("declare the parent's {name} removed: --without {name}")
    };
    Error::invalid(format!(
        "the disk with key {key} is called {name} now, but the parent has another disk {name} (key {old_key}) that would be inherited"
    ))
    .advise(advice)
}

/// The reason why a disk is stored in full although it seems to have a predecessor.
fn full_reason(place: &DiskMatch<'_>, asked_full: bool, has_parent: bool) -> Option<String> {
    if asked_full || place.base.is_some() || !has_parent {
        return None;
    }
    let key = place.request.and_then(real_key);
    Some(match (place.namesake, key) {
        (Some(old), Some(key)) => format!(
            "another disk has this name now (key {key}, was {})",
            old.key
        ),
        (Some(old), None) => format!(
            "the parent's disk of this name (key {}) has another name now",
            old.key
        ),
        (None, _) => "the parent point has no such disk".to_owned(),
    })
}

fn sizes(name: &DiskName, place: &DiskMatch<'_>) -> Result<(u64, u64)> {
    let source_bytes = place
        .request
        .and_then(|r| r.source_bytes)
        .or_else(|| place.base.or(place.namesake).map(|p| p.source_bytes))
        .ok_or_else(|| {
            Error::invalid(format!("the size of the new disk {name} is not known"))
                .advise(format!("give it: {name}=SIZE"))
        })?;
    let size_bytes = source_bytes
        .checked_next_multiple_of(512)
        .filter(|size| *size <= crate::qcow2::writer::SIZE_BYTES_MAX)
        .ok_or_else(|| Error::invalid(format!("disk {name} is too large for QCOW2")))?;
    Ok((source_bytes, size_bytes))
}

/// Plans one disk of the session.
fn plan_disk(
    place: &DiskMatch<'_>,
    session: &BeginRequest,
    has_parent: bool,
    captured_at: jiff::Timestamp,
) -> Result<SessionDisk> {
    // An existing disk keeps its spelling; a renamed one gets its new name.
    let name = match (place.request, place.base.or(place.namesake)) {
        (Some(request), Some(old)) if !same(&request.name, &old.name) => &request.name,
        (_, Some(old)) => &old.name,
        (Some(request), None) => &request.name,
        (None, None) => return Err(Error::invalid("a disk without a name")),
    };
    let asked_full = session.full || place.request.is_some_and(|r| r.full);
    let base = place.base.filter(|_| !asked_full);
    let (source_bytes, size_bytes) = sizes(name, place)?;
    if let Some(base) = base
        && size_bytes < base.size_bytes
    {
        let smaller = format!(
            "disk {name} is smaller than its parent ({size_bytes} < {} bytes)",
            base.size_bytes
        );
        // The caller most likely meant the disk in the image.
        let origin = session.origin(name).and_then(|o| o.lookalike.as_ref());
        return Err(match origin {
            Some(seen) => Error::invalid(format!("{smaller}, and {}", seen.describe(name)))
                .advise(seen.ways_out.clone()),
            None => Error::invalid(smaller)
                .advise(format!("if that is right, begin a new disk: --full {name}")),
        });
    }
    let kind = match base {
        None => Kind::Full,
        Some(_) if session.differential => Kind::Differential,
        Some(_) => Kind::Incremental,
    };
    let full_reason = full_reason(place, asked_full, has_parent);
    if let Some(reason) = &full_reason {
        tracing::warn!(vm = %session.vm, disk = %name, reason, "this disk is stored in full");
    }
    let old_name = base.map(|base| &base.name).filter(|old| !same(old, name));
    if let Some(old) = old_name {
        tracing::info!(vm = %session.vm, disk = %name, old = %old, "a disk has another name now");
    }
    let key = place.request.and_then(|r| r.key.clone());
    let key = key
        .or_else(|| place.base.map(|base| base.key.clone()))
        .unwrap_or_else(|| name.to_string());
    let layer_id = LayerId::random();
    Ok(SessionDisk {
        layer: Slot::new(name, captured_at, layer_id),
        name: name.clone(),
        number: 0,
        log: None,
        temporary: None,
        unlinked: false,
        inherited: place.base.is_some() || place.namesake.is_some(),
        key,
        layer_id,
        kind,
        full_reason,
        size_bytes,
        source_bytes,
        parent: base.map(|base| ParentDisk {
            name: old_name.cloned(),
            layer: base.layer.clone(),
            content_root: base.content_root,
            size_bytes: base.size_bytes,
            source_bytes: base.source_bytes,
            data_bytes: base.data_bytes,
            change_id: base.change_id.clone(),
            unknown: Unknown::new(),
        }),
        unknown: Unknown::new(),
    })
}

/// Plans all disks of the session.
pub(in crate::ingest) fn plan_disks(
    request: &BeginRequest,
    parent: Option<&Point>,
    captured_at: jiff::Timestamp,
) -> Result<Vec<SessionDisk>> {
    let places = place_disks(request, parent)?;
    if places.is_empty() && !request.empty {
        return Err(Error::invalid(format!("{} has no disks yet", request.vm))
            .advise("name them: DISK=SIZE"));
    }
    if places.len() > DISKS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("more than {DISKS_MAX} disks"),
        ));
    }
    let mut disks = Vec::new();
    for (place, number) in places.iter().zip(0..) {
        let planned = plan_disk(place, request, parent.is_some(), captured_at)?;
        disks.push(SessionDisk { number, ..planned });
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::plan_disks;
    use crate::error::{ErrorKind, Result};
    use crate::ingest::session::sample::{self, point_disk};
    use crate::ingest::{BeginRequest, DiskRequest};
    use crate::repo::Slot;

    use crate::repo::sidecar::point::Point;
    use crate::types::{DiskName, VmName};
    use jiff::Timestamp;

    fn name(text: &str) -> DiskName {
        DiskName::new(text).unwrap()
    }

    fn point(disks: &[(&str, &str)]) -> Point {
        let disks = disks.iter().map(|(name, key)| point_disk(name, key));
        sample::point(disks)
    }

    /// Requests are `name` or `name:key`; planned disks are `name:key<name of the parent's disk`,
    /// or `name:key full`.
    fn plan(parent: &[(&str, &str)], asked: &[&str], without: &[&str]) -> Result<Vec<String>> {
        let parent = point(parent);
        let mut request = BeginRequest::new(VmName::new("web01").unwrap());
        request.without = without.iter().map(|text| name(text)).collect();
        for text in asked {
            let (text, key) = text
                .split_once(':')
                .map_or((*text, None), |(name, key)| (name, Some(key.to_owned())));
            request.disks.push(DiskRequest {
                name: name(text),
                source_bytes: Some(1 << 20),
                key,
                full: false,
            });
        }
        let disks = plan_disks(&request, Some(&parent), Timestamp::UNIX_EPOCH)?;
        let slot_of = |layer: &Slot| {
            let old = parent.disks.iter().find(|old| old.layer == *layer);
            old.unwrap().name.to_string()
        };
        Ok(disks
            .iter()
            .map(|disk| {
                assert_eq!(disk.full_reason.is_some(), disk.parent.is_none());
                let from = disk.parent.as_ref().map_or_else(
                    || " full".to_owned(),
                    |parent| format!("<{}", slot_of(&parent.layer)),
                );
                format!("{}:{}{from}", disk.name, disk.key)
            })
            .collect())
    }

    const KEYED: [(&str, &str); 2] = [("vda", "K1"), ("vdb", "K2")];

    #[test]
    fn a_disk_with_a_key_goes_on_under_any_name() {
        let ok = |asked: &[&str]| plan(&KEYED, asked, &[]).unwrap();
        assert_eq!(ok(&[]), ["vda:K1<vda", "vdb:K2<vdb"]);
        assert_eq!(ok(&["vda"]), ["vda:K1<vda", "vdb:K2<vdb"]);
        assert_eq!(ok(&["sda:K1"]), ["sda:K1<vda", "vdb:K2<vdb"]);
        assert_eq!(ok(&["sdb:K2", "sda:K1"]), ["sda:K1<vda", "sdb:K2<vdb"]);
        // Two disks that swapped their names.
        assert_eq!(ok(&["vda:K2", "vdb:K1"]), ["vdb:K1<vda", "vda:K2<vdb"]);
        // A new disk in the place of a renamed one, and in the place of one that is gone.
        assert_eq!(ok(&["sda:K1", "vda:K3"])[2], "vda:K3 full");
        assert_eq!(ok(&["sda:K1", "vda"])[2], "vda:vda full");
        assert_eq!(ok(&["vda:K3"]), ["vdb:K2<vdb", "vda:K3 full"]);
        assert_eq!(ok(&["VDA:K1"])[0], "vda:K1<vda");
    }

    #[test]
    fn what_has_no_key_is_known_by_its_name_and_adopts_one() {
        let plain = [("vda", "vda"), ("vdb", "vdb")];
        let ok = |asked: &[&str]| plan(&plain, asked, &[]).unwrap();
        assert_eq!(ok(&["vda:K1"]), ["vda:K1<vda", "vdb:vdb<vdb"]);
        // A key that is another disk's name does not identify that disk.
        assert_eq!(
            ok(&["sda:vdb"]),
            ["vda:vda<vda", "vdb:vdb<vdb", "sda:vdb full"]
        );
    }

    #[test]
    fn a_name_that_two_disks_would_have_is_refused_until_one_is_said_to_be_gone() {
        let refused = |parent: &[(&str, &str)], asked: &[&str], without: &[&str]| {
            let error = plan(parent, asked, without).unwrap_err();
            (error.kind(), error.report())
        };
        let (kind, message) = refused(&KEYED, &["vda:K2"], &[]);
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(
            message.contains("key K2 is called vda now") && message.contains("--without vda"),
            "{message}"
        );
        assert!(message.contains("--key NAME=K1"), "{message}");
        let (_, message) = refused(&[("vda", "vda"), ("vdb", "K2")], &["vda:K2"], &[]);
        assert!(message.contains("--without vda"), "{message}");
        let gone = plan(&KEYED, &["vda:K2"], &["vda"]).unwrap();
        assert_eq!(gone, ["vda:K2<vdb"]);
        assert_eq!(plan(&KEYED, &[], &["vda"]).unwrap(), ["vdb:K2<vdb"]);
        assert_eq!(refused(&KEYED, &[], &["vdc"]).0, ErrorKind::NotFound);
        // A disk that was declared gone is not found by its key again, and is stored anew.
        assert_eq!(
            plan(&KEYED, &["sda:K1"], &["vda"]).unwrap()[1],
            "sda:K1 full"
        );
        let twice = refused(&KEYED, &["vdx:K1", "vdy:K1"], &[]);
        assert!(twice.1.contains("the same key K1"), "{twice:?}");
        assert!(
            refused(&KEYED, &["vda", "VDA"], &[])
                .1
                .contains("named twice")
        );
        assert!(refused(&KEYED, &[], &["vda", "vdb"]).1.contains("no disks"));
    }
}
