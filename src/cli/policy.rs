//! `restorefs policy`: what happens to VMs by itself.

use serde_json::{Value, json};

use super::args::policy::{
    Policy as PolicyArgs, PolicyAction, PolicyAdd, PolicyAssign, PolicyEdit, PolicyRemove,
    PolicyRunner, PolicyShow, PolicyTerms,
};
use super::args::retention::Keep;
use super::context::Context;
use super::keep::keeping;
use super::policy_run;
use super::vm_pattern::is_pattern;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::jobs::policy::{Scene, Standing, Target, Terms, copy_rule};
use crate::repo::policy::PolicyChange;
use crate::repo::register::Register;
use crate::repo::sidecar::policy::{CopyRule, Keeping, Policy, Requirement};
use crate::repo::sidecar::policy_run::Runner;
use crate::repo::sidecar::{Sidecar, Unknown};
use crate::types::duration::{Age, parse_seconds};
use crate::types::{PolicyName, RepositoryName, VmName};

pub(super) fn run(context: &Context, args: &PolicyArgs) -> Result<()> {
    match &args.action {
        PolicyAction::Add(args) => add(context, args),
        PolicyAction::Edit(args) => edit(context, args),
        PolicyAction::Show(args) => show(context, args),
        PolicyAction::List(_) => list(context),
        PolicyAction::Remove(args) => remove(context, args),
        PolicyAction::Assign(args) => assign(context, args),
        PolicyAction::Run(args) => policy_run::run(context, args),
        PolicyAction::Runner(args) => runner(context, args),
    }
}

fn change(context: &Context, change: &PolicyChange) -> Result<()> {
    context.writer("policy")?.service.change_policy(change)
}

fn add(context: &Context, args: &PolicyAdd) -> Result<()> {
    let name = PolicyName::new(args.name.as_str())?;
    if args.terms.vms.is_empty() {
        return Err(
            Error::invalid(format!("the policy {name} names no VM")).advise("add --vms PATTERN")
        );
    }
    let mut policy = Policy {
        schema: Policy::SCHEMA,
        name: name.clone(),
        vms: Vec::new(),
        zone: None,
        created_at: SystemClock.now(),
        schedule: None,
        command: Vec::new(),
        keep: None,
        copies: Vec::new(),
        require: None,
        verify_every_seconds: None,
        rpo_seconds: None,
        max_depth: None,
        unknown: Unknown::new(),
    };
    apply(context, &args.terms, &mut policy)?;
    let repository = context.repository()?;
    let is_first = repository.policies()?.is_empty() && repository.policy_runner()?.is_none();
    let put = PolicyChange::Put {
        policy: Box::new(policy.clone()),
        is_new: true,
    };
    change(context, &put)?;
    // Two machines that mount one repository must not both run its policies.
    if is_first {
        let runner = Some(Runner::here());
        change(context, &PolicyChange::Runner { runner })?;
    }
    warn_of_nothing(context, &policy)?;
    done(context, &policy, "added")
}

fn edit(context: &Context, args: &PolicyEdit) -> Result<()> {
    let name = PolicyName::new(args.name.as_str())?;
    let mut policy = context.repository()?.policy(&name)?;
    if args.no_schedule {
        policy.schedule = None;
        policy.command.clear();
    }
    if args.no_command {
        policy.command.clear();
    }
    if args.no_keep {
        policy.keep = None;
    }
    if args.no_copy {
        policy.copies.clear();
    }
    if args.no_require {
        policy.require = None;
    }
    if args.no_verify {
        policy.verify_every_seconds = None;
    }
    if args.no_rpo {
        policy.rpo_seconds = None;
    }
    if args.no_max_depth {
        policy.max_depth = None;
    }
    apply(context, &args.terms, &mut policy)?;
    let put = PolicyChange::Put {
        policy: Box::new(policy.clone()),
        is_new: false,
    };
    change(context, &put)?;
    warn_of_nothing(context, &policy)?;
    done(context, &policy, "changed")
}

/// Prints a policy that was written.
fn done(context: &Context, policy: &Policy, what: &str) -> Result<()> {
    match context.output.json {
        true => context.output.json(policy),
        false => context
            .output
            .outcome(format!("the policy {} is {what}", policy.name)),
    }
}

