//! `restorefs synthetic-full`: makes the layers of a restore point full, without reading its source.

use super::args::retention::SyntheticFull;
use super::context::Context;
use super::failure;
use super::merge::Merger;
use crate::daemon::interrupt;
use crate::error::Result;
use crate::repo::selector::Selector;
use crate::task::TaskKind;
use crate::types::DiskName;
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &SyntheticFull) -> Result<()> {
    let selector: Selector = args.point.parse()?;
    let disks = args
        .disk
        .iter()
        .map(DiskName::new)
        .collect::<Result<Vec<_>>>()?;
    let stop = interrupt::flag()?;
    let find = || -> Result<_> {
        let (index, entry, _) = context.repository()?.find(&selector)?;
        let merger = Merger::new(context, stop, false, args.limit.as_deref())?;
        Ok((index, entry, merger))
    };
    let (index, entry, merger) =
        find().inspect_err(|e| failure::note(context, TaskKind::Merge, Some(&selector.vm), e))?;
    let done = merger.make_full(&index.name, &entry.name, &disks)?;
    if context.output.json {
        return context.output.json(&serde_json::json!({
            "vm": index.name, "point": entry.name, "layers": done.layers, "written_bytes": done.written_bytes,
        }));
    }
    let (vm, point) = (&index.name, &entry.name);
    context.output.outcome(match done.layers {
        0 => format!("{vm}@{point}: every disk is full already"),
        layers => format!(
            "{vm}@{point}: {} made full, {} written",
            Count::of(usize::try_from(layers).unwrap_or(usize::MAX), "disk"),
            Human(done.written_bytes)
        ),
    })
}
