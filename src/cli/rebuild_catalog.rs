//! `restorefs rebuild-catalog`: builds the catalog anew from the sidecars, and says what of the repository is damaged.

use super::context::{Context, Writer};
use super::damage;
use crate::daemon::control::Request;
use crate::error::Result;
use crate::types::size::Count;

pub(super) fn run(context: &Context) -> Result<()> {
    let vms: usize = match context.writer("rebuild-catalog")? {
        Writer::Daemon(mut client) => client.ask(&Request::RebuildCatalog)?,
        Writer::Here(owner) => owner.rebuild_catalog()?,
    };
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