/// Warns of patterns that fit no VM yet.
fn warn_of_nothing(context: &Context, policy: &Policy) -> Result<()> {
    let terms = Terms::of(policy)?;
    let names = context.repository()?.vm_names()?;
    if !names.iter().any(|vm| terms.fits(vm)) && policy.vms.iter().any(|text| is_pattern(text)) {
        context.output.warn(format!(
            "no VM fits {} yet",
            policy.vms.join(", ").escape_debug()
        ));
    }
    Ok(())
}

/// Writes what the flags say into a policy.
fn apply(context: &Context, terms: &PolicyTerms, policy: &mut Policy) -> Result<()> {
    if !terms.vms.is_empty() {
        policy.vms.clone_from(&terms.vms);
    }
    if let Some(schedule) = schedule(terms)? {
        policy.schedule = Some(schedule);
    }
    if !terms.command.is_empty() {
        policy.command.clone_from(&terms.command);
    }
    if let Some(zone) = &terms.keep.time_zone {
        policy.zone = Some(zone.clone());
    }
    let rules = Keep {
        time_zone: None,
        ..terms.keep.clone()
    };
    if rules != Keep::default() {
        policy.keep = Some(keeping(&rules)?);
    }
    let seconds = |text: &Option<String>| text.as_deref().map(parse_seconds).transpose();
    if !terms.copy_to.is_empty() {
        policy.copies = copies(context, &terms.copy_to, &policy.copies)?;
    }
    if let Some(after) = seconds(&terms.copy_after)? {
        if policy.copies.is_empty() {
            return Err(Error::invalid("--copy-after wants --copy-to"));
        }
        for copy in &mut policy.copies {
            copy.after_seconds = after;
        }
    }
    if let Some(require) = &terms.require {
        policy.require = Some(requirement(require)?);
    }
    policy.verify_every_seconds = seconds(&terms.verify_every)?.or(policy.verify_every_seconds);
    policy.rpo_seconds = seconds(&terms.rpo)?.or(policy.rpo_seconds);
    policy.max_depth = terms.max_depth.or(policy.max_depth);
    // A mistake is told before the lock is waited for.
    Terms::of(policy).map(|_| ())
}

fn schedule(terms: &PolicyTerms) -> Result<Option<String>> {
    if terms.hourly {
        return Ok(Some("hourly".to_owned()));
    }
    if let Some(time) = &terms.daily {
        return Ok(Some(format!("daily {time}")));
    }
    if let Some(text) = &terms.weekly {
        let (day, time) = text.split_once('@').ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not a day and a time",
                text.escape_debug()
            ))
            .advise("write for example --weekly sun@02:00")
        })?;
        return Ok(Some(format!("weekly {} {time}", day.to_lowercase())));
    }
    Ok(terms.every.as_ref().map(|hours| format!("every {hours}")))
}

/// The repositories that are named, with their present ids. One that was there before keeps its delay.
fn copies(context: &Context, words: &[String], before: &[CopyRule]) -> Result<Vec<CopyRule>> {
    let register = Register::load()?;
    let repository = context.repository()?;
    let mut copies = Vec::new();
    for word in words {
        let to = RepositoryName::new(word.as_str())?;
        let known = before.iter().find(|copy| copy.to.same_as(&to));
        let after = known
            .or(before.first())
            .map_or(0, |copy| copy.after_seconds);
        copies.push(copy_rule(&repository, &register, &to, after, before)?);
    }
    Ok(copies)
}

/// Parses `3-2-1`.
fn requirement(text: &str) -> Result<Requirement> {
    let numbers: Vec<u32> = text.split('-').filter_map(|n| n.parse().ok()).collect();
    match numbers.as_slice() {
        [copies, media, offsite] if text.split('-').count() == 3 => Ok(Requirement {
            copies: *copies,
            media: *media,
            offsite: *offsite,
        }),
        _ => Err(Error::invalid(format!(
            "\"{}\" does not say how many copies there must be",
            text.escape_debug()
        ))
        .advise("write copies, kinds of media and copies off-site, for example 3-2-1")),
    }
}

