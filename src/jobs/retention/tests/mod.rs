//! Each rule of retention, with the cases that users of other programs have met.

mod calendar;
mod property;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::jobs::retention::{
    Candidate, Lock, Period, Reason, Rules, Span, TagRule, Verdict, plan,
};
use crate::types::PointName;

fn at(text: &str) -> Timestamp {
    let whole = match text.len() {
        10 => format!("{text}T02:00:00Z"),
        _ => text.to_owned(),
    };
    whole.parse().unwrap()
}

/// The point of this `seq`, captured then; `2026-11-20` is at two o'clock (UTC).
fn point(seq: u64, captured_at: &str) -> Candidate {
    Candidate {
        name: PointName::new(format!("p{seq}")).unwrap(),
        seq,
        captured_at: at(captured_at),
        tags: BTreeMap::new(),
        kept: false,
        lock: None,
        is_damaged: false,
        copies: Vec::new(),
        used_by: None,
    }
}

/// Points in this order.
fn points(captured: &[&str]) -> Vec<Candidate> {
    let numbered = (1..).zip(captured);
    numbered.map(|(seq, at)| point(seq, at)).collect()
}

/// A point a day, up to the 30th of November 2026.
fn days(count: i64) -> Vec<Candidate> {
    let last = at("2026-11-30");
    let days = (0..count).rev().map(|back| {
        let day = jiff::SignedDuration::from_hours(24 * back);
        last.checked_sub(day).unwrap().to_string()
    });
    let days: Vec<String> = days.collect();
    points(&days.iter().map(String::as_str).collect::<Vec<_>>())
}

fn counts(rules: &[(Period, u32)]) -> Rules {
    Rules {
        periods: rules.iter().copied().collect(),
        ..Rules::default()
    }
}

fn last(count: u32) -> Rules {
    Rules {
        last: count,
        ..Rules::default()
    }
}

fn within(span: &str) -> Rules {
    Rules {
        within: span.parse().unwrap(),
        ..Rules::default()
    }
}

const NOW: &str = "2026-12-01T12:00:00Z";

fn planned(points: &[Candidate], rules: &Rules) -> Vec<Verdict> {
    plan(points, rules, at(NOW))
}

/// What is kept: each point with its reasons.
fn kept(points: &[Candidate], rules: &Rules) -> Vec<String> {
    let verdicts = planned(points, rules);
    let kept = verdicts.iter().filter(|verdict| verdict.keep);
    kept.map(|verdict| {
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        format!("{}: {}", verdict.point, reasons.join(", "))
    })
    .collect()
}

#[test]
fn last_keeps_the_points_with_the_highest_seq() {
    let all = days(5);
    assert_eq!(kept(&all, &last(2)), ["p4: last", "p5: last"]);
    assert_eq!(kept(&all, &last(9)).len(), 5);
    // A clock was set back: the newest point is the one that was committed last.
    let back = points(&["2026-11-20", "2026-11-19", "2026-11-18"]);
    assert_eq!(kept(&back, &last(1)), ["p3: last"]);
    let gone: Vec<Verdict> = planned(&back, &last(1));
    assert_eq!(gone[0].reasons, [Reason::Unkept]);
}

#[test]
fn each_period_keeps_its_newest_point() {
    let all = points(&[
        "2026-11-20T01:00:00Z",
        "2026-11-20T02:10:00Z",
        "2026-11-20T02:50:00Z",
        "2026-11-21T02:00:00Z",
        "2026-11-22T23:59:59Z",
        "2026-11-23T00:00:00Z",
    ]);
    let hourly = counts(&[(Period::Hour, 4)]);
    assert_eq!(
        kept(&all, &hourly),
        ["p3: hourly", "p4: hourly", "p5: hourly", "p6: hourly"]
    );
    let daily = counts(&[(Period::Day, 3)]);
    assert_eq!(kept(&all, &daily), ["p4: daily", "p5: daily", "p6: daily"]);
    // The 22nd was a Sunday, the 23rd a Monday.
    let weekly = counts(&[(Period::Week, 2)]);
    assert_eq!(kept(&all, &weekly), ["p5: weekly", "p6: weekly"]);
}

