//! A VM: its restore points by day, what each has stored, and the chain of the latest.

use axum::http::StatusCode;
use jiff::civil::Date;
use maud::{Markup, html};

use super::calendar::{Calendar, Month, day_of, months};
use super::frame::{Frame, Place, crumbs, notice};
use super::quantity::{ago, at, bytes, maybe_at, maybe_bytes, thousandths};
use super::{address, chain, overview, spelling};
use crate::error::{ErrorKind, Result};
use crate::http::call::Call;
use crate::http::reply::Answer;
use crate::repo::selector::Which;
use crate::service::view::{ChainLayer, PointAnswer, PointMark, StatusVm, VmAnswer};
use crate::types::RepositoryName;
use crate::types::size::{Count, Human};

/// Restore points on a page.
const PAGE_POINTS: usize = 100;
/// Height of the picture of sizes.
const BARS_HEIGHT: u64 = 100;

/// What is shown.
struct Shown {
    repository: RepositoryName,
    vm: VmAnswer,
    state: Result<Option<StatusVm>>,
    months: Vec<Month>,
    month: Option<Month>,
    day: Option<Date>,
    /// The points of the month.
    marks: Vec<PointMark>,
    /// Points of the month or day, on all pages.
    total: usize,
    page: usize,
    points: Vec<PointAnswer>,
    chain: Result<Vec<ChainLayer>>,
}

impl Shown {
    fn look(call: &Call) -> Result<Self> {
        let (view, name, form) = (call.view()?, call.vm()?, call.form()?);
        let vm = view.vm(&name)?;
        let mut marks = view.marks(&name)?;
        let months = months(&marks);
        let asked = form.text("month")?.and_then(|text| Month::parse(&text));
        let month = asked.or_else(|| months.first().copied());
        marks.retain(|mark| month.is_some_and(|month| month.has(day_of(mark.captured_at))));
        let day = form.text("day")?.and_then(|text| text.parse::<i8>().ok());
        let day = day.and_then(|day| {
            let mut days = marks.iter().map(|mark| day_of(mark.captured_at));
            days.find(|date| date.day() == day)
        });
        let listed: Vec<u64> = marks
            .iter()
            .filter(|mark| day.is_none_or(|day| day_of(mark.captured_at) == day))
            .map(|mark| mark.seq)
            .collect();
        let page = form
            .text("page")?
            .and_then(|text| text.parse::<usize>().ok());
        let page = page
            .unwrap_or(1)
            .clamp(1, listed.len().div_ceil(PAGE_POINTS).max(1));
        let before = (page - 1) * PAGE_POINTS;
        let part: Vec<u64> = listed
            .iter()
            .skip(before)
            .take(PAGE_POINTS)
            .copied()
            .collect();
        // Of a VM without points there is no chain.
        let chain = match vm.latest {
            Some(_) => view.chain(&name, &"latest".parse::<Which>()?),
            None => Ok(Vec::new()),
        };
        let state = view.status_of(&name);
        Ok(Self {
            repository: view.name().clone(),
            state,
            months,
            month,
            day,
            total: listed.len(),
            page,
            points: view.points_at(&name, &part)?,
            marks,
            chain,
            vm,
        })
    }

    fn address(&self) -> String {
        let mut address = address::vm(&self.repository, &self.vm.name);
        if let Some(month) = self.month {
            address = address::with(&address, "month", &month.spelled());
        }
        if let Some(day) = self.day {
            address = address::with(&address, "day", &day.day());
        }
        address
    }
}

/// The page.
pub(super) async fn show(call: Call) -> Answer {
    let shown = call.work(Shown::look).await?;
    let vm = &shown.vm;
    let frame = Frame::of(&call, vm.name.to_string(), Place::Elsewhere);
    let above = [("/".to_owned(), html! { (shown.repository) })];
    let content = html! {
        (crumbs(&above, &html! { (vm.name) }))
        h1 { (vm.name) @if let Some(display) = &vm.display_name { " " span.quiet { (spelling::name(display.as_bytes())) } } }
        (facts(&shown))
        section aria-labelledby="points" {
            h2 #points { "Restore points" }
            @match shown.month {
                None => p { "There is no restore point yet: this VM is not protected." },
                Some(month) => {
                    (Calendar {
                        repository: &shown.repository,
                        vm: &vm.name,
                        month,
                        months: &shown.months,
                        marks: &shown.marks,
                        day: shown.day,
                    }.show())
                    (points(&shown))
                }
            }
        }
        @if vm.latest.is_some() {
            section aria-labelledby="chain" {
                h2 #chain { "Chain of the latest restore point" }
                @match &shown.chain {
                    Ok(layers) => (chain::show(layers, &shown.repository, &vm.name)),
                    Err(e) if e.kind() == ErrorKind::NotFound => p.quiet { "The point was forgotten meanwhile." },
                    Err(e) => (notice("bad", &html! { p { (spelling::text(&e.report())) } })),
                }
            }
        }
    };
    Ok(frame.answer(StatusCode::OK, &content))
}