fn show(context: &Context, args: &PolicyShow) -> Result<()> {
    let repository = context.repository()?;
    let mut policies = Vec::new();
    match &args.name {
        Some(name) => policies.push(repository.policy(&PolicyName::new(name.as_str())?)?),
        None => {
            for stored in repository.policies()? {
                policies.push(stored.policy?);
            }
        }
    }
    if context.output.json {
        return match &args.name {
            Some(_) => context.output.json(&policies.first()),
            None => context.output.json(&policies),
        };
    }
    let names = repository.vm_names()?;
    for policy in &policies {
        context.output.line(&policy.name)?;
        for (what, text) in lines(policy, &names)? {
            context.output.line(format!("  {what:<9} {text}"))?;
        }
    }
    Ok(())
}

/// A policy for people.
fn lines(policy: &Policy, names: &[VmName]) -> Result<Vec<(&'static str, String)>> {
    let terms = Terms::of(policy)?;
    let now = SystemClock.now();
    let fitting: Vec<&str> = names
        .iter()
        .filter(|vm| terms.fits(vm))
        .map(VmName::as_str)
        .collect();
    let mut lines = vec![
        ("vms", policy.vms.join(" ")),
        (
            "fits",
            if fitting.is_empty() {
                "no VM yet".to_owned()
            } else {
                fitting.join(" ")
            },
        ),
        ("zone", terms.zone.to_string()),
    ];
    if let Some(schedule) = terms.schedule {
        let next = schedule.next(now, terms.zone.time_zone());
        let next = next.map_or_else(String::new, |next| format!(" (next: {next})"));
        lines.push(("backup", format!("{schedule}{next}")));
    }
    if !policy.command.is_empty() {
        lines.push(("command", policy.command.join(" ")));
    }
    if let Some(keep) = &policy.keep {
        lines.push(("keep", kept(keep)));
    }
    for copy in &policy.copies {
        let after = match copy.after_seconds {
            0 => String::new(),
            seconds => format!(", {} after the commit", Age(seconds)),
        };
        lines.push(("copy", format!("to {}{after}", copy.to)));
    }
    if let Some(one) = policy.require {
        let text = format!("{}-{}-{}", one.copies, one.media, one.offsite);
        lines.push(("require", text));
    }
    let age = |seconds: Option<u64>| seconds.map(|seconds| Age(seconds).to_string());
    lines.extend(age(policy.verify_every_seconds).map(|age| ("verify", format!("every {age}"))));
    lines.extend(age(policy.rpo_seconds).map(|age| ("rpo", age)));
    let depth = policy.max_depth.map(|depth| ("depth", depth.to_string()));
    lines.extend(depth);
    Ok(lines)
}

