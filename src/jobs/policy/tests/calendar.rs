//! Schedules: times of the day, days of the week, and clocks that are put forward and back.

use super::{Timestamp, at};
use crate::jobs::policy::Schedule;
use crate::jobs::retention::Zone;

/// The instants of a schedule in a zone, from one instant on, up to and with another.
fn instants(schedule: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let schedule: Schedule = schedule.parse().unwrap();
    let zone: Zone = zone.parse().unwrap();
    let mut found: Vec<Timestamp> = Vec::new();
    let mut now = at(from);
    while let Some(next) = schedule
        .next(now, zone.time_zone())
        .filter(|n| *n <= at(to))
    {
        // Both directions say the same.
        assert_eq!(schedule.last(next, zone.time_zone()), Some(next));
        let before = next
            .checked_sub(super::SignedDuration::from_secs(1))
            .unwrap();
        assert!(schedule.last(before, zone.time_zone()).unwrap() < next);
        found.push(next);
        now = next;
    }
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn each_schedule_has_its_instants() {
    for (schedule, zone, from, to, expected) in [
        (
            "daily 02:00",
            "UTC",
            "2026-11-29T02:00:00Z",
            "2026-12-01T01:59:59Z",
            &["2026-11-30T02:00:00Z"][..],
        ),
        (
            "daily 23:59",
            "Asia/Kathmandu",
            "2026-11-29T00:00:00Z",
            "2026-11-30T00:00:00Z",
            &["2026-11-29T18:14:00Z"],
        ),
        (
            "weekly sun 00:00",
            "America/New_York",
            "2026-11-25T00:00:00Z",
            "2026-12-10T00:00:00Z",
            &["2026-11-29T05:00:00Z", "2026-12-06T05:00:00Z"],
        ),
        (
            "every 6h",
            "Europe/Berlin",
            "2026-11-30T00:00:00Z",
            "2026-11-30T13:00:00Z",
            &["2026-11-30T06:00:00Z", "2026-11-30T12:00:00Z"],
        ),
        // Full hours of a zone that is half an hour off.
        (
            "hourly",
            "Asia/Kolkata",
            "2026-11-30T00:00:00Z",
            "2026-11-30T02:00:00Z",
            &["2026-11-30T00:30:00Z", "2026-11-30T01:30:00Z"],
        ),
        // The 29th of February.
        (
            "daily 12:00",
            "UTC",
            "2028-02-28T13:00:00Z",
            "2028-03-01T11:00:00Z",
            &["2028-02-29T12:00:00Z"],
        ),
    ] {
        assert_eq!(
            instants(schedule, zone, from, to),
            expected,
            "{schedule} {zone}"
        );
    }
}

/// In Berlin the 29th of March 2026 has no 02:30, and the 25th of October has two.
#[test]
fn a_time_that_a_day_lacks_is_due_once_and_so_is_one_that_it_has_twice() {
    let berlin = |from, to| instants("daily 02:30", "Europe/Berlin", from, to);
    assert_eq!(
        berlin("2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
        [
            "2026-03-28T01:30:00Z",
            // 03:30 in summer time, an hour behind the gap.
            "2026-03-29T01:30:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
    assert_eq!(
        berlin("2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z"),
        [
            "2026-10-24T00:30:00Z",
            // The first of the two.
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z"
        ]
    );
    // Each hour of both days counts.
    let hourly = |from, to| instants("hourly", "Europe/Berlin", from, to).len();
    assert_eq!(hourly("2026-03-28T22:59:59Z", "2026-03-29T21:59:59Z"), 23);
    assert_eq!(hourly("2026-10-24T21:59:59Z", "2026-10-25T22:59:59Z"), 25);
    // Samoa has left out the 30th of December 2011; the 29th and the 31st are there.
    assert_eq!(
        instants(
            "daily 02:00",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            "2011-12-31T00:00:00Z"
        ),
        ["2011-12-29T12:00:00Z", "2011-12-30T12:00:00Z"]
    );
    // A clock that is put forward at midnight.
    assert_eq!(
        instants(
            "daily 00:00",
            "Africa/Cairo",
            "2026-04-22T23:00:00Z",
            "2026-04-24T20:00:00Z"
        ),
        ["2026-04-23T22:00:00Z"]
    );
}

#[test]
fn what_never_comes_is_no_schedule() {
    for bad in [
        "",
        "daily",
        "daily 24:00",
        "daily 25:00",
        "daily 02:60",
        "daily 2:00",
        "daily 02:00:00",
        "daily -1:00",
        "daily +2:00",
        "daily 02:00 ",
        "weekly 02:00",
        "weekly funday 02:00",
        "weekly mon",
        "monthly 31",
        "yearly 02-30 02:00",
        "every 0h",
        "every -6h",
        "every 6",
        "every 6m",
        "every 9999999999999999999999h",
        "every 8785h",
        "hourly 5",
        "Hourly",
        "\u{1b}[31m",
    ] {
        let error = bad.parse::<Schedule>().unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput, "{bad}");
        assert!(!error.report().contains('\u{1b}'));
    }
    for good in ["hourly", "daily 02:00", "weekly mon 23:59", "every 8784h"] {
        assert_eq!(good.parse::<Schedule>().unwrap().to_string(), good);
    }
}

#[test]
fn the_ends_of_the_calendar_are_no_panic() {
    let zone: Zone = "Europe/Berlin".parse().unwrap();
    for schedule in ["hourly", "daily 02:00", "weekly mon 02:00", "every 7h"] {
        let schedule: Schedule = schedule.parse().unwrap();
        for edge in [Timestamp::MIN, Timestamp::MAX] {
            let _ = schedule.next(edge, zone.time_zone());
            let _ = schedule.last(edge, zone.time_zone());
        }
    }
}
