//! Finds the volume to which an fstab's source refers.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::array::{arrays_named, arrays_with_id, by_array, is_array, part_of};
use super::hardware;
use super::lookup::{Found, Hints, all, missing};
use super::{Class, Obstacle, Refusal, VolumeFacts};
use crate::guest::volume::Origin;

/// Decodes udev's `\x20`.
fn unhexed(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = match after {
            [b'x', high, low, ..] if *first == b'\\' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parts of a device-mapper name: `vg--a-lv` is the volume `lv` of the group `vg-a`.
fn mapper_parts(name: &str) -> Option<(String, String)> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.next_if_eq(&'-').is_none() {
            parts.push(String::new());
            continue;
        }
        parts.last_mut()?.push(c);
    }
    match <[String; 2]>::try_from(parts) {
        Ok([group, volume]) => Some((group, volume)),
        Err(_) => None,
    }
}

/// The number of a disk from its letters: `a` 0, `z` 25, `aa` 26.
fn letters(text: &str) -> Option<usize> {
    let mut number = 0usize;
    for byte in text.bytes() {
        let digit = byte.checked_sub(b'a').filter(|d| *d < 26)?;
        number = number
            .checked_mul(26)?
            .checked_add(usize::from(digit))?
            .checked_add(1)?;
    }
    number.checked_sub(1)
}

