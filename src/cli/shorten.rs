//! After a backup on a chain that is too deep: hidden layers are merged, and where that is not enough the newest layer becomes full.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::context::Context;
use super::merge::{Merger, summary};
use crate::error::Result;
use crate::service::backup::made::Made;

/// Shortens the chains of a point that was just committed, where they are deeper than the repository wants. A failure is told, and harms
/// nothing: the point is committed, and the next backup tries again.
pub(super) fn shorten(context: &Context, made: &Made, stop: Arc<AtomicBool>) {
    let vm = &made.vm;
    let done = depth(context, made).and_then(|depth| match depth {
        Some((depth, max_depth)) if depth > max_depth => {
            context.output.remark(format!(
                "restorefs: the chain of {vm} has {depth} layers, and is to have {max_depth} at most: hidden layers are merged"
            ));
            merge(context, made, stop)
        }
        _ => Ok(()),
    });
    if let Err(e) = done {
        context.output.warn(format!(
            "the point is committed, but its chain is still too deep: {}",
            e.report()
        ));
    }
}

/// Layers of the point's deepest chain, and how many it is to have at most.
fn depth(context: &Context, made: &Made) -> Result<Option<(u32, u32)>> {
    let repository = context.repository()?;
    let index = repository.index(&made.vm)?;
    let mut points = index.points.iter();
    let point = points.find(|point| point.point_id == made.point_id);
    let disks = point.iter().flat_map(|point| &point.disks);
    let depth = disks.filter_map(|disk| disk.depth).max();
    Ok(depth.map(|depth| (depth, repository.format().max_depth())))
}

fn merge(context: &Context, made: &Made, stop: Arc<AtomicBool>) -> Result<()> {
    let vm = &made.vm;
    let merger = Merger::new(context, stop, false, None)?;
    let merged = merger.merge(vm)?;
    if merged.layers > 0 {
        context
            .output
            .remark(format!("restorefs: {vm}: {}", summary(&merged)));
    }
    match depth(context, made)? {
        Some((depth, max_depth)) if depth > max_depth => {}
        _ => return Ok(()),
    }
    let point = &made.name;
    context.output.remark(format!(
        "restorefs: that is not enough, as restore points need the other layers: the newest layer becomes full ({vm}@{point})"
    ));
    merger.make_full(vm, point, &[]).map(|_| ())
}
