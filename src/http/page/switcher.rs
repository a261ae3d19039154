//! From a place in one restore point to the same place in another.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use maud::{Markup, html};

use super::{address, selection};
use crate::error::Error;
use crate::http::call::Call;
use crate::http::reply::Answer;
use crate::repo::selector::Which;
use crate::service::view::PointMark;
use crate::types::{PointName, RepositoryName, VmName};

/// LIMIT: points that are offered: the newest ones, and those around the one that is shown.
const OFFERED_MAX: usize = 100;

/// The points that are offered, the newest first.
fn offered<'a>(marks: &'a [PointMark], here: &PointName) -> Vec<&'a PointMark> {
    let at = marks
        .iter()
        .position(|mark| mark.name == *here)
        .unwrap_or(0);
    let half = OFFERED_MAX / 2;
    let from = at.saturating_sub(half / 2).max(half);
    let newest = marks.iter().take(half);
    newest.chain(marks.iter().skip(from).take(half)).collect()
}

/// The form. `path` is where the reader is.
pub(super) fn form(
    repository: &RepositoryName,
    vm: &VmName,
    here: &PointName,
    marks: &[PointMark],
    path: &[u8],
) -> Markup {
    html! {
        form.switcher method="get" action={ (address::vm(repository, vm)) "/switch" } {
            input type="hidden" name="at" value=(address::encode(path));
            label for="switch" { "Restore point" }
            select #switch name="point" {
                @for mark in offered(marks, here) {
                    option value=(mark.name) selected[mark.name == *here] { (mark.name) @if mark.is_damaged { " (damaged)" } }
                }
            }
            button type="submit" { "Show this path there" }
        }
    }
}

/// Leads to the same path in the chosen point.
pub(super) async fn switch(call: Call) -> Answer {
    let form = call.form()?;
    let point = form.text("point")?.unwrap_or_default();
    let at = selection::field(&form.bytes("at")?.unwrap_or_default())?;
    let to = call
        .work(move |call| {
            let (view, vm) = (call.view()?, call.vm()?);
            let which: Which = point.parse()?;
            let found = view.point(&vm, &which)?;
            let address = address::point(view.name(), &vm, &found.name);
            Ok(address::with(
                &address::below(&address, "files", &at),
                "switched",
                &1,
            ))
        })
        .await?;
    let to = HeaderValue::from_str(&to)
        .map_err(|_| Error::invalid("the path cannot be in an address"))?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response())
}

#[cfg(test)]
mod tests {
    use super::{OFFERED_MAX, offered};
    use crate::service::view::PointMark;
    use crate::types::PointName;

    #[test]
    fn of_many_points_the_newest_and_the_neighbours_are_offered() {
        let name = |n: usize| PointName::new(format!("p{n}")).unwrap();
        let marks: Vec<PointMark> = (0..10_000)
            .map(|n| PointMark {
                name: name(n),
                seq: 1,
                captured_at: jiff::Timestamp::UNIX_EPOCH,
                is_damaged: false,
            })
            .collect();
        for here in [0, 1, 60, 5_000, 9_999] {
            let some = offered(&marks, &name(here));
            assert!(some.len() <= OFFERED_MAX);
            assert_eq!(
                some.iter().filter(|mark| mark.name == name(here)).count(),
                1,
                "{here}"
            );
            assert_eq!(some[0].name, name(0));
        }
        assert_eq!(offered(&marks[..3], &name(2)).len(), 3);
    }
}
