//! `restorefs forget`: removes restore points by rules or by name, with the reasons.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::json;

use super::args::retention::{Forget, Keep};
use super::context::{Context, Writer};
use super::failure;
use super::keep::rules;
use super::merge::Merger;
use super::vm_pattern::{fitting, is_pattern};
use crate::clock::{Clock, SystemClock};
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::merge::Merged;
use crate::jobs::policy::{UNCOPIED_GO, spare_owed};
use crate::jobs::retention::{Choice, Rules, VmPlan};
use crate::repo::selector::{Selector, Which};
use crate::service::work::forget_planned;
use crate::task::TaskKind;
use crate::types::VmName;
use crate::types::size::{Count, Human};

/// LIMIT: layers of a plan for which what merging frees is looked at, which reads each.
const WEIGHED_MAX: usize = 5_000;

pub(super) fn run(context: &Context, args: &Forget) -> Result<()> {
    let request = Request::parse(args)?;
    let named = request.only_vm();
    let (merger, writer, planned) = prepare(context, args, &request).inspect_err(|e| {
        // A plan alone is no job.
        if !args.dry_run {
            failure::note(context, TaskKind::Forget, named.as_ref(), e);
        }
    })?;
    let mut end = End::default();
    let mut plans = Vec::new();
    for (vm, planned) in planned {
        match planned {
            Ok(mut plan) => {
                if let Some(writer) = &writer
                    && let Err(e) = apply(writer, &mut plan, request.rules.is_some(), &mut end)
                {
                    end.fail(&vm, e);
                    continue;
                }
                if plan.left_alone.is_some() {
                    end.left_alone.push(vm);
                }
                plans.push(plan);
            }
            Err(e) => {
                let reason = e.report();
                end.fail(&vm, e);
                let noted = writer.as_ref().map(|writer| {
                    let forget = TaskKind::Forget;
                    writer.service.note_failure(forget, Some(&vm), &reason)
                });
                if let Some(Err(e)) = noted {
                    tracing::warn!(vm = %vm, error = %e.report(), "the history does not have this failure");
                }
            }
        }
    }
    // Merging takes the lock for each swap alone.
    drop(writer);
    if let Some(merger) = &merger {
        merge(merger, args.compact, &mut plans, &mut end);
    }
    let layers: usize = plans.iter().map(VmPlan::layers).sum();
    if layers <= WEIGHED_MAX {
        let repository = context.repository()?;
        // Each is a walk of all chains of a VM; the summary shows it only beside what goes and was not merged.
        let is_shown = |plan: &&mut VmPlan| {
            context.output.json || (plan.merged.is_none() && !plan.gone().is_empty())
        };
        plans
            .iter_mut()
            .filter(is_shown)
            .for_each(|plan| plan.weigh_merging(&repository));
    }
    match context.output.json {
        true => context.output.json(&json!({"vms": plans}))?,
        false => show(context, &plans, args.dry_run)?,
    }
    end.result()
}

/// What a run begins with: who merges, who writes, and the plans.
type Prepared<'a> = (
    Option<Merger<'a>>,
    Option<Writer>,
    Vec<(VmName, Result<VmPlan>)>,
);

fn prepare<'a>(context: &'a Context, args: &Forget, request: &Request) -> Result<Prepared<'a>> {
    let repository = context.repository()?;
    let mut vms = request.choices(&repository.vm_names()?)?;
    if request.rules.is_some() {
        let has_lifted = spare_owed(&repository, &mut vms)?;
        if has_lifted {
            context.output.warn(UNCOPIED_GO);
        }
    }
    let merger = match args.dry_run || args.no_merge {
        true => None,
        false => {
            let limit = args.limit.as_deref();
            Some(Merger::new(
                context,
                interrupt::flag()?,
                args.compact,
                limit,
            )?)
        }
    };
    // The lock is taken before the plan is made, so that nothing changes between the two.
    let writer = match args.dry_run {
        true => None,
        false => Some(context.writer("forget")?),
    };
    let planned = VmPlan::of_vms(&repository, vms, args.unattended, SystemClock.now())?;
    Ok((merger, writer, planned))
}

/// Forgets what the rules of a policy do not keep of a VM. With a VM that is left alone, nothing is forgotten.
///
/// # Errors
/// `PolicyNotMet` when the VM is left alone; `Busy` and other errors of points that could not be forgotten; as
/// [`VmPlan::of_vm`] and [`Context::patient_writer`].
pub(super) fn by_policy(context: &Context, vm: &VmName, rules: &Rules) -> Result<VmPlan> {
    let repository = context.repository()?;
    if rules.is_owed_lifted && !rules.owed.is_empty() {
        context.output.warn(format!("{vm}: {UNCOPIED_GO}"));
    }
    let writer = context.patient_writer("forget")?;
    let choice = Choice::Rules(rules.clone());
    let mut plan = VmPlan::of_vm(&repository, vm, &choice, true, SystemClock.now())?;
    let mut end = End::default();
    apply(&writer, &mut plan, true, &mut end)?;
    if plan.left_alone.is_some() {
        end.left_alone.push(vm.clone());
    }
    end.result().map(|()| plan)
}