/// `7 daily, 4 weekly, tag release`.
fn kept(keep: &Keeping) -> String {
    let counts = [
        (keep.last, "last"),
        (keep.hourly, "hourly"),
        (keep.daily, "daily"),
        (keep.weekly, "weekly"),
        (keep.monthly, "monthly"),
        (keep.yearly, "yearly"),
    ];
    let spans = [
        (&keep.within, "within"),
        (&keep.within_hourly, "hourly within"),
        (&keep.within_daily, "daily within"),
        (&keep.within_weekly, "weekly within"),
        (&keep.within_monthly, "monthly within"),
        (&keep.within_yearly, "yearly within"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts = counts.map(|(count, what)| format!("{count} {what}"));
    let spans = spans
        .iter()
        .filter_map(|(span, what)| Some(format!("{what} {}", span.as_ref()?)));
    let tags = keep.tags.iter().map(|tag| format!("tag {tag}"));
    counts
        .chain(spans)
        .chain(tags)
        .collect::<Vec<_>>()
        .join(", ")
}

fn list(context: &Context) -> Result<()> {
    let repository = context.repository()?;
    let now = SystemClock.now();
    let targets = Register::load()?
        .entries()
        .iter()
        .map(Target::from)
        .collect();
    let standings = Scene::of(&repository, targets)?.standings(now);
    let (mut rows, mut all): (Vec<Vec<String>>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut broken = None;
    for stored in repository.policies()? {
        let read = stored
            .policy
            .and_then(|policy| Ok((Terms::of(&policy)?, policy)));
        let (terms, policy) = match read {
            Ok(read) => read,
            Err(e) => {
                all.push(json!({"name": stored.name, "error": e.report()}));
                rows.push(vec![stored.name.to_string(), e.report()]);
                broken = Some(e);
                continue;
            }
        };
        let applies = |one: &&Standing| one.policies.iter().any(|name| name.same_as(&terms.name));
        let of_policy: Vec<&Standing> = standings.iter().filter(applies).collect();
        let vms: Vec<&VmName> = of_policy.iter().map(|one| &one.vm).collect();
        let unmet = of_policy.iter().filter(|one| !one.is_met()).count();
        let next = terms
            .schedule
            .and_then(|schedule| schedule.next(now, terms.zone.time_zone()));
        let dash = || "-".to_owned();
        let to: Vec<&str> = policy.copies.iter().map(|copy| copy.to.as_str()).collect();
        rows.push(vec![
            policy.name.to_string(),
            policy.vms.join(" "),
            vms.len().to_string(),
            unmet.to_string(),
            policy.schedule.clone().unwrap_or_else(dash),
            next.map_or_else(dash, |next| next.strftime("%Y-%m-%d %H:%M").to_string()),
            policy.keep.as_ref().map_or_else(dash, kept),
            if to.is_empty() { dash() } else { to.join(" ") },
            policy
                .verify_every_seconds
                .map_or_else(dash, |s| Age(s).to_string()),
            policy.rpo_seconds.map_or_else(dash, |s| Age(s).to_string()),
        ]);
        all.push(
            json!({"name": policy.name, "vms": vms, "unmet": unmet, "next_backup_at": next, "policy": policy}),
        );
    }
    match context.output.json {
        true => context.output.json(&all)?,
        false => context.output.table(
            &[
                "NAME",
                "VMS",
                "COUNT",
                "NOT MET",
                "BACKUP",
                "NEXT (UTC)",
                "KEEP",
                "COPY TO",
                "VERIFY",
                "RPO",
            ],
            &["COUNT", "NOT MET"],
            &rows,
        )?,
    }
    broken.map_or(Ok(()), Err)
}

fn remove(context: &Context, args: &PolicyRemove) -> Result<()> {
    let name = PolicyName::new(args.name.as_str())?;
    change(context, &PolicyChange::Remove { name: name.clone() })?;
    match context.output.json {
        true => context.output.json(&json!({"removed": name})),
        false => context
            .output
            .outcome(format!("the policy {name} is removed; restore points stay")),
    }
}

fn assign(context: &Context, args: &PolicyAssign) -> Result<()> {
    let vm = VmName::new(args.vm.as_str())?;
    let policy = args.policy.as_deref().map(PolicyName::new).transpose()?;
    let assign = PolicyChange::Assign {
        vm: vm.clone(),
        policy: policy.clone(),
    };
    change(context, &assign)?;
    if context.output.json {
        return context.output.json(&json!({"vm": vm, "policy": policy}));
    }
    context.output.outcome(match policy {
        Some(policy) => {
            format!("{vm} has the policy {policy}, whatever the patterns of others are")
        }
        None => format!("{vm} has the policy whose pattern fits it"),
    })
}

fn runner(context: &Context, args: &PolicyRunner) -> Result<()> {
    if args.here || args.none {
        let runner = args.here.then(Runner::here);
        change(context, &PolicyChange::Runner { runner })?;
    }
    let runner = context.repository()?.policy_runner()?;
    if context.output.json {
        let is_here = runner.as_ref().is_none_or(Runner::is_here);
        return context
            .output
            .json(&json!({"runner": runner, "is_here": is_here}));
    }
    context.output.line(match &runner {
        Some(runner) if runner.is_here() => {
            format!("this machine ({}) runs the policies", runner.host)
        }
        Some(runner) => format!("the machine {} runs the policies", runner.host),
        None => "any machine runs the policies on which policy run is started".to_owned(),
    })
}
