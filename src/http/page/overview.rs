//! All repositories: how they stand, what runs, and how much room is left.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use jiff::Timestamp;
use maud::{Markup, html};

use super::frame::{Frame, Place, notice};
use super::quantity::{ago, at, maybe_at};
use super::{address, gauge, job, spelling};
use crate::error::{Error, Result};
use crate::http::call::Call;
use crate::http::reply::Answer;
use crate::service::view::{JobChoice, StatusAnswer, StatusVm, View};
use crate::types::VmName;
use crate::types::size::Count;

/// LIMIT: VMs of one repository that the page shows; those that need somebody come first.
const VMS_MAX: usize = 1_000;

/// One repository.
struct Shown {
    status: StatusAnswer,
    next: BTreeMap<VmName, Timestamp>,
}

fn look(view: &View) -> Result<Shown> {
    let (status, next) = view.status_with_next()?;
    Ok(Shown { status, next })
}

/// The overview.
pub(super) async fn show(call: Call) -> Answer {
    let frame = Frame::of(&call, "Overview".to_owned(), Place::Overview);
    let (content, running) = call
        .work(|call| {
            let views = call.site.views(&call.caller, &call.peer);
            let mut running = Vec::new();
            for view in &views {
                let jobs = view.running(&JobChoice::default())?;
                let rows = jobs.into_iter().map(|one| job::Row::of(view, one));
                running.extend(rows);
            }
            let shown: Vec<(String, Result<Shown>)> = views
                .iter()
                .map(|view| (view.name().to_string(), look(view)))
                .collect();
            Ok((shown, running))
        })
        .await?;
    let page = html! {
        h1 { "Overview" }
        (verdict(&content))
        section aria-labelledby="running" {
            h2 #running { "Running jobs" }
            div #live data-live="" { (job::running(&running)) }
            p.visually-hidden role="status" data-live-told="" {}
        }
        @for (name, shown) in &content {
            section aria-labelledby={ "repository-" (name) } {
                h2 id={ "repository-" (name) } { "Repository " (name) }
                @match shown {
                    Ok(shown) => (repository(shown)),
                    Err(error) => (unreadable(error)),
                }
            }
        }
    };
    Ok(frame.answer(StatusCode::OK, &page))
}

fn unreadable(error: &Error) -> Markup {
    notice("bad", &html! { p { (spelling::text(&error.report())) } })
}

/// One sentence over all of them.
fn verdict(all: &[(String, Result<Shown>)]) -> Markup {
    let vms = || {
        all.iter()
            .filter_map(|(_, shown)| shown.as_ref().ok())
            .flat_map(|shown| &shown.status.vms)
    };
    let known = vms().count();
    let troubled = vms().filter(|vm| needs_somebody(&vm.state)).count();
    let broken = all.iter().filter(|(_, shown)| shown.is_err()).count();
    let (class, text) = match (all.is_empty(), broken, troubled, known) {
        (true, ..) => (
            "warn",
            "There is no repository that you may see.".to_owned(),
        ),
        (_, 1.., ..) => (
            "bad",
            format!("{} cannot be read.", Count::of(broken, "repository")),
        ),
        (.., 0, 0) => (
            "warn",
            "There is no VM yet: nothing is protected.".to_owned(),
        ),
        (.., 0, 1) => ("good", "The one VM is protected.".to_owned()),
        (.., 0, known) => ("good", format!("All {known} VMs are protected.")),
        (.., troubled, known) => (
            "bad",
            format!("{troubled} of {} need somebody.", Count::of(known, "VM")),
        ),
    };
    html! { p class={ "verdict lead " (class) } { (text) } }
}

fn needs_somebody(state: &str) -> bool {
    !matches!(state, "ok" | "too-deep")
}

fn repository(shown: &Shown) -> Markup {
    let status = &shown.status;
    let last = status.vms.iter().filter_map(|vm| vm.last_at).max();
    let next = shown.next.iter().min_by_key(|(_, at)| **at);
    html! {
        p { (spelling::text(&status.summary)) }
        dl.facts {
            div { dt { "Last backup" } dd { (maybe_at(last, "none yet")) } }
            div {
                dt { "Next backup" }
                dd {
                    @match next {
                        Some((vm, due)) => { (at(*due)) " (" (vm) ")" }
                        None => span.quiet { "no schedule" },
                    }
                }
            }
        }
        @if status.vms.is_empty() {
            p { "There is no VM in it." }
        } @else {
            (vms(status, &shown.next))
        }
        @if let Some(room) = &status.capacity { (gauge::gauge(room)) }
    }
}

fn vms(status: &StatusAnswer, next: &BTreeMap<VmName, Timestamp>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "VMs of " (status.repository) } {
            table {
                caption { "VMs, those first that need somebody" }
                thead {
                    tr {
                        th scope="col" { "VM" } th scope="col" { "State" } th scope="col" { "Last backup" }
                        th scope="col" { "Next backup" } th.number scope="col" { "Points" } th scope="col" { "Verified" }
                    }
                }
                tbody {
                    @for vm in status.vms.iter().take(VMS_MAX) {
                        tr {
                            th scope="row" { a href=(address::vm(&status.repository, &vm.vm)) { (vm.vm) } }
                            td { (state(vm)) }
                            td {
                                @if let (Some(last), Some(age)) = (&vm.last, vm.age_seconds) {
                                    a href=(address::point(&status.repository, &vm.vm, last)) { (ago(age)) }
                                    @if let Some(instant) = vm.last_at { br; span.quiet { (at(instant)) } }
                                } @else { span.quiet { "none" } }
                            }
                            td { (maybe_at(next.get(&vm.vm).copied(), "no schedule")) }
                            td.number { (vm.points) }
                            td { (maybe_at(vm.checked_at, "never")) }
                        }
                    }
                }
            }
        }
        @if status.vms.len() > VMS_MAX {
            p { (status.vms.len() - VMS_MAX) " more VMs need nobody and are left out here; the API lists them all." }
        }
    }
}

/// The state of a VM, and why.
pub(super) fn state(vm: &StatusVm) -> Markup {
    let (class, text) = match vm.state.as_str() {
        "ok" => ("state-good", "protected"),
        "damaged" => ("state-bad", "damaged"),
        "unprotected" => ("state-bad", "not protected"),
        "unmet" => ("state-bad", "policy not met"),
        "too-deep" => ("state-warn", "chain too deep"),
        other => ("state-warn", other),
    };
    let problems = vm
        .policy
        .iter()
        .flat_map(|policy| policy.problems.iter().chain(&policy.failures));
    let reasons: Vec<&String> = vm.damage.iter().chain(problems).take(3).collect();
    html! {
        span class={ "state " (class) } { (text) }
        @for reason in reasons { br; span.quiet { (spelling::text(reason)) } }
    }
}
