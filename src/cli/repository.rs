//! `restorefs repo`: names of repositories.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::args::repo::{Repo, RepoAction, RepoAdd, RepoNewId, RepoRemove, RepoTest};
use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::daemon::interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::{Finding, RegisterHealth, RegisteredHealth, SameId, Suitability};
use crate::repo::Owner;
use crate::repo::register::{Register, Registered};
use crate::sys::Dir;
use crate::types::RepositoryName;
use crate::types::size::{Count, Human};

pub(super) fn run(context: &Context, args: &Repo) -> Result<()> {
    match &args.action {
        RepoAction::Add(args) => add(context, args),
        RepoAction::List(_) => list(context),
        RepoAction::Remove(args) => remove(context, args),
        RepoAction::NewId(args) => new_id(context, args),
        RepoAction::Test(args) => test(context, args),
    }
}

fn as_json(entry: &Registered) -> serde_json::Value {
    json!({
        "name": entry.name, "id": entry.id, "path": entry.path, "media": entry.media, "offsite": entry.offsite,
        "file": entry.file,
    })
}

fn add(context: &Context, args: &RepoAdd) -> Result<()> {
    let name = RepositoryName::new(args.name.as_str())?;
    let entry = Register::add(&name, &args.dir, args.media.as_deref(), args.offsite)?;
    if context.output.json {
        return context.output.json(&as_json(&entry));
    }
    let (path, file) = (entry.path.display(), entry.file.display());
    context.output.outcome(format!(
        "{name} is the repository {} in {path} (in {file})",
        entry.id
    ))
}

fn remove(context: &Context, args: &RepoRemove) -> Result<()> {
    let entry = Register::remove(&RepositoryName::new(args.name.as_str())?)?;
    if context.output.json {
        return context.output.json(&as_json(&entry));
    }
    context.output.outcome(format!(
        "the name {} is forgotten; the repository in {} stays as it is",
        entry.name,
        entry.path.display()
    ))
}

fn new_id(context: &Context, args: &RepoNewId) -> Result<()> {
    let other = match &args.repository {
        Some(word) => Some(context.of_word(word)?),
        None => None,
    };
    let context = other.as_ref().unwrap_or(context);
    let repository = context.repository()?;
    let old = repository.format().repository_id;
    context.wait_for_lock(context.path()?);
    let owner = Owner::open(repository, Arc::new(SystemClock), "repo new-id")?;
    let id = owner.renew_id()?;
    drop(owner);
    let names = Register::renew(context.path()?, old, id).unwrap_or_else(|e| {
        context.output.warn(format!(
            "a name of the repository keeps the old id: {}; forget it and name the repository again",
            e.report()
        ));
        Vec::new()
    });
    if context.output.json {
        let answer =
            json!({"path": context.path()?, "old_id": old, "repository_id": id, "names": names});
        return context.output.json(&answer);
    }
    context.output.outcome(format!(
        "the repository in {} has the id {id} (it was {old})",
        context.path()?.display()
    ))
}

