//! The documents of a point: `info.json` and `volumes.json`.
//!
//! # Why
//! Their size must be known at stat, so they are made whole. What they say may grow; each version has an inode of its
//! own, so that no reader sees a mixture.

use serde_json::{Value, json};

use super::snapshot::PointView;
use super::volume::Volumes;
use crate::error::{Error, Result};
use crate::guest::fs::{FsInfo, VolumeState};
use crate::guest::volume::Known;
use crate::repo::sidecar::point::{Point, PointDisk};
use crate::repo::sidecar::state::State;

fn bytes(value: &Value) -> Vec<u8> {
    // Values always encode.
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

/// `info.json`. What cannot be read is said under `damage`; the rest is from the index.
pub(super) fn info(
    view: &PointView,
    point: &Result<std::sync::Arc<Point>>,
    state: &Result<State>,
) -> Vec<u8> {
    let entry = &view.entry;
    let point_sidecar: Option<&Point> = point.as_ref().ok().map(AsRef::as_ref);
    let disks: Vec<Value> = match point_sidecar {
        Some(point) => point.disks.iter().map(disk).collect(),
        None => entry.disks.iter().map(|disk| json!(disk)).collect(),
    };
    let attached: Vec<Value> = entry
        .attached
        .iter()
        .map(
            |file| json!({"name": file.name, "size_bytes": file.size_bytes, "blake3": file.blake3}),
        )
        .collect();
    let damage: Vec<String> = [point.as_ref().err(), state.as_ref().err()]
        .into_iter()
        .flatten()
        .map(Error::report)
        .collect();
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
        "consistency": point_sidecar.and_then(|point| point.unknown.get("consistency")),
        "parent": entry.parent,
        "disks": disks,
        "attached": attached,
        "tags": state.as_ref().ok().map(|state| &state.tags),
        "read_path": "buffered",
        "writer": point_sidecar.map(|point| &point.writer),
    });
    if let (false, Value::Object(fields)) = (damage.is_empty(), &mut info) {
        fields.insert("damage".to_owned(), json!(damage));
    }
    // What changes about a point and this release does not know: checks, locks, copies.
    if let (Ok(state), Value::Object(fields)) = (state, &mut info) {
        for (name, value) in &state.unknown {
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
        "notes": info.notes,
    })
}

/// `volumes.json`: what a scan found, or what the point's state has of an earlier one, or that nobody has looked yet.
pub(super) fn volumes(known: Option<&Volumes>, state: &Result<State>) -> Vec<u8> {
    let Some(known) = known else {
        let earlier = state.as_ref().ok().and_then(|state| state.volumes.as_ref());
        return bytes(&earlier.cloned().unwrap_or_else(|| {
            json!({
                "schema": 1,
                "probed": false,
                "hint": "list the directory volumes, which looks for them, and read this file again",
                "volumes": [],
            })
        }));
    };
    let volumes: Vec<Value> = known
        .nodes
        .iter()
        .map(|node| {
            let volume = &node.volume;
            let (state, reason) = match &node.state {
                VolumeState::Readable => ("readable", None),
                VolumeState::NoFilesystem => ("no_filesystem", None),
                VolumeState::Unsupported(reason) => ("unsupported", Some(reason)),
                VolumeState::Damaged(reason) => ("damaged", Some(reason)),
            };
            let member_of = match &volume.known {
                Known::Member(role) => Some(role),
                _ => None,
            };
            json!({
                "path": volume.path,
                "state": state,
                "reason": reason,
                "member_of": member_of,
                "size_bytes": volume.map.size_bytes(),
                "content": volume.content.as_ref().map(|content| content.format),
                "label": volume.content.as_ref().and_then(|content| content.label.as_ref()),
                "uuid": volume.content.as_ref().and_then(|content| content.uuid.as_ref()),
                "part_type": volume.type_name,
                "part_label": volume.part_label,
                "part_uuid": volume.part_uuid,
                "filesystem": node.info.as_ref().map(filesystem),
            })
        })
        .collect();
    bytes(&json!({
        "schema": 1,
        "probed": true,
        "complete": known.complete,
        "volumes": volumes,
        "notes": known.notes,
    }))
}