/// Disk and partition of a kernel name: `sda1`, `nvme0n1p2`, `mmcblk0p1`. The guest's disks are counted in
/// their order here.
fn disk_name(name: &str) -> Option<(usize, Option<u32>)> {
    let partition = |text: &str| text.parse::<u32>().ok();
    for prefix in ["nvme", "mmcblk"] {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (disk, rest) = rest.split_at_checked(end)?;
        let rest = match rest.strip_prefix('n') {
            Some(space) => space.trim_start_matches(|c: char| c.is_ascii_digit()),
            None => rest,
        };
        let number = match rest.strip_prefix('p') {
            Some(number) => Some(partition(number)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        return Some((disk.parse().ok()?, number));
    }
    let rest = ["xvd", "sd", "vd", "hd"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let end = rest
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(rest.len());
    let (disk, number) = rest.split_at_checked(end)?;
    let number = match number {
        "" => None,
        number => Some(partition(number)?),
    };
    Some((letters(disk)?, number))
}

/// Whether a source names a disk by the kernel's counting.
pub(super) fn is_kernel_name(source: &str) -> bool {
    source
        .strip_prefix("/dev/")
        .is_some_and(|name| disk_name(name).is_some())
}

fn is(field: Option<&String>, value: &str) -> bool {
    field.is_some_and(|field| field.eq_ignore_ascii_case(value))
}

/// Finds volumes by tag and value, as in `UUID=` and in the directories of `/dev/disk`.
fn by_tag(volumes: &[VolumeFacts], tag: &str, value: &str) -> Option<Vec<usize>> {
    Some(match tag {
        "uuid" => all(volumes, |facts| is(facts.uuid.as_ref(), value)),
        "label" => all(volumes, |facts| facts.label.as_deref() == Some(value)),
        "partuuid" => all(volumes, |facts| is(facts.part_uuid.as_ref(), value)),
        "partlabel" => all(volumes, |facts| facts.part_label.as_deref() == Some(value)),
        _ => return None,
    })
}

fn logical(volumes: &[VolumeFacts], group: &str, name: &str) -> Vec<usize> {
    all(
        volumes,
        |facts| matches!(&facts.origin, Origin::Logical { group: g, name: n } if g == group && n == name),
    )
}

/// The refusal for an encrypted device: on the point's disks, or unknown.
fn encrypted(volumes: &[VolumeFacts], below: &str) -> Refusal {
    let is_there = find(volumes, below, &Hints::default()).is_ok_and(|(found, _)| {
        let mut found = found.iter().filter_map(|volume| volumes.get(*volume));
        found.any(|facts| matches!(facts.obstacle, Some(Obstacle::Unreadable(_))))
    });
    let class = if is_there {
        Class::Unreadable
    } else {
        Class::Missing
    };
    Refusal::new(
        class,
        format!("/etc/crypttab opens it from {below}, which is encrypted"),
    )
}

/// Finds volumes by the name of a device-mapper device.
fn by_mapper(
    volumes: &[VolumeFacts],
    name: &str,
    hints: &Hints<'_>,
) -> Result<Vec<usize>, Refusal> {
    if let Some((_, below)) = hints.mapped.iter().find(|(mapped, _)| mapped == name) {
        return Err(encrypted(volumes, below));
    }
    match mapper_parts(name) {
        Some((group, volume)) => Ok(logical(volumes, &group, &volume)),
        None => Err(missing("it is no LVM volume")),
    }
}

/// Finds volumes by a name below `/dev/disk/`.
fn by_link(volumes: &[VolumeFacts], kind: &str, value: &str, hints: &Hints<'_>) -> Found {
    let value = &unhexed(value);
    if let Some(found) = by_tag(volumes, kind, value) {
        return Ok((found, None));
    }
    let found = match kind {
        "id" | "path" if hardware::is_name(&format!("/dev/disk/by-{kind}/{value}")) => {
            return hardware::find(volumes, value, hints.fs_type, &hints.taken);
        }
        "id" => {
            let (name, number) = match value.rsplit_once("-part") {
                Some((name, number)) if number.parse::<u32>().is_ok() => {
                    (name, number.parse().ok())
                }
                _ => (value.as_str(), None),
            };
            if let Some(id) = name.strip_prefix("dm-uuid-LVM-") {
                all(volumes, |facts| {
                    !is_array(facts) && facts.alias.device_id.as_deref() == Some(id)
                })
            } else if let Some(name) = name.strip_prefix("dm-name-") {
                by_mapper(volumes, name, hints)?
            } else if let Some(uuid) = name.strip_prefix("md-uuid-") {
                part_of(volumes, arrays_with_id(volumes, uuid), number)
            } else if let Some(name) = name.strip_prefix("md-name-") {
                part_of(volumes, arrays_named(volumes, name), number)
            } else {
                return Err(missing("such names are not known outside of the guest"));
            }
        }
        _ => {
            return Err(missing(format!(
                "the names in /dev/disk/by-{kind} are not known outside of the guest"
            )));
        }
    };
    Ok((found, None))
}

fn by_device(volumes: &[VolumeFacts], device: &str, hints: &Hints<'_>) -> Found {
    let sure = |found| Ok((found, None));
    if let Some(name) = device.strip_prefix("mapper/") {
        return by_mapper(volumes, name, hints).and_then(sure);
    }
    if let Some((kind, value)) = device
        .strip_prefix("disk/by-")
        .and_then(|rest| rest.split_once('/'))
    {
        return by_link(volumes, kind, value, hints);
    }
    if device.starts_with("dm-") {
        return Err(missing("the numbers of /dev/dm-N are given at each boot"));
    }
    if device.strip_prefix("md").is_some_and(|rest| {
        rest.starts_with('/')
            || rest.starts_with(|c: char| c.is_ascii_digit())
            || rest.starts_with('_')
    }) {
        return by_array(volumes, device, hints);
    }
    if let Some((group, volume)) = device.split_once('/') {
        return sure(logical(volumes, group, volume));
    }
    let (disk, partition) = disk_name(device).ok_or_else(|| missing("no disk has such a name"))?;
    sure(all(volumes, |facts| match (&facts.origin, partition) {
        (Origin::Disk(d), None) => *d == disk,
        (
            Origin::Partition {
                disk: Some(d),
                number,
            },
            Some(wanted),
        ) => *d == disk && *number == wanted,
        _ => false,
    }))
}

/// The volumes to which `source` may refer.
pub(super) fn find(volumes: &[VolumeFacts], source: &str, hints: &Hints<'_>) -> Found {
    let (found, note) = if let Some(device) = source.strip_prefix("/dev/") {
        by_device(volumes, device, hints)?
    } else if let Some((tag, value)) = source.split_once('=') {
        let value = value.trim_matches('"');
        let found = by_tag(volumes, &tag.to_ascii_lowercase(), value)
            .ok_or_else(|| missing(format!("{tag}= is not known outside of the guest")))?;
        (found, None)
    } else {
        return Err(missing("it is no device"));
    };
    if found.is_empty() {
        return Err(Refusal::absent());
    }
    Ok((found, note))
}

#[cfg(test)]
mod tests {
    use super::{Hints, VolumeFacts, disk_name, find, mapper_parts};
    use crate::guest::volume::{Alias, Origin};

    fn facts(origin: Origin, n: u8) -> VolumeFacts {
        VolumeFacts {
            path: format!("v{n}"),
            origin,
            label: Some(format!("label {n}")),
            uuid: Some(format!("0000-000{n}a")),
            part_label: Some(format!("part{n}")),
            part_uuid: Some(format!("abcd-0{n}")),
            format: None,
            serial: None,
            disks: Vec::new(),
            is_snapshot: false,
            alias: Alias::default(),
            may_open: true,
            obstacle: None,
        }
    }

    #[test]
    fn volumes_are_found_by_every_name() {
        let partition = |disk, number| Origin::Partition { disk, number };
        let volumes = [
            facts(partition(Some(0), 1), 0),
            facts(partition(Some(1), 3), 1),
            facts(Origin::Disk(2), 2),
            facts(
                Origin::Logical {
                    group: "my-vg".to_owned(),
                    name: "lv-1".to_owned(),
                },
                3,
            ),
            facts(partition(None, 1), 4),
        ];
        let mapped = [("data".to_owned(), "/dev/sda2".to_owned())];
        let hints = Hints {
            fs_type: "ext4",
            mapped: &mapped,
            ..Hints::default()
        };
        for (source, expected) in [
            ("UUID=0000-0000A", 0),
            ("UUID=\"0000-0001a\"", 1),
            ("LABEL=label 2", 2),
            ("PARTUUID=ABCD-00", 0),
            ("PARTLABEL=part4", 4),
            ("/dev/disk/by-uuid/0000-0003a", 3),
            ("/dev/disk/by-label/label\\x203", 3),
            ("/dev/disk/by-partuuid/abcd-01", 1),
            ("/dev/disk/by-partlabel/part1", 1),
            ("/dev/mapper/my--vg-lv--1", 3),
            ("/dev/my-vg/lv-1", 3),
            ("/dev/sda1", 0),
            ("/dev/vdb3", 1),
            ("/dev/xvdc", 2),
            ("/dev/nvme1n1p3", 1),
            ("/dev/nvme2n1", 2),
            ("/dev/mmcblk0p1", 0),
        ] {
            assert_eq!(
                find(&volumes, source, &hints),
                Ok((vec![expected], None)),
                "{source}"
            );
        }
        for source in [
            "UUID=1",
            "/dev/sda2",
            "/dev/sdz9",
            "/dev/dm-0",
            "/dev/md0",
            "/dev/mapper/data",
            "/dev/mapper/a-b-c",
            "/dev/disk/by-id/x",
            "/dev/",
            "ID=x",
            "nonsense",
            "",
        ] {
            assert!(find(&volumes, source, &hints).is_err(), "{source}");
        }
        let why = find(&volumes, "/dev/mapper/data", &hints)
            .unwrap_err()
            .reason;
        assert!(why.contains("/dev/sda2"), "{why}");
    }

    #[test]
    fn names_have_parts() {
        let parts = |name| mapper_parts(name).map(|(a, b)| format!("{a} {b}"));
        assert_eq!(parts("a-b").as_deref(), Some("a b"));
        assert_eq!(parts("a--b-c--d").as_deref(), Some("a-b c-d"));
        assert_eq!(parts("a----b-c").as_deref(), Some("a--b c"));
        assert_eq!(parts("ab"), None);
        assert_eq!(disk_name("sdaa12"), Some((26, Some(12))));
        assert_eq!(disk_name("nvme0n1p"), None);
        assert_eq!(disk_name("sda1x"), None);
        assert_eq!(disk_name("sd"), None);
        assert_eq!(disk_name(&format!("sd{}", "z".repeat(40))), None);
        assert_eq!(disk_name("sr0"), None);
    }
}
