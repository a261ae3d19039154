//! The documents of a point: `info.json` and `volumes.json`.
//!
//! # Why
//! Their size must be known at stat, so they are generated whole. Their content may grow; each version has
//! its own inode, so that no reader sees a mixture.

use serde::Deserialize;
use serde_json::{Value, json};

use super::snapshot::PointView;
use super::volume::Volumes;
use super::volume_node::VolumeNode;
use crate::error::{Error, Result};
use crate::guest::fs::{Attributes, FsInfo, Trouble, VolumeState};
use crate::guest::volume::{Known, Volume};
use crate::repo::StoredBytes;
use crate::repo::sidecar::point::{Point, PointDisk};
use crate::repo::sidecar::state::State;

/// A document's bytes.
pub(super) fn bytes(value: &Value) -> Vec<u8> {
    // Encoding a value never fails.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}

fn disk(disk: &PointDisk) -> Value {
    json!({
        "name": disk.name,
        "file": format!("disks/{}.raw", disk.name),
        "key": disk.key,
        "kind": disk.kind,
        "full_reason": disk.full_reason,
        "layer": disk.layer.layer_file(),
        "size_bytes": disk.size_bytes,
        "source_bytes": disk.source_bytes,
        "data_bytes": disk.data_bytes,
        "changed_bytes": disk.changed_bytes,
        "change_id": disk.change_id,
        "content_root": disk.content_root,
        "parent_content_root": disk.parent_content_root,
    })
}

/// How a disk is read.
#[derive(Debug, Default)]
pub(super) struct ReadPath {
    /// Bytes that its flat disk takes, as `du` counts; `None` where there is none.
    pub(super) flat_bytes: Option<u64>,
    /// Whether an open of the disk reads the flat disk.
    pub(super) passthrough: bool,
    /// Why not, where that was asked for.
    pub(super) reason: Option<String>,
}

impl ReadPath {
    const fn name(&self) -> &'static str {
        if self.passthrough {
            "passthrough"
        } else {
            "buffered"
        }
    }
}

