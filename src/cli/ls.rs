//! `restorefs ls`: VMs, points, or the tree below a point.

use serde_json::{Value, json};

use super::args::Ls;
use super::context::Context;
use super::damage;
use super::extract::{FoundNode, find, judge};
use super::target::{Target, last_name};
use super::unread;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::FileType;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::{CheckResult, PointEntry};
use crate::repo::{Repository, StoredBytes};
use crate::tree::Attributes;
use crate::types::VmName;
use crate::types::size::Human;

pub(super) fn run(context: &Context, args: &Ls) -> Result<()> {
    let repository = context.repository()?;
    match args.target.as_deref().map(Target::parse).transpose()? {
        None => vms(context, &repository),
        Some(Target::Vm(vm)) => points(context, &repository, &vm),
        Some(Target::Point(selector)) => tree(context, &selector, b"/"),
        Some(Target::Path(selector, path)) => tree(context, &selector, &path),
    }
}

fn size_of(point: &PointEntry) -> u64 {
    point.disks.iter().map(|disk| disk.source_bytes).sum()
}

fn vms(context: &Context, repository: &Repository) -> Result<()> {
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    let names = repository.vm_names()?;
    for (name, index) in names.iter().zip(repository.indexes(&names)?) {
        match index {
            Ok(index) => all.push(index),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                faults.push(format!("{name}: {}", e.report()));
            }
            // A directory without a sidecar is not a VM.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    if context.output.json {
        let list: Vec<_> = all
            .iter()
            .map(|index| {
                let latest = index.latest();
                json!({
                    "vm": index.name, "vm_id": index.vm_id, "points": index.points.len(),
                    "latest": latest.map(|p| &p.name), "committed_at": latest.map(|p| p.committed_at),
                    "size_bytes": latest.map(size_of),
                })
            })
            .collect();
        context.output.json(&list)?;
        return damage::end(&faults);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|index| {
            let latest = index.latest();
            vec![
                index.name.to_string(),
                index.points.len().to_string(),
                latest.map_or_else(|| "-".to_owned(), |p| p.name.to_string()),
                latest.map_or_else(|| "-".to_owned(), |p| p.disks.len().to_string()),
                latest.map_or_else(|| "-".to_owned(), |p| Human(size_of(p)).to_string()),
            ]
        })
        .collect();
    context.output.table(
        &["VM", "POINTS", "LATEST", "DISKS", "SIZE"],
        &["POINTS", "DISKS", "SIZE"],
        &rows,
    )?;
    damage::end(&faults)
}