/// What the command line asks for.
struct Request {
    /// VMs by name or pattern.
    patterns: Vec<String>,
    points: Vec<Selector>,
    /// `None` where all points go, or those that are named.
    rules: Option<Rules>,
    /// Whether nothing is forgotten: layers are merged alone.
    is_merge: bool,
}

impl Request {
    fn parse(args: &Forget) -> Result<Self> {
        let (points, patterns): (Vec<_>, Vec<_>) =
            args.vms.iter().partition(|target| target.contains('@'));
        let points = points.into_iter().map(|target| Selector::from_str(target));
        let points = points.collect::<Result<Vec<Selector>>>()?;
        let patterns: Vec<String> = patterns.into_iter().cloned().collect();
        let rules = rules(&args.keep)?;
        let is_ruled = args.keep != Keep::default();
        if let Some(point) = points.first() {
            let other = match (is_ruled, args.all, patterns.first()) {
                (true, ..) => "rules",
                (_, true, _) => "--all",
                (.., Some(_)) => "a VM",
                _ if args.unattended => "--unattended",
                _ => "",
            };
            if !other.is_empty() {
                return Err(Error::invalid(format!(
                    "{point} names one restore point, which does not go together with {other}"
                ))
                .advise("forget the point by a command of its own"));
            }
            return Ok(Self {
                patterns,
                points,
                rules: None,
                is_merge: false,
            });
        }
        if args.all {
            if is_ruled || args.unattended {
                let other = if is_ruled { "rules" } else { "--unattended" };
                return Err(Error::invalid(format!(
                    "--all forgets every restore point, which does not go together with {other}"
                )));
            }
            if let Some(pattern) = patterns.iter().find(|pattern| is_pattern(pattern)) {
                return Err(Error::invalid(format!(
                    "--all wants the names of the VMs; \"{}\" is a pattern",
                    pattern.escape_debug()
                )));
            }
            return Ok(Self {
                patterns,
                points,
                rules: None,
                is_merge: false,
            });
        }
        if args.compact && !is_ruled {
            return Ok(Self {
                patterns,
                points,
                rules: None,
                is_merge: true,
            });
        }
        let rules = rules.require(is_ruled).map_err(|e| {
            e.advise(
                "write for example --keep-daily 7 --keep-weekly 4; name points as VM@POINT; --all forgets every point of a VM",
            )
        })?;
        Ok(Self {
            patterns,
            points,
            rules: Some(rules),
            is_merge: false,
        })
    }

    /// The VM, when it is the only one.
    fn only_vm(&self) -> Option<VmName> {
        match (self.patterns.as_slice(), self.points.as_slice()) {
            ([vm], []) if !is_pattern(vm) => VmName::new(vm).ok(),
            ([], [point]) => Some(point.vm.clone()),
            _ => None,
        }
    }

    /// The VMs with what is to be forgotten of each.
    fn choices(&self, names: &[VmName]) -> Result<Vec<(VmName, Choice)>> {
        let mut all: BTreeMap<VmName, Choice> = BTreeMap::new();
        let spelled = |vm: &VmName| {
            let known = names.iter().find(|name| name.same_as(vm)).cloned();
            known.ok_or_else(|| {
                Error::not_found(format!("there is no VM {vm}"))
                    .advise("list the VMs with: restorefs ls")
            })
        };
        let mut named: BTreeMap<VmName, Vec<Which>> = BTreeMap::new();
        for point in &self.points {
            let of_vm = named.entry(spelled(&point.vm)?).or_default();
            of_vm.push(point.which.clone());
        }
        all.extend(
            named
                .into_iter()
                .map(|(vm, which)| (vm, Choice::Points(which))),
        );
        let choice = || match &self.rules {
            _ if self.is_merge => Choice::Points(Vec::new()),
            Some(rules) => Choice::Rules(rules.clone()),
            None => Choice::All,
        };
        for pattern in &self.patterns {
            if !is_pattern(pattern) {
                all.insert(spelled(&VmName::new(pattern)?)?, choice());
                continue;
            }
            let fitting = fitting(names, pattern)?;
            all.extend(fitting.into_iter().map(|name| (name.clone(), choice())));
        }
        Ok(all.into_iter().collect())
    }
}

