//! `restorefs volumes`: shows the volumes on the disks of a restore point, as in its `volumes.json`
//! in the tree.

use serde_json::Value;

use super::args::Volumes;
use super::context::Context;
use super::{damage, document};
use crate::error::Result;
use crate::repo::selector::Selector;
use crate::types::size::Human;

pub(super) fn run(context: &Context, args: &Volumes) -> Result<()> {
    let selector: Selector = args.point.parse()?;
    let faults = damage::of_point(context, &selector)?;
    let found = match document::read(context, &selector, "volumes.json") {
        Ok(found) => found,
        // The disks below the volumes are damaged: that is the error to report.
        Err(e) => return damage::end(&faults).and(Err(e)),
    };
    if context.output.json {
        context.output.json(&found)?;
        return damage::end(&faults);
    }
    let rows: Vec<Vec<String>> = list(&found, "volumes").iter().map(row).collect();
    context.output.table(
        &[
            "VOLUME", "CONTENT", "LABEL", "UUID", "SIZE", "USED", "STATE", "REASON",
        ],
        &["SIZE", "USED"],
        &rows,
    )?;
    let unjoined: Vec<Vec<String>> = list(&found, "files").iter().flat_map(unjoined).collect();
    if !unjoined.is_empty() {
        context.output.line("")?;
        context
            .output
            .table(&["NOT JOINED", "SOURCE", "CLASS", "REASON"], &[], &unjoined)?;
    }
    for note in list(&found, "notes").iter().filter_map(Value::as_str) {
        context.output.remark(note);
    }
    for tree in list(&found, "files") {
        let name = tree.get("name").and_then(Value::as_str).unwrap_or("files");
        for note in list(tree, "notes").iter().filter_map(Value::as_str) {
            context.output.remark(format!("{name}: {note}"));
        }
    }
    damage::end(&faults)
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Notes on a readable volume.
fn notes(volume: &Value) -> Option<String> {
    let of_filesystem = volume.get("filesystem").map(|fs| list(fs, "notes"));
    let all: Vec<&str> = list(volume, "notes")
        .iter()
        .chain(of_filesystem.unwrap_or_default())
        .filter_map(Value::as_str)
        .collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The volumes that are in no tree, one row each.
fn unjoined(tree: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value, name: &str| {
        let text = value.get(name).and_then(Value::as_str);
        text.unwrap_or("-").to_owned()
    };
    let name = text(tree, "name");
    let row = |entry: &Value| {
        let place = format!("/{name}{}", text(entry, "target"));
        vec![
            place.trim_end_matches('/').to_owned(),
            text(entry, "source"),
            text(entry, "class").replace('_', " "),
            text(entry, "reason"),
        ]
    };
    list(tree, "unjoined").iter().map(row).collect()
}

fn row(volume: &Value) -> Vec<String> {
    let text = |name: &str| {
        volume
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let size = |name: &str| {
        volume
            .get(name)
            .and_then(Value::as_u64)
            .map_or_else(|| "-".to_owned(), |bytes| Human(bytes).to_string())
    };
    let reason = match volume.get("member_of").and_then(Value::as_str) {
        Some(of) => format!("part of {of}"),
        None if volume.get("reason").is_some_and(Value::is_string) => text("reason"),
        None => notes(volume).unwrap_or_else(|| "-".to_owned()),
    };
    vec![
        text("path"),
        text("content"),
        text("label"),
        text("uuid"),
        size("size_bytes"),
        size("used_bytes"),
        text("state").replace('_', " "),
        reason,
    ]
}
