//! The plan: the points of a VM, each with whether it stays, and why.

use std::collections::{BTreeMap, HashSet};

use jiff::{Timestamp, Zoned};
use serde::Serialize;

use super::period::Period;
use super::reason::Reason;
use super::rule::Rules;
use super::span::Span;
use crate::repo::sidecar::index::{CheckResult, PointEntry};
use crate::types::{PointName, RepositoryId};

/// What retention knows of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: PointName,
    /// Its position in the VM's order.
    pub seq: u64,
    /// When its capture began.
    pub captured_at: Timestamp,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether somebody keeps it by hand.
    pub kept: bool,
    /// Its lock.
    pub lock: Option<Lock>,
    /// Whether verification has found damage that is not repaired.
    pub is_damaged: bool,
    /// Repositories that have a copy of it.
    pub copies: Vec<RepositoryId>,
    /// Who uses it, in words.
    pub used_by: Option<String>,
}

/// A lock on a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// When it ends.
    pub until: Timestamp,
    /// Whether a policy has set it. A point that is locked by hand fills no period.
    pub by_policy: bool,
}

/// Whether a point stays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The point.
    pub point: PointName,
    /// Whether it stays.
    pub keep: bool,
    /// Every reason.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// A point that a request names.
    #[must_use]
    pub fn named(point: PointName) -> Self {
        Self {
            point,
            keep: false,
            reasons: vec![Reason::Named],
        }
    }
}

impl From<&PointEntry> for Candidate {
    /// What the index knows: it does not say yet what is locked.
    fn from(entry: &PointEntry) -> Self {
        Self {
            name: entry.name.clone(),
            seq: entry.seq,
            captured_at: entry.captured_at,
            tags: entry.tags.clone(),
            kept: entry.kept,
            lock: None,
            is_damaged: entry.check == Some(CheckResult::Damaged),
            copies: entry.copies.iter().map(|copy| copy.repository_id).collect(),
            used_by: None,
        }
    }
}

impl Candidate {
    /// The reasons why no rule is asked about the point: it stays, and fills no period.
    fn exempt(&self, rules: &Rules, now: Timestamp) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.captured_at > now {
            reasons.push(Reason::Future);
        }
        if self.is_damaged {
            reasons.push(Reason::Damaged);
        }
        if self.kept {
            reasons.push(Reason::Kept);
        }
        let lacking = rules
            .owed
            .iter()
            .filter(|owed| !rules.is_owed_lifted && !self.copies.contains(&owed.id));
        let lacking: Vec<_> = lacking.map(|owed| owed.name.clone()).collect();
        if !lacking.is_empty() {
            reasons.push(Reason::Uncopied(lacking));
        }
        let tags = rules.tags.iter().filter_map(|rule| rule.find(&self.tags));
        for reason in tags.map(Reason::Tag) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if let Some(lock) = self.lock_at(now).filter(|lock| !lock.by_policy) {
            reasons.push(Reason::Locked(lock.until));
        }
        reasons
    }

    fn lock_at(&self, now: Timestamp) -> Option<Lock> {
        self.lock.filter(|lock| lock.until > now)
    }
}

/// Periods of which the newest point stays.
struct Counter {
    period: Period,
    /// How many more periods are kept.
    left: u32,
    seen: HashSet<[i32; 4]>,
}

impl Counter {
    fn new(period: Period, left: u32) -> Self {
        Self {
            period,
            left,
            seen: HashSet::new(),
        }
    }

    /// Whether the point is the newest of a period that still counts.
    fn takes(&mut self, at: &Zoned) -> bool {
        // A period that comes again behind another one was counted once.
        if self.left == 0 || !self.seen.insert(self.period.of(at)) {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// The plan for the points of one VM, by ascending `seq`.
#[must_use]
pub fn plan(points: &[Candidate], rules: &Rules, now: Timestamp) -> Vec<Verdict> {
    let mut newest_first: Vec<&Candidate> = points.iter().collect();
    newest_first.sort_by(|a, b| (b.seq, &b.name).cmp(&(a.seq, &a.name)));
    let zone = &rules.zone.0;
    let anchor = newest_first.iter().find(|point| point.captured_at <= now);
    let anchor = anchor.map_or(now, |point| point.captured_at);
    // A span without length keeps nothing: no point is younger than the latest instant.
    let begin = |span: Span| match span.is_zero() {
        true => Timestamp::MAX,
        false => span.before(anchor, zone),
    };
    let within_begin = begin(rules.within);
    let mut last_left = rules.last;
    let periods = rules.periods.iter().filter(|(_, count)| **count > 0);
    let mut counters: Vec<Counter> = periods.map(|(p, count)| Counter::new(*p, *count)).collect();
    let within = rules.within_periods.iter();
    let mut within: Vec<(Counter, Span, Timestamp)> = within
        .map(|(period, span)| (Counter::new(*period, u32::MAX), *span, begin(*span)))
        .collect();

    let mut verdicts = Vec::with_capacity(points.len());
    let mut oldest = None;
    for point in newest_first {
        let mut reasons = point.exempt(rules, now);
        if reasons.is_empty() {
            oldest = Some(verdicts.len());
            let at = point.captured_at.to_zoned(zone.clone());
            if last_left > 0 {
                last_left -= 1;
                reasons.push(Reason::Last);
            }
            for counter in &mut counters {
                if counter.takes(&at) {
                    reasons.push(Reason::Newest(counter.period));
                }
            }
            if point.captured_at > within_begin {
                reasons.push(Reason::Within(rules.within));
            }
            for (counter, span, begin) in &mut within {
                if point.captured_at > *begin && counter.takes(&at) {
                    reasons.push(Reason::NewestWithin(counter.period, *span));
                }
            }
            if let Some(lock) = point.lock_at(now) {
                reasons.push(Reason::Locked(lock.until));
            }
        }
        reasons.extend(point.used_by.clone().map(Reason::Used));
        verdicts.push(Verdict {
            point: point.name.clone(),
            keep: !reasons.is_empty(),
            reasons,
        });
    }
    let is_unfilled = |counter: &Counter| counter.left > 0 && counter.period.keeps_oldest();
    if counters.iter().any(is_unfilled)
        && let Some(oldest) = oldest.and_then(|at| verdicts.get_mut(at))
    {
        oldest.keep = true;
        oldest.reasons.push(Reason::Oldest);
    }
    for verdict in verdicts.iter_mut().filter(|verdict| !verdict.keep) {
        verdict.reasons.push(Reason::Unkept);
    }
    verdicts.reverse();
    verdicts
}