fn test(context: &Context, args: &RepoTest) -> Result<()> {
    let other = match &args.place {
        Some(word) => Some(context.of_word(word)?),
        None => None,
    };
    let context = other.as_ref().unwrap_or(context);
    // A name is believed only where its repository is.
    if context.named().is_some() {
        context.repository()?;
    }
    let stopped = interrupt::flag()?;
    let stop = || match stopped.load(Ordering::SeqCst) {
        true => Err(Error::new(ErrorKind::Cancelled, "the test was stopped")),
        false => Ok(()),
    };
    let dir = Dir::open(context.path()?)?;
    let found = Suitability::of(&dir, args.quick, &stop)?;
    if context.output.json {
        context.output.json(&found)?;
    } else {
        let row = |one: &Finding| {
            vec![
                one.test.to_owned(),
                one.result.clone(),
                one.follows.to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = found.tests.iter().map(row).collect();
        context
            .output
            .table(&["TEST", "RESULT", "WHAT FOLLOWS"], &[], &rows)?;
    }
    let needed = found.tests.iter().filter(|one| one.needed);
    let missing: Vec<&str> = needed
        .filter(|one| one.ok != Some(true))
        .map(|one| one.test)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!(
        "no repository can be here: {} does not work",
        missing.join(", ")
    );
    Err(Error::unsupported(what).at_path(dir.path()))
}

/// Warns when other repositories have the id of the one at hand.
pub(super) fn warn_of_twins(context: &Context) -> Vec<SameId> {
    let same_id = match Register::load() {
        Ok(register) => look(context, &register, false).same_id,
        Err(e) => {
            context.output.warn(e.report());
            Vec::new()
        }
    };
    warn_of_copies(context, &same_id);
    same_id
}

fn list(context: &Context) -> Result<()> {
    let register = Register::load()?;
    let health = look(context, &register, true);
    if context.output.json {
        return context.output.json(&health);
    }
    let rows: Vec<Vec<String>> = health.repositories.iter().map(row).collect();
    context.output.table(
        &[
            "NAME", "STATE", "MEDIA", "OFF-SITE", "VMS", "POINTS", "USED", "HIDDEN", "TRASH",
            "30 DAYS", "FREE", "FULL IN", "ID", "PATH",
        ],
        &[
            "VMS", "POINTS", "USED", "HIDDEN", "TRASH", "30 DAYS", "FREE", "FULL IN",
        ],
        &rows,
    )?;
    for one in &health.repositories {
        let space = one.content.as_ref().and_then(|content| content.space);
        if space.is_some_and(|space| space.is_low) {
            let what = format!(
                "less than a tenth of the filesystem of {} is free",
                one.name
            );
            context.output.warn(what);
        }
        if let Some(error) = &one.error {
            context.output.line(format!("{}: {error}", one.name))?;
        }
    }
    warn_of_copies(context, &health.same_id);
    Ok(())
}

/// Looks at the named repositories, and at the one at hand, if there is one.
fn look(context: &Context, register: &Register, with_content: bool) -> RegisterHealth {
    let here = context.repository().ok();
    let path = context.path().ok();
    let here = here.as_deref().zip(path.map(|path| {
        let absolute = std::path::absolute(path);
        absolute.unwrap_or_else(|_| path.to_owned())
    }));
    RegisterHealth::of(register.entries(), here, with_content, SystemClock.now())
}

/// Warns of repositories that have one id.
fn warn_of_copies(context: &Context, same_id: &[SameId]) {
    for same in same_id {
        let paths: Vec<String> = same
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        context.output.warn(format!(
            "the repositories in {} have one id, {}; give each copy its own: restorefs repo new-id DIR",
            paths.join(" and "),
            same.id
        ));
    }
}

fn row(one: &RegisteredHealth) -> Vec<String> {
    let dash = || "-".to_owned();
    let content = one.content.as_ref();
    let state = match (one.reachable, &one.error, one.found_id) {
        (true, None, _) => "ok",
        (true, Some(_), _) => "damaged",
        (false, _, Some(_)) => "another id",
        (false, _, None) => "not there",
    };
    let free = content.and_then(|content| content.space);
    vec![
        one.name.to_string(),
        state.to_owned(),
        one.media.clone().unwrap_or_else(dash),
        if one.offsite { "yes" } else { "no" }.to_owned(),
        content.map_or_else(dash, |content| content.vms.to_string()),
        content.map_or_else(dash, |content| content.points.to_string()),
        content.map_or_else(dash, |content| Human(content.used_bytes).to_string()),
        content.map_or_else(dash, |content| Human(content.hidden_bytes).to_string()),
        content.map_or_else(dash, |content| Human(content.trash_bytes).to_string()),
        content.map_or_else(dash, |content| {
            Human(content.growth.stored_bytes).to_string()
        }),
        free.map_or_else(dash, |space| Human(space.free_bytes).to_string()),
        content
            .and_then(|content| content.days_until_full)
            .map_or_else(dash, |days| Count(days, "day").to_string()),
        one.id.to_string(),
        one.path.display().to_string(),
    ]
}
