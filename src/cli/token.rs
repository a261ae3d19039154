//! `restorefs token`: tokens of the access table.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::args::token::{Token, TokenAction, TokenAdd, TokenRevoke};
use super::context::Context;
use crate::access::{AccessFile, Grant, NewToken, Right, TokenEntry, default_file};
use crate::clock::{Clock, SystemClock};
use crate::control::Client;
use crate::error::{Error, Result};
use crate::service::Service;
use crate::types::duration::parse_seconds;
use crate::types::{RepositoryName, TokenName};

pub(super) fn run(context: &Context, args: &Token) -> Result<()> {
    match &args.action {
        TokenAction::Add(args) => add(context, args),
        TokenAction::List(args) => list(context, &file(args.access.as_deref())),
        TokenAction::Revoke(args) => revoke(context, args),
        TokenAction::Login => login(context),
    }
}

/// Asks the daemon of the repository for a login, with the rights of the user who runs this.
fn login(context: &Context) -> Result<()> {
    let repository = context.repository()?;
    let client = Client::connect(&repository)?.ok_or_else(|| {
        Error::not_found("no daemon serves this repository")
            .advise("start one: restorefs serve --http 127.0.0.1:8420")
    })?;
    let login = client.login()?;
    if context.output.json {
        return context.output.json(&login);
    }
    context.output.line(&login.url)?;
    context.output.remark(format!(
        "It works once, within {} minutes.",
        login.expires_seconds / 60
    ));
    Ok(())
}

/// The file that the flag names, or the default one.
fn file(named: Option<&Path>) -> AccessFile {
    match named {
        Some(path) => {
            let absolute = std::path::absolute(path);
            AccessFile::at(&absolute.unwrap_or_else(|_| path.to_owned()))
        }
        None => AccessFile::at(&default_file()),
    }
}

fn names(grant: &Grant) -> Vec<&'static str> {
    grant.rights.iter().map(Right::as_str).collect()
}

/// When a token that is made at `now` ends.
fn end(now: Timestamp, text: &str) -> Result<Timestamp> {
    let seconds = parse_seconds(text)?;
    let end = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok());
    end.ok_or_else(|| Error::invalid(format!("--expires {}: too far away", text.escape_debug())))
}

fn add(context: &Context, args: &TokenAdd) -> Result<()> {
    // The file has whole seconds.
    let now = SystemClock.now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let rights = args.rights.iter().filter(|word| !word.is_empty());
    let repositories: Result<Vec<RepositoryName>> = args
        .repository
        .iter()
        .map(|name| RepositoryName::new(name.as_str()))
        .collect();
    let token = NewToken {
        name: TokenName::new(args.name.as_str())?,
        grant: Grant {
            vms: args.vms.clone(),
            rights: rights
                .map(|word| word.trim().parse())
                .collect::<Result<_>>()?,
            repositories: Some(repositories?).filter(|all| !all.is_empty()),
        },
        created: now,
        expires: args
            .expires
            .as_deref()
            .map(|text| end(now, text))
            .transpose()?,
    };
    let file = file(args.access.as_deref());
    let secret = file.add(&token)?;
    let path = file.path();
    if context.output.json {
        return context.output.json(&json!({
            "name": token.name, "token": secret.reveal(), "rights": names(&token.grant), "vms": token.grant.vms,
            "repositories": token.grant.repositories, "created": token.created, "expires": token.expires, "file": path,
        }));
    }
    context.output.line(secret.reveal())?;
    context.output.remark(format!(
        "the token {} is in {} as a hash: what is printed is shown only now",
        token.name,
        path.display()
    ));
    Ok(())
}

fn as_json(entry: &TokenEntry, grant: &Grant, now: Timestamp) -> Value {
    json!({
        "name": entry.name, "rights": names(grant), "vms": grant.vms, "repositories": grant.repositories,
        "created": entry.created, "expires": entry.expires, "expired": entry.has_expired(now),
    })
}

fn list(context: &Context, file: &AccessFile) -> Result<()> {
    let table = file.load()?;
    let now = SystemClock.now();
    if context.output.json {
        let all: Vec<Value> = table
            .tokens()
            .map(|(entry, grant)| as_json(entry, grant, now))
            .collect();
        return context.output.json(&all);
    }
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let row = |(entry, grant): (&TokenEntry, &Grant)| {
        let repositories = grant.repositories.as_ref();
        let repositories = repositories.map_or_else(
            || "all".to_owned(),
            |all| {
                all.iter()
                    .map(RepositoryName::as_str)
                    .collect::<Vec<_>>()
                    .join(",")
            },
        );
        let expires = match entry.has_expired(now) {
            true => format!("{} (expired)", time(entry.expires)),
            false => time(entry.expires),
        };
        vec![
            entry.name.to_string(),
            names(grant).join(","),
            grant.vms.join(","),
            repositories,
            time(entry.created),
            expires,
        ]
    };
    let rows: Vec<Vec<String>> = table.tokens().map(row).collect();
    let heading = [
        "NAME",
        "RIGHTS",
        "VMS",
        "REPOSITORIES",
        "CREATED",
        "EXPIRES",
    ];
    context.output.table(&heading, &[], &rows)
}

fn revoke(context: &Context, args: &TokenRevoke) -> Result<()> {
    let name = TokenName::new(args.name.as_str())?;
    let file = file(args.access.as_deref());
    file.revoke(&name)?;
    let path = file.path();
    if context.output.json {
        return context.output.json(&json!({"name": name, "file": path}));
    }
    context.output.outcome(format!(
        "the token {name} is revoked, and no longer in {}",
        path.display()
    ))
}
