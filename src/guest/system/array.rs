//! Names of md arrays.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::lookup::{Found, Hints, all, missing};
use super::{Class, Refusal, VolumeFacts};
use crate::guest::volume::Origin;

/// Whether a volume is an array.
pub(super) fn is_array(facts: &VolumeFacts) -> bool {
    matches!(facts.origin, Origin::Array { .. })
}

/// The UUID of an array in mdadm's spelling, as letters and digits.
fn plain(uuid: &str) -> String {
    uuid.chars()
        .filter(|c| *c != ':' && *c != '-')
        .collect::<String>()
        .to_ascii_lowercase()
}

/// The same with the bytes of each group of four reversed: mdadm prints the words of the old superblock in
/// that order.
fn turned(id: &str) -> String {
    let bytes: Vec<&str> = (0..id.len())
        .step_by(2)
        .filter_map(|at| id.get(at..at.checked_add(2)?))
        .collect();
    let words = bytes.chunks(4);
    words.flat_map(|word| word.iter().rev().copied()).collect()
}

/// The arrays with a UUID.
pub(super) fn arrays_with_id(volumes: &[VolumeFacts], uuid: &str) -> Vec<usize> {
    let wanted = plain(uuid);
    all(volumes, |facts| {
        let id = facts.alias.device_id.as_deref().unwrap_or_default();
        is_array(facts) && !id.is_empty() && (id == wanted || turned(id) == wanted)
    })
}

/// The arrays with a name.
pub(super) fn arrays_named(volumes: &[VolumeFacts], name: &str) -> Vec<usize> {
    // Names have a host as prefix: `web01:root`.
    let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
    all(
        volumes,
        |facts| matches!(&facts.origin, Origin::Array { name: own } if own == name),
    )
}

/// A partition of these volumes, when a number is given.
pub(super) fn part_of(
    volumes: &[VolumeFacts],
    found: Vec<usize>,
    number: Option<u32>,
) -> Vec<usize> {
    let Some(number) = number else {
        return found;
    };
    let paths: Vec<String> = found
        .iter()
        .filter_map(|at| volumes.get(*at))
        .map(|facts| format!("{}.part/{number}", facts.path))
        .collect();
    all(volumes, |facts| paths.contains(&facts.path))
}

/// Finds arrays by name: `md0`, `md127p1`, `md/root`. Numbers are assigned anew at each boot unless
/// mdadm.conf fixes them.
pub(super) fn by_array(volumes: &[VolumeFacts], device: &str, hints: &Hints<'_>) -> Found {
    let configured = |device: &str| {
        let full = format!("/dev/{device}");
        let configured = hints.arrays.iter().find(|(known, _)| *known == full);
        configured.map(|(_, array)| {
            let found = arrays_with_id(volumes, array);
            match found.is_empty() {
                true => arrays_named(volumes, array),
                false => found,
            }
        })
    };
    let (whole, number) = match device.strip_prefix("md/") {
        Some(_) => (device, None),
        None => match device.rsplit_once('p') {
            Some((whole, number)) if number.parse::<u32>().is_ok() => (whole, number.parse().ok()),
            _ => (device, None),
        },
    };
    if let Some(found) = configured(whole) {
        return Ok((part_of(volumes, found, number), None));
    }
    let found = match whole.strip_prefix("md/") {
        Some(name) => arrays_named(volumes, name),
        None => {
            let plain = whole.strip_prefix("md").unwrap_or(whole);
            let mut found = arrays_named(volumes, whole);
            found.extend(arrays_named(volumes, plain));
            found
        }
    };
    if !found.is_empty() {
        return Ok((part_of(volumes, found, number), None));
    }
    match all(volumes, is_array).as_slice() {
        [only] => {
            let path = volumes.get(*only).map_or("", |facts| &facts.path);
            let note = format!("inferred: {path} is the only array");
            Ok((part_of(volumes, vec![*only], number), Some(note)))
        }
        [] => Err(missing("there is no such md array")),
        several => {
            let paths: Vec<&str> = several
                .iter()
                .filter_map(|at| volumes.get(*at))
                .map(|facts| facts.path.as_str())
                .collect();
            let list = paths.join(", ");
            let why = format!("numbers of md arrays are given at each boot; it may be {list}");
            Err(Refusal::new(Class::Unreadable, why))
        }
    }
}
