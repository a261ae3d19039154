//! `restorefs rebuild-catalog`: rebuilds the catalog from the sidecars, and reports the
//! repository's damage.

use super::context::Context;
use super::damage;
use crate::error::Result;
use crate::types::size::Count;

pub(super) fn run(context: &Context) -> Result<()> {
    let writer = context.writer("rebuild-catalog")?;
    let vms = writer.service.rebuild_catalog()?;
    let faults = damage::of_all(context.repository()?.as_ref())?;
    if context.output.json {
        context
            .output
            .json(&serde_json::json!({"vms": vms, "damage": faults}))?;
    } else {
        context
            .output
            .outcome(format!("catalog rebuilt: {}", Count::of(vms, "VM")))?;
    }
    damage::end(&faults)
}