fn facts(shown: &Shown) -> Markup {
    let vm = &shown.vm;
    html! {
        dl.facts {
            @match &shown.state {
                Ok(Some(state)) => {
                    div { dt { "State" } dd { (overview::state(state)) } }
                    @if let Some(age) = state.age_seconds { div { dt { "Last backup" } dd { (ago(age)) } } }
                }
                Ok(None) => {}
                Err(e) => div { dt { "State" } dd { span.state.state-warn { "unknown" } br; span.quiet { (spelling::text(&e.report())) } } },
            }
            div {
                dt { "Latest" }
                dd {
                    @match &vm.latest {
                        Some(latest) => a href=(address::point(&shown.repository, &vm.name, latest)) { (latest) },
                        None => span.quiet { "none" },
                    }
                }
            }
            div { dt { "Restore points" } dd { (vm.points) } }
            @if let Some(size) = vm.size_bytes { div { dt { "Disks" } dd { (bytes(size)) } } }
            @if let Ok(Some(state)) = &shown.state { div { dt { "Verified" } dd { (maybe_at(state.checked_at, "never")) } } }
        }
    }
}

/// The points as bars of what each has stored, and as a table, which has the same numbers.
fn points(shown: &Shown) -> Markup {
    let pages = shown.total.div_ceil(PAGE_POINTS).max(1);
    html! {
        @if let Some(day) = shown.day {
            p { "Only those of " (day) ". " a href=(address::with(&address::vm(&shown.repository, &shown.vm.name), "month", &Month::of(day).spelled())) { "The whole month" } }
        }
        @if shown.points.is_empty() {
            p.quiet { "There is none in this month." }
        } @else {
            (bars(&shown.points))
            (table(shown))
        }
        @if pages > 1 {
            nav.pages aria-label="Pages" {
                @if shown.page > 1 { a href=(address::with(&shown.address(), "page", &(shown.page - 1))) rel="prev" { "Newer" } }
                span { "Page " (shown.page) " of " (pages) }
                @if shown.page < pages { a href=(address::with(&shown.address(), "page", &(shown.page + 1))) rel="next" { "Older" } }
            }
        }
    }
}

fn bars(points: &[PointAnswer]) -> Markup {
    let most = points
        .iter()
        .filter_map(|point| point.stored_bytes)
        .max()
        .unwrap_or(0);
    let width = points.len() * 10;
    let text = format!(
        "What each of {} has stored, the oldest first; at most {}. The table has the numbers.",
        Count::of(points.len(), "restore point"),
        Human(most)
    );
    html! {
        figure {
            figcaption { "Stored by each restore point, at most " (bytes(most)) }
            svg.bars viewBox={ "0 0 " (width.max(200)) " " (BARS_HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(text) {
                @for (n, point) in points.iter().rev().enumerate() {
                    // A point that has stored something is seen.
                    @let height = point.stored_bytes.map_or(0, |stored| (thousandths(stored, most) * BARS_HEIGHT / 1_000).max(1));
                    rect class=(if point.check.as_deref() == Some("damaged") { "bar-bad" } else if point.kind == "full" { "bar-full" } else { "bar" })
                        x=(n * 10 + 1) y=(BARS_HEIGHT - height) width="8" height=(height) {
                        title { (point.name) ": " (point.stored_bytes.map_or_else(|| "unknown".to_owned(), |stored| Human(stored).to_string())) }
                    }
                }
            }
        }
    }
}

fn table(shown: &Shown) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of restore points" {
            table {
                caption { "Restore points, the newest first" }
                thead {
                    tr {
                        th scope="col" { "Restore point" } th scope="col" { "Captured" } th scope="col" { "Kind" }
                        th.number scope="col" { "Changed" } th.number scope="col" { "Stored" }
                        th scope="col" { "Verified" } th scope="col" { "Labels" }
                    }
                }
                tbody {
                    @for point in &shown.points {
                        tr {
                            th scope="row" { a href=(address::point(&shown.repository, &shown.vm.name, &point.name)) { (point.name) } }
                            td { (at(point.captured_at)) }
                            td { (point.kind) }
                            td.number { (bytes(point.changed_bytes)) }
                            td.number { (maybe_bytes(point.stored_bytes)) }
                            td { (check(point)) }
                            td.wrap { (labels(point)) }
                        }
                    }
                }
            }
        }
    }
}

/// The result of verifying a point.
pub(super) fn check(point: &PointAnswer) -> Markup {
    html! {
        @match point.check.as_deref() {
            Some("damaged") => span.state.state-bad { "damaged" },
            Some(_) => { span.state.state-good { "sound" } @if let Some(since) = point.checked_at { " " (at(since)) } }
            None => span.quiet { "never" },
        }
    }
}

/// Its tags, and whether somebody keeps it.
pub(super) fn labels(point: &PointAnswer) -> Markup {
    html! {
        @if point.kept { span.tag { "kept" } " " }
        @for (key, value) in &point.tags {
            span.tag { (spelling::name(key.as_bytes())) @if !value.is_empty() { "=" (spelling::name(value.as_bytes())) } } " "
        }
    }
}
