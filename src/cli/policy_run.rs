//! `restorefs policy run`: does what is due.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::args::policy::PolicyRun as Args;
use super::context::Context;
use super::output::Output;
use super::policy_act::Actor;
use super::serve::load;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::policy::{Action, Scene, Target};
use crate::repo::Repository;
use crate::repo::policy::PolicyChange;
use crate::repo::register::Register;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::policy_run::{ActionKind, PolicyRun};
use crate::types::PolicyName;
use crate::types::size::Count;

/// What became of an action.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    action: Action,
    /// `done`, `failed`, `blocked`, or `due` of a dry run.
    result: &'static str,
    /// What was done, or why not.
    said: String,
}

/// What became of a run on one repository.
#[derive(Serialize)]
struct Ran {
    actions: Vec<Done>,
    /// Why nothing was done, where that is no failure.
    stood_back: Option<String>,
    #[serde(skip)]
    end: Result<()>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<()> {
    match &args.config {
        Some(config) => of_configuration(context, args, config),
        None => {
            let ran = of_repository(context, args)?;
            match context.output.json {
                true => context.output.json(&ran)?,
                false => show(context, &ran)?,
            }
            ran.end
        }
    }
}

/// Runs the policies of each repository of a daemon, whatever becomes of the others; returns the last error.
fn of_configuration(context: &Context, args: &Args, path: &Path) -> Result<()> {
    let (config, _) = load(context, path)?;
    let mut result = Ok(());
    let mut all = Vec::new();
    for repository in &config.repositories {
        let place = repository.path.display().to_string();
        let ran = repository
            .open()
            .and_then(|_| of_repository(&context.of(repository.path.clone()), args));
        let ended = match ran {
            Ok(ran) => {
                if !context.output.json {
                    context.output.outcome(format!("{place}:"))?;
                    show(context, &ran)?;
                }
                all.push(
                    json!({"path": place, "actions": ran.actions, "stood_back": ran.stood_back}),
                );
                ran.end
            }
            Err(e) => {
                all.push(json!({"path": place, "error": e.report()}));
                Err(e)
            }
        };
        if let Err(e) = ended {
            if let Err(before) = std::mem::replace(&mut result, Ok(())) {
                Output::error("restorefs", &before);
            }
            let what = format!("the policies of {place}");
            result = Err(Error::new(e.kind(), what).caused_by(e));
        }
    }
    if context.output.json {
        context.output.json(&json!({"repositories": all}))?;
    }
    result
}

fn of_repository(context: &Context, args: &Args) -> Result<Ran> {
    let repository = context.repository()?;
    let only = args.policy.as_deref().map(PolicyName::new).transpose()?;
    if let Some(only) = &only {
        repository.policy(only)?;
    }
    if args.dry_run {
        let plan = scene(context, &repository)?.plan(SystemClock.now());
        let is_asked = |action: &Action| is_of(action, only.as_ref());
        let plan = plan.into_iter().filter(is_asked).map(Done::due);
        return Ok(Ran::of(plan.collect(), Ok(())));
    }
    if let Some(runner) = repository.policy_runner()?.filter(|one| !one.is_here()) {
        let why = format!("the machine {} runs the policies", runner.host);
        return Ok(Ran::stood_back(why));
    }
    if repository.policies()?.is_empty() {
        return Ok(Ran::stood_back("there is no policy".to_owned()));
    }
    let Some(lock) = repository.lock_policy_run()? else {
        return Ok(Ran::stood_back("another run is under way".to_owned()));
    };
    let actor = Actor::new(context)?;
    let mut all = Vec::new();
    // What is due of one kind depends on what the kinds before it have done.
    for kind in ActionKind::ALL {
        let scene = scene(context, &repository)?;
        for (name, why) in scene
            .unreadable
            .iter()
            .filter(|_| kind == ActionKind::Backup)
        {
            context
                .output
                .warn(format!("the policy {name} is passed over: {why}"));
        }
        let due = scene.plan(SystemClock.now()).into_iter();
        let due = due.filter(|one| one.action == kind && is_of(one, only.as_ref()));
        for action in due {
            if actor.is_stopped() {
                break;
            }
            all.push(one(context, &actor, &scene, action)?);
        }
    }
    drop(lock);
    if actor.is_stopped() {
        let what = "the run was stopped; the next one goes on";
        return Ok(Ran::of(all, Err(Error::new(ErrorKind::Cancelled, what))));
    }
    let failed = all.iter().filter(|done| done.result == "failed").count();
    let end = match failed {
        0 => Ok(()),
        failed => Err(Error::new(
            ErrorKind::Io,
            format!("{failed} of {} failed", Count::of(all.len(), "action")),
        )
        .advise("the next run tries again; see: restorefs status")),
    };
    Ok(Ran::of(all, end))
}

impl Ran {
    const fn of(actions: Vec<Done>, end: Result<()>) -> Self {
        Self {
            actions,
            stood_back: None,
            end,
        }
    }

