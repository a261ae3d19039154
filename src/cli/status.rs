//! `restorefs status`: the verdict in one line, a line for each VM, and the room of the repository.

use serde::Serialize;

use super::args::Status;
use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::{CopyCheck, Health, Verdict, VmHealth};
use crate::repo::Repository;
use crate::repo::register::Register;
use crate::repo::sidecar::index::Index;
use crate::types::duration::{Age, parse_seconds};
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &Status) -> Result<()> {
    let age_max = args.max_age.as_deref().map(parse_seconds).transpose()?;
    let repository = context.repository()?;
    let health = Health::of(&repository, age_max, SystemClock.now())?;
    let copies = match args.check {
        true => Some(copies(&repository)?),
        false => None,
    };
    match context.output.json {
        true => context.output.json(&Answer {
            health: &health,
            copies: copies.as_deref(),
        })?,
        false => {
            show(context, &health)?;
            show_copies(context, copies.as_deref().unwrap_or_default())?;
        }
    }
    match health.verdict {
        Verdict::Ok => end_of_copies(copies.as_deref().unwrap_or_default()),
        Verdict::Damaged => {
            let vms = Count::of(health.damaged().len(), "VM");
            Err(Error::new(
                ErrorKind::Corrupt,
                format!("damage is known of {vms}"),
            ))
        }
        Verdict::Late => {
            let vms = Count::of(health.late().len(), "VM");
            let max = Age(age_max.unwrap_or_default());
            Err(Error::new(
                ErrorKind::PolicyNotMet,
                format!("{vms} without a restore point of the last {max}"),
            ))
        }
    }
}

/// The health, and what the repositories with copies have answered.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    health: &'a Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<&'a [CopyCheck]>,
}

fn copies(repository: &Repository) -> Result<Vec<CopyCheck>> {
    let indexes = repository.indexes(&repository.vm_names()?)?;
    // Those of VMs that cannot be read are damage, which the verdict has.
    let indexes: Vec<Index> = indexes.into_iter().filter_map(Result::ok).collect();
    Ok(CopyCheck::of(&indexes, &Register::load()?))
}

fn name_of(copy: &CopyCheck) -> String {
    match &copy.name {
        Some(name) => name.to_string(),
        None => copy.repository_id.to_string(),
    }
}

fn show_copies(context: &Context, copies: &[CopyCheck]) -> Result<()> {
    for copy in copies {
        let (name, points) = (name_of(copy), Count::of(copy.points, "point"));
        context.output.line(match (&copy.error, copy.lost.len()) {
            (Some(error), _) => format!("copies: {name} was not asked for {points}: {error}"),
            (None, 0) => format!("copies: {name} has all of {points}"),
            (None, lost) => format!("copies: {name} lacks {lost} of {points}"),
        })?;
        for lost in &copy.lost {
            context.output.line(format!("  {lost}"))?;
        }
    }
    Ok(())
}

/// The result of a check of copies when nothing else is wrong.
fn end_of_copies(copies: &[CopyCheck]) -> Result<()> {
    let lost: usize = copies.iter().map(|copy| copy.lost.len()).sum();
    if lost > 0 {
        let lost = Count::of(lost, "copy");
        return Err(Error::new(
            ErrorKind::PolicyNotMet,
            format!("{lost} recorded here that the other repository does not have any more"),
        )
        .advise("copy again: restorefs copy VM --to REPOSITORY"));
    }
    match copies.iter().find(|copy| copy.error.is_some()) {
        Some(copy) => Err(Error::new(
            ErrorKind::PolicyNotMet,
            format!("{} could not be asked for its copies", name_of(copy)),
        )),
        None => Ok(()),
    }
}

fn show(context: &Context, health: &Health) -> Result<()> {
    context.output.line(health.to_string())?;
    let faults = health.vms.iter().flat_map(|vm| &vm.damage);
    if context.output.quiet {
        return faults
            .into_iter()
            .try_for_each(|fault| context.output.line(fault));
    }
    if !health.vms.is_empty() {
        let rows: Vec<Vec<String>> = health.vms.iter().map(row).collect();
        context.output.table(
            &[
                "VM", "POINTS", "LAST", "AGE", "DEPTH", "HIDDEN", "CHECKED", "STATE",
            ],
            &["POINTS", "AGE", "DEPTH", "HIDDEN"],
            &rows,
        )?;
    }
    faults
        .into_iter()
        .try_for_each(|fault| context.output.line(format!("damaged: {fault}")))?;
    if let Some(space) = health.space {
        let low = match space.is_low {
            true => "; low: less than a tenth is free",
            false => "",
        };
        let (free, total) = (Human(space.free_bytes), Human(space.total_bytes));
        context
            .output
            .line(format!("space: {free} free of {total}{low}"))?;
    }
    let trash = Human(health.trash_bytes);
    context.output.line(format!("trash: {trash}"))?;
    context.output.line(match &health.owner {
        Some(owner) if owner.is_daemon => {
            format!("daemon: pid {} on {}", owner.pid, owner.host)
        }
        Some(owner) => format!(
            "daemon: none; the lock is held by restorefs {} (pid {} on {})",
            owner.role, owner.pid, owner.host
        ),
        None if health.is_owner_known => "daemon: none".to_owned(),
        None => "daemon: it cannot be seen whether one runs (the lock cannot be read)".to_owned(),
    })
}

fn row(vm: &VmHealth) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let last = vm.last.as_ref();
    let state = match (vm.damage.is_empty(), vm.is_late, last) {
        (false, ..) => "damaged",
        (true, true, Some(_)) => "late",
        (true, _, None) => "no point",
        (true, false, Some(_)) if vm.is_too_deep => "too deep",
        (true, false, Some(_)) => "ok",
    };
    vec![
        vm.vm.to_string(),
        vm.points.to_string(),
        or_dash(last.map(|last| last.point.to_string())),
        or_dash(last.map(|last| Age(last.age_seconds).to_string())),
        or_dash(vm.depth.map(|depth| depth.to_string())),
        Human(vm.hidden_bytes).to_string(),
        or_dash(vm.checked_at.map(|at| at.strftime("%Y-%m-%d").to_string())),
        state.to_owned(),
    ]
}
