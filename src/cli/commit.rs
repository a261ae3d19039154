//! `restorefs commit`: makes a restore point of a session.

use super::args::Commit;
use super::context::Context;
use super::shorten::shorten;
use super::target::{parse_disks, parse_ids, parse_session};
use crate::control::Client;
use crate::daemon::interrupt;
use crate::error::Result;
use crate::service::backup::made::Made;
use crate::service::{CommitRequest, Service};
use crate::types::PointName;
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &Commit) -> Result<()> {
    let session = parse_session(&args.session)?;
    let request = CommitRequest {
        point: args.point.as_deref().map(PointName::new).transpose()?,
        change_ids: parse_ids(&args.declared.change_id)?,
        previous_change_ids: parse_ids(&args.previous_change_id)?,
        unchanged: parse_disks(&args.declared.unchanged)?,
        without: parse_disks(&args.declared.without)?,
        raw: parse_disks(&args.raw)?,
        consistency: None,
        consistency_note: None,
    };
    let repository = context.repository()?;
    let answer = Client::require(&repository)?.commit(&session, &request)?;
    let made = Made::of(&answer)?;
    print(context, &made)?;
    shorten(context, &made, interrupt::flag()?);
    Ok(())
}

/// Prints the result of a commit.
///
/// # Errors
/// `Io`.
fn print(context: &Context, made: &Made) -> Result<()> {
    if context.output.json {
        return context
            .output
            .json(&serde_json::json!({"vm": made.vm, "point": made.document}));
    }
    outcome(context, made)
}

/// Prints the restore point as a line.
pub(super) fn outcome(context: &Context, made: &Made) -> Result<()> {
    let changed: u64 = made.disks.iter().map(|disk| disk.changed_bytes).sum();
    let size: u64 = made.disks.iter().map(|disk| disk.source_bytes).sum();
    let disks = Count::of(made.disks.len(), "disk");
    context.output.outcome(format!(
        "{}@{} committed: {}, {} changed of {}, {disks}",
        made.vm,
        made.name,
        made.kind,
        Human(changed),
        Human(size)
    ))
}
