//! `restorefs rebuild-catalog`: builds the catalog anew from the sidecars.

use super::context::{Context, Writer};
use crate::daemon::control::Request;
use crate::error::Result;

pub(super) fn run(context: &Context) -> Result<()> {
    let vms: usize = match context.writer("rebuild-catalog")? {
        Writer::Daemon(mut client) => client.ask(&Request::RebuildCatalog)?,
        Writer::Here(owner) => owner.rebuild_catalog()?,
    };
    if context.output.json {
        return context.output.json(&serde_json::json!({"vms": vms}));
    }
    context.output.line(format!("catalog rebuilt: {vms} VMs"))
}
