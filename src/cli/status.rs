//! `restorefs status`: the verdict in one line, a line for each VM, and the room of the repository.

use std::collections::HashMap;

use serde::Serialize;

use super::args::Status;
use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::{Content, CopyCheck, Health, Verdict, VmHealth};
use crate::jobs::policy::{Report, Standing};
use crate::repo::Repository;
use crate::repo::register::Register;
use crate::repo::sidecar::index::Index;
use crate::types::VmName;
use crate::types::duration::{Age, parse_seconds};
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &Status) -> Result<()> {
    let age_max = args.max_age.as_deref().map(parse_seconds).transpose()?;
    let repository = context.repository()?;
    let now = SystemClock.now();
    let mut health = Health::of(&repository, age_max, repository.trash_bytes()?, now)?;
    // Who may not read the names sees the copies by their ids.
    let register = Register::load().unwrap_or_else(|e| {
        context.output.warn(e.report());
        Register::default()
    });
    let copies = match args.check {
        true => Some(copies(&repository, &register)?),
        false => None,
    };
    let checks = copies.as_deref().unwrap_or_default();
    let policies = match repository.policies()?.is_empty() {
        true => None,
        false => Some(Report::of(&repository, register.entries(), checks, now)?),
    };
    if let Some(policies) = &policies {
        health.judge(policies.unmet());
    }
    match context.output.json {
        true => context.output.json(&Answer {
            health: &health,
            copies: copies.as_deref(),
            policies: policies.as_ref(),
        })?,
        false => {
            show(context, &health, policies.as_ref())?;
            show_copies(context, checks)?;
        }
    }
    match health.verdict {
        Verdict::Ok => end_of_copies(checks),
        Verdict::Unmet => Err(Error::new(
            ErrorKind::PolicyNotMet,
            format!("a policy is not met: {}", health.unmet.join(", ")),
        )),
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

/// The health, what the repositories with copies have answered, and how the policies stand.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    health: &'a Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<&'a [CopyCheck]>,
    #[serde(flatten)]
    policies: Option<&'a Report>,
}

fn copies(repository: &Repository, register: &Register) -> Result<Vec<CopyCheck>> {
    let indexes = repository.indexes(&repository.vm_names()?)?;
    // Those of VMs that cannot be read are damage, which the verdict has.
    let indexes: Vec<Index> = indexes.into_iter().filter_map(Result::ok).collect();
    Ok(CopyCheck::of(&indexes, register))
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
        .advise("if the other repository has forgotten them by its own rules, record that: restorefs copy VM --to REPOSITORY; else copy them again: --again"));
    }
    match copies.iter().find(|copy| copy.error.is_some()) {
        Some(copy) => Err(Error::new(
            ErrorKind::PolicyNotMet,
            format!("{} could not be asked for its copies", name_of(copy)),
        )),
        None => Ok(()),
    }
}

/// How the policies stand, for people.
struct Shown<'a>(&'a Report);

impl Shown<'_> {
    fn of_vm(&self) -> HashMap<&VmName, &Standing> {
        self.0.policies.iter().map(|one| (&one.vm, one)).collect()
    }

    /// What is not met, and what has failed.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for one in &self.0.policies {
            let vm = &one.vm;
            lines.extend(
                one.problems
                    .iter()
                    .map(|text| format!("not met: {vm}: {text}")),
            );
            lines.extend(
                one.failures
                    .iter()
                    .map(|text| format!("failed: {vm}: {text}")),
            );
        }
        let unconfirmed = self.0.unconfirmed.iter();
        lines.extend(
            unconfirmed.map(|(name, why)| format!("failed: {name} has confirmed no copy: {why}")),
        );
        let unusable = self.0.unusable.iter();
        lines.extend(unusable.map(|(name, why)| format!("not met: the policy {name}: {why}")));
        lines
    }

    /// A line for each repository: what is used, how fast it grows, and when it is full.
    fn rooms(&self) -> Vec<String> {
        let room = |name: &str, content: &Content| {
            let days = content.growth.days.max(1);
            let growth = content.growth.stored_bytes / days;
            let free = content.space;
            let free = free.map_or_else(String::new, |space| {
                format!(", {} free", Human(space.free_bytes))
            });
            let full = content.days_until_full;
            let full = full.map_or_else(String::new, |days| {
                format!(", full in {}", Count(days, "day"))
            });
            let used = Human(content.used_bytes);
            format!("{name}: {used} used, {} a day{free}{full}", Human(growth))
        };
        let own = self
            .0
            .content
            .iter()
            .map(|content| room("this repository", content));
        let others =
            self.0
                .repositories
                .repositories
                .iter()
                .map(|one| match (&one.content, &one.error) {
                    (Some(content), _) => room(one.name.as_str(), content),
                    (None, why) => {
                        format!("{}: {}", one.name, why.as_deref().unwrap_or("not there"))
                    }
                });
        own.chain(others).collect()
    }
}

fn show(context: &Context, health: &Health, policies: Option<&Report>) -> Result<()> {
    let policies = policies.map(Shown);
    context.output.line(health.to_string())?;
    let faults = health.vms.iter().flat_map(|vm| &vm.damage);
    let unmet = policies.as_ref().map(Shown::lines).unwrap_or_default();
    if context.output.quiet {
        let unmet = unmet.iter().filter(|line| !line.starts_with("failed: "));
        return faults
            .into_iter()
            .chain(unmet)
            .try_for_each(|fault| context.output.line(fault));
    }
    if !health.vms.is_empty() {
        let standings = policies.as_ref().map(Shown::of_vm);
        let with_policies = |vm: &VmHealth| {
            let mut cells = row(vm);
            if let Some(standings) = &standings {
                let at = cells.len() - 1;
                let standing = standings.get(&vm.vm);
                cells.splice(at..at, policy_cells(standing.copied()));
                let is_unmet = standing.is_some_and(|one| !one.is_met());
                if let Some(state) = cells.last_mut().filter(|state| is_unmet && *state == "ok") {
                    *state = "not met".to_owned();
                }
            }
            cells
        };
        let rows: Vec<Vec<String>> = health.vms.iter().map(with_policies).collect();
        let mut heads = vec!["VM", "POINTS", "LAST", "AGE", "DEPTH", "HIDDEN", "CHECKED"];
        if standings.is_some() {
            heads.extend(["POLICY", "RPO", "COPIES"]);
        }
        heads.push("STATE");
        let right = ["POINTS", "AGE", "DEPTH", "HIDDEN", "RPO"];
        context.output.table(&heads, &right, &rows)?;
    }
    faults
        .into_iter()
        .try_for_each(|fault| context.output.line(format!("damaged: {fault}")))?;
    unmet
        .iter()
        .try_for_each(|line| context.output.line(line))?;
    for room in policies.as_ref().map(Shown::rooms).unwrap_or_default() {
        context.output.line(room)?;
    }
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

/// The policies of a VM, the age that its last point may have, and the copies of that point: `2-2-1`.
fn policy_cells(standing: Option<&Standing>) -> [String; 3] {
    let dash = || "-".to_owned();
    let Some(standing) = standing else {
        return [dash(), dash(), dash()];
    };
    let names: Vec<&str> = standing.policies.iter().map(|name| name.as_str()).collect();
    let copies = standing.copies.map_or_else(dash, |amount| {
        format!("{}-{}-{}", amount.copies, amount.media, amount.offsite)
    });
    let rpo = standing.rpo_seconds;
    [
        if names.is_empty() {
            dash()
        } else {
            names.join(" ")
        },
        rpo.map_or_else(dash, |seconds| Age(seconds).to_string()),
        copies,
    ]
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