#[test]
fn rules_are_orred_and_every_reason_is_named() {
    let rules = Rules {
        last: 1,
        ..counts(&[(Period::Day, 2), (Period::Month, 1), (Period::Year, 1)])
    };
    assert_eq!(
        kept(&days(40), &rules),
        ["p39: daily", "p40: last, daily, monthly, yearly"]
    );
}

/// After a holiday of three weeks the last seven days with backups stay, not those of the last week.
#[test]
fn periods_without_points_do_not_count() {
    let mut captured: Vec<String> = (1..=9).map(|day| format!("2026-10-0{day}")).collect();
    captured.push("2026-11-30".to_owned());
    let all = points(&captured.iter().map(String::as_str).collect::<Vec<_>>());
    let seven = kept(&all, &counts(&[(Period::Day, 7)]));
    assert_eq!(seven.len(), 7);
    assert_eq!(
        (seven[0].as_str(), seven[6].as_str()),
        ("p4: daily", "p10: daily")
    );
}

/// `seq` goes up while the clock goes from day A to B and back to A: A has one point, the newest.
#[test]
fn a_period_that_recurs_counts_once() {
    let all = points(&[
        "2026-11-18",
        "2026-11-20T01:00:00Z",
        "2026-11-19T01:00:00Z",
        "2026-11-20T02:00:00Z",
    ]);
    let daily = counts(&[(Period::Day, 3)]);
    assert_eq!(kept(&all, &daily), ["p1: daily", "p3: daily", "p4: daily"]);
}

#[test]
fn the_oldest_point_stays_until_weeks_months_or_years_are_filled() {
    let all = days(20);
    for (period, count) in [(Period::Week, 9), (Period::Month, 3), (Period::Year, 2)] {
        let seen = kept(&all, &counts(&[(period, count)]));
        assert!(
            seen[0].starts_with("p1: ") && seen[0].ends_with("oldest"),
            "{seen:?}"
        );
    }
    // It may be the newest of its own period, too.
    assert_eq!(
        kept(&all[..1], &counts(&[(Period::Month, 2)])),
        ["p1: monthly, oldest"]
    );
    // Filled: the 11th to the 30th lie in four ISO weeks.
    assert!(
        kept(&all, &counts(&[(Period::Week, 4)]))
            .iter()
            .all(|line| !line.contains("oldest"))
    );
    // Days and hours do not keep it, as they do in restic: it would stay for ever beside another rule.
    for period in [Period::Hour, Period::Day] {
        let seen = kept(&all[..5], &counts(&[(period, 4)]));
        assert_eq!(seen.len(), 4, "{seen:?}");
        let seen = kept(&all[..2], &counts(&[(period, 9)]));
        assert!(seen.iter().all(|line| !line.contains("oldest")), "{seen:?}");
    }
    // A year of months, begun in the middle of one.
    let captured: Vec<String> = (10..=30).map(|day| format!("2026-03-{day}")).collect();
    let all = points(&captured.iter().map(String::as_str).collect::<Vec<_>>());
    let seen = kept(&all, &counts(&[(Period::Month, 12)]));
    assert_eq!(seen, ["p1: oldest", "p21: monthly"]);
}

#[test]
fn the_oldest_is_the_oldest_that_fills_periods() {
    let mut all = days(9);
    all[0].kept = true;
    let seen = kept(&all, &counts(&[(Period::Month, 2)]));
    assert_eq!(seen, ["p1: kept by hand", "p2: oldest", "p9: monthly"]);
}

/// A machine that was switched off for a year keeps what was young then.
#[test]
fn within_counts_back_from_the_newest_point() {
    let all = points(&[
        "2025-01-01",
        "2025-01-08",
        "2025-01-14T02:00:01Z",
        "2025-01-15",
    ]);
    assert_eq!(
        kept(&all, &within("7d")),
        ["p3: within 7d", "p4: within 7d"]
    );
    // As in restic, exactly seven days are not within seven days.
    assert_eq!(kept(&all[..2], &within("7d")), ["p2: within 7d"]);
    assert_eq!(kept(&all[..2], &within("7d1h")).len(), 2);
    let by_day = |span: &str| Rules {
        within_periods: [(Period::Week, span.parse().unwrap())].into(),
        ..Rules::default()
    };
    assert_eq!(
        kept(&all, &by_day("8d")),
        ["p2: weekly within 8d", "p4: weekly within 8d"],
        "the 14th and 15th lie in one week"
    );
    assert_eq!(
        kept(&all, &by_day("1m")),
        [
            "p1: weekly within 1m",
            "p2: weekly within 1m",
            "p4: weekly within 1m"
        ]
    );
}