fn points(context: &Context, repository: &Repository, vm: &VmName) -> Result<()> {
    let index = repository.index(&repository.spelled(vm)?)?;
    let stored = index.points.iter();
    let stored = stored.map(|point| repository.stored_bytes(&index.name, point));
    let stored = stored.collect::<Result<Vec<_>>>()?;
    let points = || index.points.iter().zip(&stored);
    if context.output.json {
        let points = points().map(|(point, stored)| point_json(point, stored));
        return context.output.json(&points.collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = points()
        .map(|(point, stored)| {
            let disks: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
            let changed: u64 = point.disks.iter().map(|disk| disk.changed_bytes).sum();
            vec![
                point.name.to_string(),
                point.seq.to_string(),
                point.kind.as_str().to_owned(),
                point
                    .captured_at
                    .strftime("%Y-%m-%d %H:%M:%S UTC")
                    .to_string(),
                Human(size_of(point)).to_string(),
                Human(changed).to_string(),
                match stored.total() {
                    Some(bytes) => Human(bytes).to_string(),
                    None => "missing".to_owned(),
                },
                checked(point),
                disks.join(" "),
                labels(point),
            ]
        })
        .collect();
    context.output.table(
        &[
            "POINT", "SEQ", "KIND", "CAPTURED", "SIZE", "CHANGED", "STORED", "CHECKED", "DISKS",
            "LABELS",
        ],
        &["SEQ", "SIZE", "CHANGED", "STORED"],
        &rows,
    )
}

/// When a point was last found sound, or that it is damaged.
fn checked(point: &PointEntry) -> String {
    match (point.check, point.checked_at) {
        (Some(CheckResult::Damaged), _) => "damaged".to_owned(),
        (Some(CheckResult::Sound), Some(at)) => at.strftime("%Y-%m-%d").to_string(),
        _ => "-".to_owned(),
    }
}

/// `kept release=1.2`.
fn labels(point: &PointEntry) -> String {
    let kept = point.kept.then(|| "kept".to_owned());
    let tags = point.tags.iter().map(|(key, value)| match value.as_str() {
        "" => key.clone(),
        value => format!("{key}={value}"),
    });
    kept.into_iter().chain(tags).collect::<Vec<_>>().join(" ")
}

/// A point as its index entry has it, with what it takes, and with the members that an entry leaves out.
fn point_json(point: &PointEntry, stored: &StoredBytes) -> Value {
    let mut value = json!(point);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("stored_bytes".to_owned(), json!(stored.total()));
        fields.insert("tags".to_owned(), json!(point.tags));
        fields.insert("kept".to_owned(), json!(point.kept));
        fields.insert("check".to_owned(), json!(point.check));
        fields.insert("checked_at".to_owned(), json!(point.checked_at));
    }
    let disks = value.pointer_mut("/disks").and_then(Value::as_array_mut);
    for (disk, stored) in disks.into_iter().flatten().zip(stored.of_disks()) {
        if let Some(fields) = disk.as_object_mut() {
            fields.insert("stored_bytes".to_owned(), json!(stored));
        }
    }
    value
}

/// A name with its attributes, as one line or one JSON object.
struct Line {
    name: Vec<u8>,
    attributes: Option<Attributes>,
    link: Option<Vec<u8>>,
}

fn tree(context: &Context, selector: &Selector, path: &[u8]) -> Result<()> {
    let place = find(context, selector, path)?;
    // The point's own names do not need its disks to be read.
    let mut unread = match last_name(path) {
        Some(_) => place.unread(path)?,
        None => Vec::new(),
    };
    let FoundNode { tree, found, .. } = place;
    // A listing shows names. Of the entries that are missing by their nature, only a requested one
    // gets a line.
    unread.retain(|one| one.is_here || one.class.is_loss());
    let mut lines = Vec::new();
    if found.attributes.file_type == FileType::Directory {
        tree.entries(found.attributes.ino, 0, &mut |entry| {
            lines.push(Line {
                name: entry.name.to_vec(),
                attributes: entry.found.as_ref().map(|f| f.attributes.clone()),
                link: None,
            });
            true
        })?;
        lines.sort_by(|a, b| a.name.cmp(&b.name));
    } else {
        let name = last_name(path).unwrap_or(b"/");
        lines.push(Line {
            name: name.into(),
            attributes: Some(found.attributes),
            link: None,
        });
    }
    for line in &mut lines {
        if let Some(attributes) = line
            .attributes
            .as_ref()
            .filter(|a| a.file_type == FileType::Symlink)
        {
            line.link = tree.link_target(attributes.ino).ok();
        }
    }
    if context.output.json {
        context
            .output
            .json(&lines.iter().map(Line::json).collect::<Vec<_>>())?;
        return judge(unread::report(context, &unread), 0);
    }
    let rows = lines.iter().map(Line::row).collect::<Result<Vec<_>>>()?;
    context.output.table(
        &["MODE", "LINKS", "UID", "GID", "SIZE", "MODIFIED", "NAME"],
        &["LINKS", "UID", "GID", "SIZE"],
        &rows,
    )?;
    judge(unread::report(context, &unread), 0)
}

fn mode(attributes: &Attributes) -> String {
    let kind = match attributes.file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let bits = attributes.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let three = bits >> shift;
        text.push(if three & 4 != 0 { 'r' } else { '-' });
        text.push(if three & 2 != 0 { 'w' } else { '-' });
        text.push(match (three & 1 != 0, bits & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

impl Line {
    fn json(&self) -> Value {
        let attributes = self.attributes.as_ref();
        json!({
            "name": String::from_utf8_lossy(&self.name),
            "mode": attributes.map(mode),
            "uid": attributes.map(|a| a.uid),
            "gid": attributes.map(|a| a.gid),
            "nlink": attributes.map(|a| a.nlink),
            "size_bytes": attributes.map(|a| a.size_bytes),
            "mtime_seconds": attributes.map(|a| a.mtime.seconds),
            "target": self.link.as_ref().map(|l| String::from_utf8_lossy(l)),
        })
    }

    fn row(&self) -> Result<Vec<String>> {
        let Some(a) = &self.attributes else {
            return Ok(vec![
                "?".into(),
                "?".into(),
                "?".into(),
                "?".into(),
                "?".into(),
                "?".into(),
                String::from_utf8_lossy(&self.name).into_owned(),
            ]);
        };
        let when = jiff::Timestamp::from_second(a.mtime.seconds)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "a time is out of range").caused_by(e))
            .map_or_else(
                |_| "?".to_owned(),
                |t| t.strftime("%Y-%m-%d %H:%M").to_string(),
            );
        let mut name = String::from_utf8_lossy(&self.name).into_owned();
        if let Some(link) = &self.link {
            name = format!("{name} -> {}", String::from_utf8_lossy(link));
        }
        Ok(vec![
            mode(a),
            a.nlink.to_string(),
            a.uid.to_string(),
            a.gid.to_string(),
            a.size_bytes.to_string(),
            when,
            name,
        ])
    }
}
