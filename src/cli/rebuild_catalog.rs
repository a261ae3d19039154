//! `restorefs rebuild-catalog`: builds the catalog anew from the sidecars.

use super::context::{Context, Writer};
use crate::daemon::control::Request;
use crate::error::Result;
use crate::types::size::Count;

pub(super) fn run(context: &Context) -> Result<()> {
    let vms: usize = match context.writer("rebuild-catalog")? {
        Writer::Daemon(mut client) => client.ask(&Request::RebuildCatalog)?,
        Writer::Here(owner) => owner.rebuild_catalog()?,
    };
    if context.output.json {
        return context.output.json(&serde_json::json!({"vms": vms}));
    }
    context
        .output
        .outcome(format!("catalog rebuilt: {}", Count::of(vms, "VM")))
}