#[test]
fn within_has_a_sister_for_each_period() {
    let all = points(&[
        "2026-10-31T10:00:00Z",
        "2026-11-29T10:00:00Z",
        "2026-11-29T10:30:00Z",
        "2026-11-30T09:00:00Z",
        "2026-11-30T09:30:00Z",
    ]);
    for (period, expected) in [
        (Period::Hour, &["p1", "p3", "p5"][..]),
        (Period::Day, &["p1", "p3", "p5"]),
        (Period::Week, &["p1", "p3", "p5"]),
        (Period::Month, &["p1", "p5"]),
        (Period::Year, &["p5"]),
    ] {
        let rules = Rules {
            within_periods: [(period, "1y".parse().unwrap())].into(),
            ..Rules::default()
        };
        let expected: Vec<String> = expected
            .iter()
            .map(|point| format!("{point}: {} within 1y", period.adverb()))
            .collect();
        assert_eq!(kept(&all, &rules), expected, "{period}");
    }
}

/// A clock that was wrong for a night: the point of the year 2030 neither takes a day's place nor moves the begin of `within`.
#[test]
fn points_of_the_future_stay_and_fill_nothing() {
    let all = points(&["2026-11-28", "2030-01-01", "2026-11-29"]);
    let rules = Rules {
        last: 1,
        ..counts(&[(Period::Day, 1)])
    };
    assert_eq!(
        kept(&all, &rules),
        ["p2: captured in the future", "p3: last, daily"]
    );
    assert_eq!(
        kept(&all, &within("2d")),
        [
            "p1: within 2d",
            "p2: captured in the future",
            "p3: within 2d"
        ]
    );
    // All of them: nothing is forgotten.
    let all = points(&["2030-01-01", "2030-01-02"]);
    assert_eq!(kept(&all, &last(1)).len(), 2);
}

#[test]
fn damaged_kept_tagged_and_locked_points_stay_and_fill_nothing() {
    let rules = || Rules {
        tags: vec!["release".parse().unwrap()],
        ..counts(&[(Period::Day, 1)])
    };
    let until = at("2027-01-01");
    type Change = fn(&mut Candidate, Timestamp);
    let change: [(&str, Change); 4] = [
        ("damaged", |point, _| point.is_damaged = true),
        ("kept by hand", |point, _| point.kept = true),
        ("tag release=1.2", |point, _| {
            point.tags.insert("release".to_owned(), "1.2".to_owned());
        }),
        ("locked until 2027-01-01T02:00:00Z", |point, until| {
            point.lock = Some(Lock {
                until,
                by_policy: false,
            });
        }),
    ];
    for (reason, change) in change {
        let mut all = days(3);
        change(&mut all[2], until);
        assert_eq!(
            kept(&all, &rules()),
            ["p2: daily".to_owned(), format!("p3: {reason}")]
        );
    }
    // All of them at once: every reason.
    let mut all = days(1);
    change
        .iter()
        .for_each(|(_, change)| change(&mut all[0], until));
    let seen = kept(&all, &rules());
    assert!(
        change.iter().all(|(reason, _)| seen[0].contains(reason)),
        "{seen:?}"
    );
}

#[test]
fn a_lock_by_policy_fills_periods_and_one_that_has_ended_is_none() {
    let lock = |until: &str, by_policy| {
        Some(Lock {
            until: at(until),
            by_policy,
        })
    };
    let daily = counts(&[(Period::Day, 1)]);
    let mut all = days(3);
    all[2].lock = lock("2027-01-01", true);
    all[0].lock = lock("2027-01-01", true);
    let locked = "locked until 2027-01-01T02:00:00Z";
    assert_eq!(
        kept(&all, &daily),
        [format!("p1: {locked}"), format!("p3: daily, {locked}")]
    );
    all[0].lock = lock("2026-12-01", false);
    all[2].lock = lock("2026-12-01", true);
    assert_eq!(kept(&all, &daily), ["p3: daily"]);
}

