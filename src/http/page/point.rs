//! A restore point: its disks, volumes, checks, copies, labels, attached files, and commands to copy.

use axum::http::StatusCode;
use maud::{Markup, html};
use serde_json::Value;

use super::frame::{Frame, Place, crumbs, notice};
use super::quantity::{at, bytes, maybe_bytes};
use super::vm::{check, labels};
use super::{address, command, spelling, volume};
use crate::access::Right;
use crate::error::Result;
use crate::http::call::Call;
use crate::http::reply::Answer;
use crate::service::Status;
use crate::service::view::PointAnswer;
use crate::types::{DiskName, RepositoryName, VmName};

/// What is shown.
struct Shown {
    repository: RepositoryName,
    vm: VmName,
    point: PointAnswer,
    volumes: Result<Value>,
    damage: Result<Vec<String>>,
    status: Option<Status>,
    may_restore: bool,
}

impl Shown {
    fn look(call: &Call) -> Result<Self> {
        let (view, which) = (call.view()?, call.which()?);
        let vm = view.vm(&call.vm()?)?.name;
        // Where the repository and its sockets lie is for those who may read all of it.
        let status = view
            .may_all(Right::Read)
            .then(|| view.service().status().ok());
        Ok(Self {
            repository: view.name().clone(),
            point: view.point(&vm, &which)?,
            volumes: view.document(&vm, &which, "volumes.json"),
            damage: view.damage(&vm, &which),
            status: status.flatten(),
            may_restore: view.may(Right::Restore, &vm),
            vm,
        })
    }

    fn address(&self) -> String {
        address::point(&self.repository, &self.vm, &self.point.name)
    }
}

/// The page.
pub(super) async fn show(call: Call) -> Answer {
    let shown = call.work(Shown::look).await?;
    let (vm, point) = (&shown.vm, &shown.point);
    let frame = Frame::of(&call, format!("{vm}@{}", point.name), Place::Elsewhere);
    let above = [
        ("/".to_owned(), html! { (shown.repository) }),
        (address::vm(&shown.repository, vm), html! { (vm) }),
    ];
    let disks: Vec<DiskName> = point.disks.iter().map(|disk| disk.name.clone()).collect();
    let content = html! {
        (crumbs(&above, &html! { (point.name) }))
        h1 { (point.name) }
        (damage(&shown))
        (facts(&shown))
        section aria-labelledby="files" {
            h2 #files { "Files" }
            @match &shown.volumes {
                Ok(document) => (volume::trees(document, &shown.address())),
                Err(e) => (notice("bad", &html! { p { (spelling::text(&e.report())) } })),
            }
        }
        section aria-labelledby="disks" { h2 #disks { "Disks" } (table(&shown)) }
        section aria-labelledby="volumes" {
            h2 #volumes { "Volumes" }
            @match &shown.volumes {
                Ok(document) => (volume::table(document, &shown.address())),
                Err(_) => p.quiet { "They cannot be read." },
            }
        }
        section aria-labelledby="copies" { h2 #copies { "Copies" } (copies(point)) }
        section aria-labelledby="attached" { h2 #attached { "Attached files" } (attached(&shown)) }
        section aria-labelledby="commands" {
            h2 #commands { "Commands" }
            (command::show(shown.status.as_ref(), vm, &point.name, &disks))
        }
    };
    Ok(frame.answer(StatusCode::OK, &content))
}

fn damage(shown: &Shown) -> Markup {
    html! {
        @match &shown.damage {
            Ok(faults) if faults.is_empty() => {}
            Ok(faults) => (notice("bad", &html! {
                p { strong { "This restore point is damaged." } }
                ul { @for fault in faults.iter().take(20) { li { (spelling::text(fault)) } } }
            })),
            Err(e) => (notice("bad", &html! { p { (spelling::text(&e.report())) } })),
        }
    }
}

fn facts(shown: &Shown) -> Markup {
    let point = &shown.point;
    html! {
        dl.facts {
            div { dt { "Captured" } dd { (at(point.captured_at)) } }
            div { dt { "Committed" } dd { (at(point.committed_at)) } }
            div { dt { "Kind" } dd { (point.kind) } }
            @if let Some(parent) = &point.parent {
                div { dt { "Compared with" } dd { a href=(address::point(&shown.repository, &shown.vm, parent)) { (parent) } } }
            }
            div { dt { "Disks" } dd { (bytes(point.size_bytes)) } }
            div { dt { "Changed" } dd { (bytes(point.changed_bytes)) } }
            div { dt { "Stored" } dd { (maybe_bytes(point.stored_bytes)) } }
            div { dt { "Verified" } dd { (check(point)) } }
            @if point.kept || !point.tags.is_empty() { div { dt { "Labels" } dd { (labels(point)) } } }
            div { dt { "Id" } dd { code { (point.point_id) } } }
        }
    }
}

fn table(shown: &Shown) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of disks" {
            table {
                thead {
                    tr {
                        th scope="col" { "Disk" } th.number scope="col" { "Size" } th.number scope="col" { "Data" }
                        th.number scope="col" { "Changed" } th.number scope="col" { "Depth" }
                        @if shown.may_restore { th scope="col" { "Download" } }
                    }
                }
                tbody {
                    @for disk in &shown.point.disks {
                        tr {
                            th scope="row" { (disk.name) }
                            td.number { (bytes(disk.source_bytes)) }
                            td.number { (bytes(disk.data_bytes)) }
                            td.number { (bytes(disk.changed_bytes)) }
                            td.number { @if let Some(depth) = disk.depth { (depth) } }
                            @if shown.may_restore {
                                td { a href={ (shown.address()) "/disks/" (disk.name) } aria-label={ "Download " (disk.name) " as a raw image" } { "raw image" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn copies(point: &PointAnswer) -> Markup {
    html! {
        @if point.copies.is_empty() {
            p.quiet { "No other repository is known to have this restore point." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Table of copies" {
                table {
                    thead { tr { th scope="col" { "Repository" } th scope="col" { "Copied" } th scope="col" { "Confirmed" } } }
                    tbody {
                        @for copy in &point.copies {
                            tr {
                                th scope="row" { @match &copy.repository { Some(name) => (name), None => code { (copy.repository_id) } } }
                                td { (at(copy.at)) }
                                td {
                                    @match (copy.gone_at, copy.verified_at) {
                                        (Some(gone), _) => { span.state.state-bad { "gone" } " since " (at(gone)) }
                                        (None, Some(seen)) => (at(seen)),
                                        (None, None) => span.quiet { "never" },
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn attached(shown: &Shown) -> Markup {
    html! {
        @if shown.point.attached.is_empty() {
            p.quiet { "No file was attached at the backup." }
        } @else {
            ul {
                @for file in &shown.point.attached {
                    li {
                        @if shown.may_restore {
                            a href={ (shown.address()) "/attached/" (address::encode(file.name.as_bytes())) } {
                                (spelling::name(file.name.as_bytes()))
                            }
                        } @else { (spelling::name(file.name.as_bytes())) }
                        " " (bytes(file.size_bytes))
                    }
                }
            }
        }
    }
}
