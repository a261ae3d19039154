//! What `backup` prints of its work.

use serde_json::json;

use super::commit::outcome;
use super::context::Context;
use crate::capture::machine::{Capture, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::service::backup::Report;
use crate::types::DiskName;
use crate::types::size::Human;

/// Prints the restore point and what was copied for it.
pub(super) fn print(context: &Context, report: &Report, is_machine: bool) -> Result<()> {
    let made = &report.made;
    let stored = |name: &DiskName| {
        let mut disks = made.disks.iter();
        let disk = disks.find(|disk| disk.name.same_as(name));
        disk.map_or(0, |disk| disk.changed_bytes)
    };
    if context.output.json {
        let disks: Vec<_> = report
            .disks
            .iter()
            .map(|disk| {
                json!({"name": disk.name, "read_bytes": disk.read_bytes, "changed_bytes": disk.changed_bytes,
                    "stored_bytes": stored(&disk.name), "whole_reason": disk.whole_reason, "is_bitmap_wrong": disk.is_bitmap_wrong})
            })
            .collect();
        return context
            .output
            .json(&json!({"vm": made.vm, "point": made.document, "report": {
            "disks": disks, "seconds": report.seconds, "consistency": report.consistency,
            "stopped_ms": report.held.stopped_ms, "frozen_ms": report.held.frozen_ms}}));
    }
    outcome(context, made)?;
    if !is_machine {
        return Ok(());
    }
    for disk in &report.disks {
        let changed = match disk.changed_bytes {
            Some(bytes) => format!("{} changed, ", Human(bytes)),
            None => String::new(),
        };
        context.output.remark(format!(
            "{}: {} read, {changed}{} stored",
            disk.name,
            Human(disk.read_bytes),
            Human(stored(&disk.name))
        ));
    }
    context.output.remark(format!("{:.1} s", report.seconds));
    Ok(())
}

/// The error of a backup whose bitmap was found to claim too little.
///
/// # Errors
/// `Corrupt`: earlier points may lack changes.
pub(super) fn verdict(report: &Report) -> Result<()> {
    let mut wrong = report.disks.iter().filter(|disk| disk.is_bitmap_wrong);
    match wrong.next() {
        None => Ok(()),
        Some(disk) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "the restore point is good, but the bitmap of {} claimed too little: points since its last full one may lack changes",
                disk.name
            ),
        )
        .advise("verify them against the machine, and make a full point: restorefs backup --full")),
    }
}

/// Prints what would be copied.
pub(super) fn show(
    context: &Context,
    capture: &dyn Capture,
    planned: &[(DiskName, Extent)],
) -> Result<()> {
    let size = |name: &DiskName| {
        let mut disks = capture.disks().iter();
        disks
            .find(|disk| disk.name == *name)
            .map_or(0, |disk| disk.size_bytes)
    };
    if context.output.json {
        let disks: Vec<_> = planned
            .iter()
            .map(|(name, extent)| match extent {
                Extent::Since { change_id, changed_bytes } => json!({"name": name, "size_bytes": size(name),
                    "bitmap": change_id, "changed_bytes": changed_bytes}),
                Extent::Whole { reason } => json!({"name": name, "size_bytes": size(name), "bitmap": null, "reason": reason}),
            })
            .collect();
        let left_out: Vec<_> = capture
            .left_out()
            .iter()
            .map(|left| json!({"name": left.name, "reason": left.reason}))
            .collect();
        return context
            .output
            .json(&json!({"disks": disks, "left_out": left_out}));
    }
    let mut rows = Vec::new();
    for (name, extent) in planned {
        let (from, copied) = match extent {
            Extent::Since {
                change_id,
                changed_bytes,
            } => (
                format!("changes since {change_id}"),
                changed_bytes
                    .map_or_else(|| "unknown".to_owned(), |bytes| Human(bytes).to_string()),
            ),
            Extent::Whole { reason } => (
                reason.clone().map_or_else(
                    || "everything".to_owned(),
                    |reason| format!("everything: {reason}"),
                ),
                Human(size(name)).to_string(),
            ),
        };
        rows.push(vec![
            name.to_string(),
            Human(size(name)).to_string(),
            copied,
            from,
        ]);
    }
    context.output.table(
        &["DISK", "SIZE", "TO READ", "WHAT"],
        &["SIZE", "TO READ"],
        &rows,
    )?;
    for left in capture.left_out() {
        context
            .output
            .remark(format!("{} is not backed up: {}", left.name, left.reason));
    }
    Ok(())
}