#[test]
fn tags_are_named_by_key_or_by_key_and_value() {
    let mut all = days(4);
    for (point, tag) in all
        .iter_mut()
        .zip([("a", "1"), ("a", "2"), ("b", "1"), ("A", "1")])
    {
        point.tags.insert(tag.0.to_owned(), tag.1.to_owned());
    }
    let tags = |rules: &[&str]| Rules {
        tags: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..Rules::default()
    };
    assert_eq!(kept(&all, &tags(&["a"])), ["p1: tag a=1", "p2: tag a=2"]);
    assert_eq!(kept(&all, &tags(&["a=2"])), ["p2: tag a=2"]);
    assert_eq!(
        kept(&all, &tags(&["a=2", "b"])),
        ["p2: tag a=2", "p3: tag b=1"]
    );
    assert_eq!(kept(&all, &tags(&["a", "a=1"]))[0], "p1: tag a=1");
    assert!(kept(&all, &tags(&["a="])).is_empty());
    assert!("=x".parse::<TagRule>().is_err());
}

#[test]
fn a_point_in_use_stays_with_that_reason_and_fills_its_period() {
    let mut all = days(3);
    all[0].used_by = Some("a copy".to_owned());
    all[2].used_by = Some("a session".to_owned());
    assert_eq!(
        kept(&all, &counts(&[(Period::Day, 1)])),
        ["p1: in use: a copy", "p3: daily, in use: a session"]
    );
}

#[test]
fn rules_that_can_keep_nothing_are_none() {
    assert!(Rules::default().is_empty());
    assert!(last(0).is_empty() && within("0d").is_empty());
    assert!(counts(&[(Period::Day, 0)]).is_empty());
    let zero = Rules {
        within_periods: [(Period::Day, Span::default())].into(),
        ..Rules::default()
    };
    assert!(zero.is_empty());
    for rules in [last(1), within("1h"), counts(&[(Period::Year, 1)])] {
        assert!(!rules.is_empty());
    }
    // A rule with a zero keeps nothing beside another one.
    let rules = Rules {
        within: Span::default(),
        within_periods: [(Period::Day, Span::default())].into(),
        ..counts(&[(Period::Day, 1), (Period::Month, 0)])
    };
    assert_eq!(kept(&days(9), &rules), ["p9: daily"]);
    assert!(planned(&[], &rules).is_empty());
}

#[test]
fn spans_are_written_as_restic_writes_them() {
    for (text, shown) in [
        ("2y5m7d3h", "2y5m7d3h"),
        ("14d", "14d"),
        ("0h", "0h"),
        ("3h2d", "2d3h"),
        ("0y1d", "1d"),
    ] {
        assert_eq!(text.parse::<Span>().unwrap().to_string(), shown);
    }
    for bad in [
        "",
        "7",
        "d",
        "-1d",
        "1w",
        "1d1d",
        "1 d",
        "1.5d",
        "99999999999d",
        "90000000d",
        "1D",
        "7dd",
        "٣d",
    ] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
    }
}

#[test]
fn a_span_that_is_longer_than_the_calendar_keeps_everything() {
    assert_eq!(kept(&days(3), &within("20000y")).len(), 3);
}

/// A point of which a copy is owed stays beside those that the rules keep, and takes nobody's place.
#[test]
fn a_point_that_lacks_a_copy_stays_and_fills_nothing() {
    use crate::jobs::retention::Owed;
    use crate::types::RepositoryId;
    let (near, far) = (RepositoryId::random(), RepositoryId::random());
    let owed = |id: RepositoryId, name: &str| Owed {
        id,
        name: name.parse().unwrap(),
    };
    let mut all = days(4);
    all[0].copies = vec![near, far];
    all[1].copies = vec![far];
    all[2].copies = vec![near, far];
    let mut rules = last(1);
    assert_eq!(kept(&all, &rules), ["p4: last"]);
    rules.owed = vec![owed(far, "far")];
    assert_eq!(kept(&all, &rules), ["p3: last", "p4: uncopied (far)"]);
    rules.owed.insert(0, owed(near, "near"));
    assert_eq!(
        kept(&all, &rules),
        [
            "p2: uncopied (near)",
            "p3: last",
            "p4: uncopied (near, far)"
        ]
    );
    // The filesystem is nearly full.
    rules.is_owed_lifted = true;
    assert_eq!(kept(&all, &rules), ["p4: last"]);
    // A copy that is owed is no rule: rules that keep nothing stay an error.
    rules.last = 0;
    assert!(rules.is_empty());
}
