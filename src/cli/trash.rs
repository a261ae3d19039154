//! `restorefs trash`: lists what was removed and is not deleted yet, or deletes it.

use jiff::Timestamp;
use serde_json::json;

use super::args::retention::Trash;
use super::context::Context;
use crate::error::Result;
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &Trash) -> Result<()> {
    if args.empty {
        let answer = context.writer("trash")?.service.empty_trash()?;
        if context.output.json {
            return context
                .output
                .json(&json!({"entries": answer.entries, "freed_bytes": answer.freed_bytes}));
        }
        let entries = match answer.entries {
            1 => "1 entry".to_owned(),
            many => Count(many, "entry").to_string(),
        };
        return context.output.outcome(format!(
            "{entries} deleted, {} freed",
            Human(answer.freed_bytes)
        ));
    }
    let trash = context.repository()?.trash()?;
    if context.output.json {
        return context.output.json(&trash);
    }
    let time = |at: Option<Timestamp>| {
        at.map_or_else(
            || "-".to_owned(),
            |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        )
    };
    let rows: Vec<Vec<String>> = trash
        .iter()
        .map(|entry| {
            vec![
                entry.kind.as_str().to_owned(),
                entry.vm.clone().unwrap_or_else(|| "-".to_owned()),
                entry.what.clone(),
                Human(entry.size_bytes).to_string(),
                time(entry.since),
                time(entry.goes_at),
                entry.name.clone(),
            ]
        })
        .collect();
    context.output.table(
        &["KIND", "VM", "WHAT", "SIZE", "SINCE", "GOES AFTER", "NAME"],
        &["SIZE"],
        &rows,
    )
}