/// Merges what no point needs by itself any more: in VMs of which points went, or whose chains are too deep, or, to
/// compact, in all.
fn merge(merger: &Merger<'_>, compact: bool, plans: &mut [VmPlan], end: &mut End) {
    for plan in plans {
        let is_due = compact || plan.is_too_deep || !plan.gone().is_empty();
        if plan.left_alone.is_some() || !is_due {
            continue;
        }
        match merger.merge(&plan.vm) {
            Ok(merged) => plan.merged = (merged != Merged::default()).then_some(merged),
            Err(e) => {
                // What is forgotten is shown all the same.
                let is_held = e.kind() == ErrorKind::Locked;
                end.fail(&plan.vm, e);
                if is_held || merger.is_stopped() {
                    break;
                }
            }
        }
    }
}

/// Forgets the points that the plan does not keep.
fn apply(writer: &Writer, plan: &mut VmPlan, is_retention: bool, end: &mut End) -> Result<()> {
    let done = forget_planned(writer.service.as_ref(), plan, is_retention)?;
    for error in done.failures {
        end.fail(&plan.vm, error);
    }
    Ok(())
}

/// How the command ends.
#[derive(Default)]
struct End {
    failed: Vec<(VmName, Error)>,
    left_alone: Vec<VmName>,
}

impl End {
    fn fail(&mut self, vm: &VmName, error: Error) {
        self.failed.push((vm.clone(), error));
    }

    fn result(mut self) -> Result<()> {
        // Of several failures, damage decides the exit code.
        self.failed
            .sort_by_key(|(_, error)| error.kind() == ErrorKind::Corrupt);
        if let Some((_, last)) = self.failed.pop() {
            for (vm, error) in &self.failed {
                super::output::Output::error(&format!("restorefs: {vm}"), error);
            }
            return Err(last);
        }
        match self.left_alone.as_slice() {
            [] => Ok(()),
            some => Err(Error::new(
                ErrorKind::PolicyNotMet,
                format!(
                    "{} left alone: more than half of what the last run has kept would go",
                    Count::of(some.len(), "VM")
                ),
            )
            .advise("look at the plan (--dry-run); the same command without --unattended carries it out")),
        }
    }
}

fn show(context: &Context, plans: &[VmPlan], is_dry: bool) -> Result<()> {
    let mut rows = Vec::new();
    for plan in plans {
        for verdict in &plan.points {
            let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            rows.push(vec![
                format!("{}@{}", plan.vm, verdict.point),
                if verdict.keep { "keep" } else { "forget" }.to_owned(),
                reasons.join(", "),
            ]);
        }
    }
    // With --quiet only what was asked for is printed: the plan.
    if context.output.quiet && !is_dry {
        return Ok(());
    }
    if !rows.is_empty() {
        let head = ["POINT", "", "REASONS"];
        context.output.table(&head, &[], &rows)?;
    }
    for plan in plans {
        context.output.line(summary(plan, is_dry))?;
    }
    let frees = plans.iter().any(|plan| !plan.gone().is_empty());
    if frees {
        context.output.remark(match is_dry {
            true => "Layers that other points need free nothing. What is freed goes to the trash first: its space comes back after an hour.",
            false => "Layers that other points need free nothing. What is freed is in the trash: its space comes back after an hour, or now with: restorefs trash --empty",
        });
    }
    Ok(())
}

/// `web01: 3 restore points kept, 4 forgotten, 1.2 GiB freed`.
fn summary(plan: &VmPlan, is_dry: bool) -> String {
    let vm = &plan.vm;
    if let Some(why) = &plan.left_alone {
        return format!("{vm}: left alone, because {why}");
    }
    let gone = plan.gone().len();
    let kept = plan.points.len() - gone;
    let would = if is_dry { "would be " } else { "" };
    let merged = plan.merged.as_ref();
    let merged = match (merged, plan.mergeable_bytes) {
        (Some(merged), _) => format!("; {}", super::merge::summary(merged)),
        (None, Some(1..)) if gone > 0 => format!(
            "; merging can free {}",
            Human(plan.mergeable_bytes.unwrap_or_default())
        ),
        (None, _) => String::new(),
    };
    if plan.points.is_empty() {
        return match merged.strip_prefix("; ") {
            Some(merged) => format!("{vm}: {merged}"),
            None => format!("{vm}: nothing to merge"),
        };
    }
    format!(
        "{vm}: {} {would}kept, {gone} forgotten, {} freed{merged}",
        Count::of(kept, "point"),
        Human(plan.freed_bytes)
    )
}