/// `info.json`. Unreadable parts are listed under `damage`; the rest is from the index.
pub(super) fn info(
    view: &PointView,
    point: &Result<std::sync::Arc<Point>>,
    state: &Result<State>,
    stored: &Result<StoredBytes>,
    paths: &[ReadPath],
) -> Vec<u8> {
    let entry = &view.entry;
    let point_sidecar: Option<&Point> = point.as_ref().ok().map(AsRef::as_ref);
    let mut disks: Vec<Value> = match point_sidecar {
        Some(point) => point.disks.iter().map(disk).collect(),
        None => entry.disks.iter().map(|disk| json!(disk)).collect(),
    };
    let of_disks = stored.as_ref().map_or(&[][..], StoredBytes::of_disks);
    for (n, (disk, entry)) in disks.iter_mut().zip(&entry.disks).enumerate() {
        if let Value::Object(fields) = disk {
            fields.insert("stored_bytes".to_owned(), json!(of_disks.get(n)));
            fields.insert("depth".to_owned(), json!(entry.depth));
            let path = paths.get(n);
            let name = path.map_or("buffered", ReadPath::name);
            fields.insert("read_path".to_owned(), json!(name));
            let flat_bytes = path.and_then(|path| path.flat_bytes);
            fields.insert("flat_bytes".to_owned(), json!(flat_bytes));
            if let Some(reason) = path.and_then(|path| path.reason.as_ref()) {
                fields.insert("read_path_reason".to_owned(), json!(reason));
            }
        }
    }
    let attached: Vec<Value> = point_sidecar
        .map_or(&entry.attached, |point| &point.attached)
        .iter()
        .map(
            |file| json!({"name": file.name, "size_bytes": file.size_bytes, "blake3": file.blake3}),
        )
        .collect();
    let damage: Vec<String> = [
        point.as_ref().err(),
        state.as_ref().err(),
        stored.as_ref().err(),
    ]
    .into_iter()
    .flatten()
    .map(Error::report)
    .collect();
    let is_passed = !paths.is_empty() && paths.iter().all(|path| path.passthrough);
    let mut info = json!({
        "schema": 1,
        "vm": view.vm,
        "vm_id": view.vm_id,
        "point": entry.name,
        "point_id": entry.point_id,
        "seq": entry.seq,
        "kind": entry.kind,
        "captured_at": entry.captured_at,
        "committed_at": entry.committed_at,
        "consistency": point_sidecar.and_then(|point| point.consistency),
        "consistency_note": point_sidecar.and_then(|point| point.consistency_note.as_ref()),
        "parent": entry.parent,
        "disks": disks,
        "attached": attached,
        "tags": state.as_ref().ok().map(|state| &state.tags),
        "kept": state.as_ref().ok().map(|state| state.kept),
        "stored_bytes": stored.as_ref().ok().and_then(StoredBytes::total),
        "check": entry.check,
        "checked_at": entry.checked_at,
        "read_path": if is_passed { "passthrough" } else { "buffered" },
        "writer": point_sidecar.map(|point| &point.writer),
    });
    if let (false, Value::Object(fields)) = (damage.is_empty(), &mut info) {
        fields.insert("damage".to_owned(), json!(damage));
    }
    if let (Ok(state), Value::Object(fields)) = (&state, &mut info)
        && !state.copies.is_empty()
    {
        fields.insert("copies".to_owned(), json!(state.copies));
    }
    // Members of the state that this release does not know: locks.
    if let (Ok(state), Value::Object(fields)) = (state, &mut info) {
        for (name, value) in state.unknown.iter() {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    bytes(&info)
}

fn filesystem(info: &FsInfo) -> Value {
    json!({
        "format": info.format,
        "label": info.label,
        "uuid": info.uuid,
        "block_bytes": info.block_bytes,
        "total_bytes": info.total_bytes,
        "used_bytes": info.used_bytes,
        "inodes": info.inodes,
        "inodes_free": info.inodes_free,
        "journal_replayed": info.journal_replayed,
        "notes": info.notes,
    })
}

/// The volumes of a point: the content of `volumes.json`, which the point's state also keeps. `trouble` gives
/// the fault of a volume's reader, `attributes` those of the top of a tree.
pub(super) fn volumes(
    known: &Volumes,
    trouble: impl Fn(&Volume) -> Option<Trouble>,
    attributes: impl Fn(usize) -> Option<Value>,
) -> Value {
    let volumes: Vec<Value> = known
        .nodes
        .iter()
        .map(|node| volume(node, trouble(&node.volume)))
        .collect();
    json!({
        "schema": 1,
        "complete": known.complete,
        "volumes": volumes,
        "files": known.files.describe(attributes),
        "notes": known.notes,
    })
}

/// The tops of `files/` and of further trees, as [`volumes`] wrote them.
#[derive(Debug, Deserialize)]
pub(super) struct Tops {
    /// The first one is that of `files/`.
    #[serde(default)]
    pub(super) files: Vec<Top>,
}

/// The top of a tree.
#[derive(Debug, Deserialize)]
pub(super) struct Top {
    /// Its name in the point's directory.
    pub(super) name: String,
    /// Attributes of the guest's directory; `None` where the top is a directory of the tree itself.
    #[serde(default)]
    pub(super) attributes: Option<Attributes>,
}

fn volume(node: &VolumeNode, trouble: Option<Trouble>) -> Value {
    let volume = &node.volume;
    let (mut state, mut reason) = match &node.state {
        VolumeState::Readable => ("readable", None),
        VolumeState::NoFilesystem => ("no_filesystem", None),
        VolumeState::Unsupported(reason) => ("unsupported", Some(reason.clone())),
        VolumeState::Damaged(reason) => ("damaged", Some(reason.clone())),
    };
    let member_of = match &volume.known {
        Known::Member(of) => Some(of),
        _ => None,
    };
    let mut notes = Vec::new();
    match trouble {
        Some(Trouble {
            over: false,
            reason: why,
        }) => (state, reason) = ("damaged", Some(why)),
        Some(Trouble {
            over: true,
            reason: why,
        }) => notes.push(format!("the reader was {why}")),
        None => {}
    }
    let content = volume.content.as_ref();
    let info = node.info.as_ref();
    json!({
        "path": volume.path,
        "state": state,
        "reason": reason,
        "size_bytes": volume.map.size_bytes(),
        "used_bytes": info.map(|info| info.used_bytes),
        "content": info.map(|info| info.format).or(content.map(|content| content.format)),
        "label": info.and_then(|info| info.label.as_ref()).or(content.and_then(|content| content.label.as_ref())),
        "uuid": info.and_then(|info| info.uuid.as_ref()).or(content.and_then(|content| content.uuid.as_ref())),
        "type": volume.type_name,
        "part_label": volume.part_label,
        "part_uuid": volume.part_uuid,
        "sector_bytes": volume.sector_bytes,
        "is_left_over": volume.is_left_over,
        "member_of": member_of,
        "filesystem": info.map(filesystem),
        "notes": notes,
    })
}