    const fn stood_back(why: String) -> Self {
        Self {
            actions: Vec::new(),
            stood_back: Some(why),
            end: Ok(()),
        }
    }
}

/// The repository, its policies, and the repositories that have a name.
fn scene(context: &Context, repository: &Arc<Repository>) -> Result<Scene> {
    let targets = targets().unwrap_or_else(|e| {
        context.output.warn(e.report());
        Vec::new()
    });
    Scene::of(repository, targets)
}

/// The repositories that have a name.
///
/// # Errors
/// As [`Register::load`].
pub(super) fn targets() -> Result<Vec<Target>> {
    let register = Register::load()?;
    Ok(register.entries().iter().map(Target::from).collect())
}

fn is_of(action: &Action, only: Option<&PolicyName>) -> bool {
    only.is_none_or(|only| action.policy.same_as(only))
}

/// Does one action, and records what became of it.
fn one(context: &Context, actor: &Actor<'_>, scene: &Scene, action: Action) -> Result<Done> {
    let began_at = SystemClock.now();
    if let Some(why) = &action.blocked
        && action.action == ActionKind::Backup
    {
        let said = why.clone();
        return Ok(Done {
            action,
            result: "blocked",
            said,
        });
    }
    let terms = scene.terms.iter();
    let mut terms = terms.filter(|terms| terms.name == action.policy);
    let terms = terms
        .next()
        .ok_or_else(|| Error::not_found(format!("there is no policy {}", action.policy)))?;
    let done = actor.act(&action, terms, scene.is_low);
    let failure = done.as_ref().err().map(Error::report);
    let run = PolicyRun {
        policy: action.policy.clone(),
        vm: action.vm.clone(),
        action: action.action,
        to: action.to.clone(),
        attempted_at: began_at,
        succeeded_at: failure.is_none().then_some(began_at),
        failure,
        unknown: Unknown::new(),
    };
    // What was stopped on request is no failure of the policy's.
    let is_stopped = done
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::Cancelled);
    if !is_stopped {
        let noted = context.patient_writer("policy").and_then(|writer| {
            let runs = vec![run];
            writer.service.change_policy(&PolicyChange::Note { runs })
        });
        if let Err(e) = noted {
            context.output.warn(format!(
                "{}: what became of {} is not recorded: {}",
                action.vm,
                action.action.as_str(),
                e.report()
            ));
        }
    }
    Ok(match done {
        Ok(said) => Done {
            action,
            result: "done",
            said,
        },
        Err(e) => {
            let name = format!("restorefs: {}: {}", action.vm, action.action.as_str());
            Output::error(&name, &e);
            Done {
                action,
                result: "failed",
                said: e.report(),
            }
        }
    })
}

fn show(context: &Context, ran: &Ran) -> Result<()> {
    if let Some(why) = &ran.stood_back {
        return context.output.outcome(why);
    }
    let all = &ran.actions;
    if context.output.quiet {
        return Ok(());
    }
    if all.is_empty() {
        return context.output.outcome("nothing is due");
    }
    let row = |done: &Done| {
        let action = &done.action;
        let to = action.to.as_ref();
        let what = match to {
            Some(to) => format!("{} to {to}", action.action.as_str()),
            None => action.action.as_str().to_owned(),
        };
        vec![
            what,
            action.vm.to_string(),
            action.policy.to_string(),
            action.due_since.strftime("%Y-%m-%d %H:%M").to_string(),
            done.result.to_owned(),
            done.said.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let head = ["ACTION", "VM", "POLICY", "DUE (UTC)", "RESULT", ""];
    context.output.table(&head, &[], &rows)
}

impl Done {
    fn due(action: Action) -> Self {
        let (result, said) = match &action.blocked {
            Some(why) => ("blocked", why.clone()),
            None => ("due", action.why.clone()),
        };
        Self {
            action,
            result,
            said,
        }
    }
}
