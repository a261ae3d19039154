//! What holds of every plan.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Candidate, NOW, Rules, at, plan, point};
use crate::jobs::retention::{Lock, Period, Span};

/// Points of about a year, some of them later than [`NOW`], not always in the order of their `seq`.
fn history() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0..9_500_i64, 0..60_i64, 0..40_u8);
    vec(one, 0..60).prop_map(|all| {
        let begin = at("2025-11-20");
        let numbered = (1..).zip(all);
        let made = numbered.map(|(seq, (hour, minute, state))| {
            let after = jiff::SignedDuration::from_mins(hour * 60 + minute);
            let mut made = point(seq, &begin.checked_add(after).unwrap().to_string());
            match state {
                0 => made.kept = true,
                1 => made.is_damaged = true,
                2..=4 => drop(made.tags.insert("release".to_owned(), state.to_string())),
                5 | 6 => {
                    made.lock = Some(Lock {
                        until: at("2026-12-24"),
                        by_policy: state == 5,
                    });
                }
                7 => made.used_by = Some("somebody".to_owned()),
                _ => {}
            }
            made
        });
        made.collect()
    })
}

fn span() -> impl Strategy<Value = Span> {
    (0..2_u8, 0..4_u8, 0..20_u8, 0..30_u8)
        .prop_map(|(y, m, d, h)| format!("{y}y{m}m{d}d{h}h").parse().unwrap())
}

fn rules() -> impl Strategy<Value = Rules> {
    let zone = prop_oneof![
        Just("UTC"),
        Just("Europe/Berlin"),
        Just("Australia/Lord_Howe")
    ];
    let counts = vec(0..6_u32, 5);
    let spans = vec(span(), 5);
    (0..5_u32, counts, span(), spans, any::<bool>(), zone).prop_map(
        |(last, counts, within, spans, tag, zone)| Rules {
            last,
            periods: Period::ALL.into_iter().zip(counts).collect(),
            within,
            within_periods: Period::ALL.into_iter().zip(spans).collect(),
            tags: tag
                .then(|| "release".parse().unwrap())
                .into_iter()
                .collect(),
            zone: zone.parse().unwrap(),
            ..Rules::default()
        },
    )
}

fn kept(points: &[Candidate], rules: &Rules) -> BTreeSet<String> {
    let verdicts = plan(points, rules, at(NOW));
    let kept = verdicts.into_iter().filter(|verdict| verdict.keep);
    kept.map(|verdict| verdict.point.to_string()).collect()
}

/// Leaves out the rules whose bit is not set.
fn some(rules: &Rules, bits: u16) -> Rules {
    let has = |bit: usize| bits & (1 << bit) != 0;
    let mut fewer = rules.clone();
    let numbered = Period::ALL.into_iter().enumerate();
    for (n, period) in numbered {
        if !has(n) {
            fewer.periods.remove(&period);
        }
        if !has(n + 5) {
            fewer.within_periods.remove(&period);
        }
    }
    if !has(10) {
        fewer.last = 0;
    }
    if !has(11) {
        fewer.within = Span::default();
    }
    if !has(12) {
        fewer.tags.clear();
    }
    fewer
}

proptest! {
    #[test]
    fn more_rules_and_larger_numbers_never_keep_fewer(
        points in history(), rules in rules(), bits in any::<u16>(), more in 0..4_u32,
    ) {
        let fewer = kept(&points, &some(&rules, bits));
        prop_assert!(fewer.is_subset(&kept(&points, &rules)));
        let mut larger = rules.clone();
        larger.last += more;
        larger.periods.values_mut().for_each(|count| *count += more);
        prop_assert!(kept(&points, &rules).is_subset(&kept(&points, &larger)));
    }

    #[test]
    fn the_order_of_the_points_does_not_matter(
        points in history().prop_shuffle(), rules in rules(),
    ) {
        let verdicts = plan(&points, &rules, at(NOW));
        let mut sorted = points.clone();
        sorted.sort_by_key(|point| point.seq);
        prop_assert_eq!(&verdicts, &plan(&sorted, &rules, at(NOW)));
        let names: Vec<_> = sorted.into_iter().map(|point| point.name).collect();
        let planned: Vec<_> = verdicts.into_iter().map(|verdict| verdict.point).collect();
        prop_assert_eq!(names, planned);
    }

    #[test]
    fn what_is_kept_is_kept_again(points in history(), rules in rules()) {
        let first = kept(&points, &rules);
        let left: Vec<Candidate> = points
            .into_iter()
            .filter(|point| first.contains(point.name.as_str()))
            .collect();
        prop_assert_eq!(kept(&left, &rules), first);
    }

    #[test]
    fn every_point_has_a_reason(points in history(), rules in rules()) {
        for verdict in plan(&points, &rules, at(NOW)) {
            prop_assert!(!verdict.reasons.is_empty());
        }
    }
}
