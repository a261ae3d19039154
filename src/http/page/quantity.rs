//! Sizes and times in pages.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::types::duration::Age;
use crate::types::size::Human;

/// Seconds of a minute.
const MINUTE: u64 = 60;

/// A count of bytes with its unit; the exact count is in its title.
pub(super) fn bytes(count: u64) -> Markup {
    html! { span.number title={ (count) " bytes" } { (Human(count)) } }
}

/// The same, where it may be unknown.
pub(super) fn maybe_bytes(count: Option<u64>) -> Markup {
    match count {
        Some(count) => bytes(count),
        None => html! { span.quiet { "unknown" } },
    }
}

/// An instant to the minute, in UTC. The script adds the local time.
pub(super) fn at(instant: Timestamp) -> Markup {
    let zoned = instant.to_zoned(TimeZone::UTC);
    let shown = zoned.strftime("%Y-%m-%d %H:%M");
    html! { time datetime=(instant) { (shown.to_string()) " UTC" } }
}

/// An instant that may be unknown, or not have come.
pub(super) fn maybe_at(instant: Option<Timestamp>, otherwise: &str) -> Markup {
    match instant {
        Some(instant) => at(instant),
        None => html! { span.quiet { (otherwise) } },
    }
}

/// The time since an instant: `3h ago`.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        ..MINUTE => "just now".to_owned(),
        seconds => format!("{} ago", Age(seconds)),
    }
}

/// Whole seconds from one instant to a later one.
pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0)
}

/// Parts of a thousand, for bars.
pub(super) fn thousandths(part: u64, whole: u64) -> u64 {
    let scaled = u128::from(part.min(whole)) * 1_000;
    u64::try_from(scaled / u128::from(whole.max(1))).unwrap_or(1_000)
}

#[cfg(test)]
mod tests {
    use super::{ago, at, thousandths};

    #[test]
    fn quantities_are_short_and_exact() {
        assert_eq!(ago(5), "just now");
        assert_eq!(ago(7_200), "2h ago");
        assert_eq!(thousandths(1, 3), 333);
        assert_eq!(thousandths(u64::MAX, u64::MAX), 1_000);
        assert_eq!(thousandths(7, 0), 0);
        let instant = "2026-11-20T02:00:59Z".parse().unwrap();
        assert_eq!(
            at(instant).into_string(),
            "<time datetime=\"2026-11-20T02:00:59Z\">2026-11-20 02:00 UTC</time>"
        );
    }
}
