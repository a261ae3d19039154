//! The room of a repository as a bar.

use maud::{Markup, html};

use super::quantity::{bytes, thousandths};
use crate::service::view::CapacityAnswer;
use crate::types::size::{Count, Human};

/// The room as a sentence.
fn sentence(room: &CapacityAnswer) -> String {
    let free = match (room.free_bytes, room.total_bytes) {
        (Some(free), Some(total)) => format!("{} of {} are free", Human(free), Human(total)),
        (Some(free), None) => format!("{} are free", Human(free)),
        _ => "The storage does not report its room".to_owned(),
    };
    let pace = match room.growth_bytes_per_day {
        0 => "backups have stored nothing lately".to_owned(),
        growth => format!("backups store {} a day", Human(growth)),
    };
    match room.days_until_full {
        Some(days) => format!("{free}; {pace}, so it is full in {}.", Count(days, "day")),
        None => format!("{free}; {pace}."),
    }
}

/// The bar with its sentence and its numbers.
pub(super) fn gauge(room: &CapacityAnswer) -> Markup {
    let text = sentence(room);
    html! {
        h3 { "Room" }
        p class=(if room.is_low { "state-bad" } else { "" }) {
            @if room.is_low { strong { "Less than a tenth is free. " } }
            (text)
        }
        @if let (Some(free), Some(total)) = (room.free_bytes, room.total_bytes) {
            @let taken = thousandths(total.saturating_sub(free), total);
            @let own = thousandths(room.used_bytes + room.trash_bytes, total).min(taken);
            svg.gauge viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label=(text) {
                rect.gauge-free x="0" y="0" width="1000" height="24" {}
                rect.gauge-other x="0" y="0" width=(taken) height="24" {}
                rect class=(if room.is_low { "gauge-low" } else { "gauge-own" }) x="0" y="0" width=(own) height="24" {}
            }
            p.legend aria-hidden="true" {
                span.key.key-own { "this repository" } " "
                span.key.key-other { "other data" } " "
                span.key.key-free { "free" }
            }
        }
        details {
            summary { "Room in numbers" }
            div.scroll tabindex="0" role="region" aria-label="Room in numbers" {
                table {
                    tbody {
                        @if let Some(total) = room.total_bytes { tr { th scope="row" { "Filesystem" } td { (bytes(total)) } } }
                        @if let Some(free) = room.free_bytes { tr { th scope="row" { "Free" } td { (bytes(free)) } } }
                        tr { th scope="row" { "Layers" } td { (bytes(room.used_bytes)) } }
                        tr { th scope="row" { "Hidden layers (merging frees at most these)" } td { (bytes(room.hidden_bytes)) } }
                        tr { th scope="row" { "Trash" } td { (bytes(room.trash_bytes)) } }
                        tr { th scope="row" { "Stored a day" } td { (bytes(room.growth_bytes_per_day)) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::gauge;
    use crate::service::view::CapacityAnswer;

    #[test]
    fn a_bar_has_a_text_and_never_leaves_its_frame() {
        let mut room = CapacityAnswer {
            free_bytes: Some(1 << 30),
            total_bytes: Some(4 << 30),
            used_bytes: u64::from(u32::MAX) * 8,
            hidden_bytes: 0,
            trash_bytes: 0,
            growth_bytes_per_day: 1 << 20,
            days_until_full: Some(1),
            is_low: false,
        };
        let text = gauge(&room).into_string();
        assert!(text.contains("it is full in 1 day."), "{text}");
        assert!(text.contains("width=\"750\""), "{text}");
        room.free_bytes = None;
        assert!(!gauge(&room).into_string().contains("<svg"));
    }
}
