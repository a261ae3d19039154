//! Periods in zones of the world, both nights of the clock change among them.

use super::{counts, kept, points};
use crate::jobs::retention::{Period, Rules, Zone};

fn berlin(period: Period, count: u32) -> Rules {
    Rules {
        zone: "Europe/Berlin".parse().unwrap(),
        ..counts(&[(period, count)])
    }
}

/// On 25 October 2026 Berlin has 02:00 to 03:00 twice: at +02:00 until 01:00 UTC, then at +01:00.
#[test]
fn the_repeated_hour_of_autumn_is_two_periods_and_its_day_is_one() {
    let night = points(&[
        "2026-10-24T23:30:00Z", // 01:30
        "2026-10-25T00:15:00Z", // 02:15, summer
        "2026-10-25T00:45:00Z", // 02:45, summer
        "2026-10-25T01:15:00Z", // 02:15, winter
        "2026-10-25T01:45:00Z", // 02:45, winter
        "2026-10-25T02:30:00Z", // 03:30
    ]);
    assert_eq!(
        kept(&night, &berlin(Period::Hour, 9)),
        ["p1: hourly", "p3: hourly", "p5: hourly", "p6: hourly"]
    );
    // 25 hours, from 22:00 to 23:00 UTC, are one day.
    let day = points(&[
        "2026-10-24T21:59:59Z",
        "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59Z",
        "2026-10-25T23:00:00Z",
    ]);
    assert_eq!(
        kept(&day, &berlin(Period::Day, 9)),
        ["p1: daily", "p3: daily", "p4: daily"]
    );
}

/// On 29 March 2026 Berlin goes from 02:00 to 03:00: the day has 23 hours, and none is lost.
#[test]
fn the_hour_that_spring_leaves_out_is_no_period() {
    let night = points(&[
        "2026-03-29T00:30:00Z", // 01:30
        "2026-03-29T00:59:59Z", // 01:59
        "2026-03-29T01:00:00Z", // 03:00
        "2026-03-29T01:30:00Z", // 03:30
    ]);
    assert_eq!(
        kept(&night, &berlin(Period::Hour, 9)),
        ["p2: hourly", "p4: hourly"]
    );
    let day = points(&[
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ]);
    assert_eq!(
        kept(&day, &berlin(Period::Day, 9)),
        ["p1: daily", "p3: daily", "p4: daily"]
    );
}

/// A backup each night at 00:30 in Berlin: in UTC the nights of summer lie in the day before, and two of them in one month.
#[test]
fn the_zone_says_what_a_day_is() {
    let nights = points(&["2026-07-30T22:30:00Z", "2026-07-31T22:30:00Z"]);
    assert_eq!(
        kept(&nights, &berlin(Period::Month, 2)),
        ["p1: monthly", "p2: monthly"]
    );
    let utc = kept(&nights, &counts(&[(Period::Month, 1)]));
    assert_eq!(utc, ["p2: monthly"]);
}

/// `--keep-within 1d` over the change of clocks is the same time of the day before, as a calendar has it.
#[test]
fn within_counts_days_of_the_calendar() {
    let all = points(&[
        "2026-10-24T10:30:00Z", // 12:30, summer: 24 h 30 min before
        "2026-10-25T11:00:00Z", // 12:00, winter
    ]);
    let rules = |zone: &str| Rules {
        zone: zone.parse().unwrap(),
        ..super::within("1d")
    };
    assert_eq!(kept(&all, &rules("Europe/Berlin")).len(), 2);
    assert_eq!(kept(&all, &rules("UTC")).len(), 1);
}

/// 2027-01-01 was a Friday: ISO counts it to week 53 of 2026, so that no week is cut in two.
#[test]
fn weeks_are_those_of_iso_8601() {
    let all = points(&["2026-12-28", "2027-01-01", "2027-01-03", "2027-01-04"]);
    let weekly = counts(&[(Period::Week, 9)]);
    let now = super::at("2027-06-01");
    let verdicts = super::plan(&all, &weekly, now);
    let kept: Vec<bool> = verdicts.iter().map(|verdict| verdict.keep).collect();
    // The first is the oldest, and nine weeks are not filled.
    assert_eq!(kept, [true, false, true, true]);
    assert_eq!(verdicts[0].reasons, [super::Reason::Oldest]);
}

#[test]
fn zones_are_those_of_the_iana_database() {
    for name in ["Europe/Berlin", "America/New_York", "europe/berlin"] {
        assert!(name.parse::<Zone>().is_ok(), "{name}");
    }
    assert_eq!("utc".parse::<Zone>().unwrap().to_string(), "UTC");
    for bad in [
        "",
        "Berlin/Europe",
        "../etc/passwd",
        "CET-1CEST",
        "Europe",
        "UTC+1",
        "/etc/passwd",
    ] {
        let error = bad.parse::<Zone>().unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput, "{bad}");
        assert!(
            error.report().contains("is not a time zone"),
            "{}",
            error.report()
        );
    }
}
