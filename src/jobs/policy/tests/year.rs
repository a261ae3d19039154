//! A year of policies over 20 VMs and two repositories, with outages. What is reported of each VM is compared with an oracle that
//! knows the calendar, the outages and nothing of the plan; and what is forgotten has a copy.
//!
//! # Why
//! The oracle counts in hours since the beginning, and has the two changes of the clock in Berlin as numbers: no code of the plan's
//! is in it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    ActionKind, Scene, Timestamp, VmFacts, at, hours, nightly, offsite, point, policy, scene, vm,
};
use crate::jobs::policy::{Action, Standing};
use crate::jobs::retention::{self, Candidate};
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::policy::{Keeping, Policy};
use crate::repo::sidecar::policy_run::PolicyRun;
use crate::types::{RepositoryId, VmName};

/// Hours of the year.
const YEAR: i64 = 365 * 24;
/// The 1st of January 2026, a Thursday.
const BEGIN: &str = "2026-01-01T00:00:00Z";
/// A run begins at this minute of each hour, and each of its five steps takes two minutes.
const RUN: i64 = 15;
const STEP: i64 = 2;

/// Hours of the year in which a thing does not work: from, and up to.
type Outage = (i64, i64);

/// The second repository is away: for hours over a night, for 30 hours, and for three weeks.
const AWAY: [Outage; 3] = [
    (40 * 24 + 1, 40 * 24 + 8),
    (200 * 24, 200 * 24 + 30),
    (100 * 24 + 5, 121 * 24 + 5),
];
/// The backup of one VM fails for three days.
const FAILING: (&str, Outage) = ("web03", (150 * 24, 153 * 24));
/// The machine that runs the policies is off.
const OFF: Outage = (250 * 24, 250 * 24 + 26);

fn is_in(outage: Outage, hour: i64) -> bool {
    (outage.0..outage.1).contains(&hour)
}

fn is_away(hour: i64) -> bool {
    AWAY.iter().any(|outage| is_in(*outage, hour))
}

fn is_failing(vm: &str, hour: i64) -> bool {
    vm == FAILING.0 && is_in(FAILING.1, hour)
}

fn minute(of_year: i64) -> Timestamp {
    let passed = super::SignedDuration::from_mins(of_year);
    at(BEGIN).checked_add(passed).unwrap()
}

/// The world: what the repositories have, which actions change.
struct World {
    scene: Scene,
    offsite: RepositoryId,
    /// What the second repository has.
    copied: HashSet<(VmName, Timestamp)>,
    backups: HashMap<VmName, usize>,
    forgotten: usize,
}

impl World {
    fn new() -> Self {
        let id = RepositoryId::random();
        let nightly = Policy {
            zone: Some("Europe/Berlin".to_owned()),
            created_at: at(BEGIN),
            ..nightly(id)
        };
        let of = |name: &str, pattern: &str, schedule: &str, rpo: u64, keep: Keeping| Policy {
            schedule: Some(schedule.to_owned()),
            command: vec!["backup-vm".to_owned()],
            keep: Some(keep),
            rpo_seconds: Some(rpo * 3_600),
            copies: nightly.copies.clone(),
            created_at: at(BEGIN),
            ..policy(name, &[pattern])
        };
        let last = |last, daily| Keeping {
            last,
            daily,
            ..Keeping::default()
        };
        let often = of("often", "db*", "every 6h", 8, last(8, 7));
        let weekly = of("weekly", "archive*", "weekly sun 04:00", 8 * 24, last(3, 0));
        let named = |prefix: &'static str, count: usize| {
            (1..=count).map(move |n| vm(&format!("{prefix}{n:02}")))
        };
        let vms = named("web", 12)
            .chain(named("db", 6))
            .chain(named("archive", 2));
        let mut scene = scene(&[nightly, often, weekly], vms.collect());
        scene.targets.push(offsite(id));
        Self {
            scene,
            offsite: id,
            copied: HashSet::new(),
            backups: HashMap::new(),
            forgotten: 0,
        }
    }

    /// A run that begins in this hour.
    fn run(&mut self, hour: i64) {
        for (n, kind) in (0..).zip(ActionKind::ALL) {
            let now = minute(hour * 60 + RUN + n * STEP);
            let plan = self.scene.plan(now).into_iter();
            for action in plan.filter(|action| action.action == kind) {
                let failure = self.act(&action, hour, now);
                self.scene.runs.note(PolicyRun {
                    policy: action.policy.clone(),
                    vm: action.vm.clone(),
                    action: kind,
                    to: action.to.clone(),
                    attempted_at: now,
                    succeeded_at: failure.is_none().then_some(now),
                    failure: failure.map(str::to_owned),
                    unknown: Unknown::new(),
                });
            }
        }
    }

    fn act(&mut self, action: &Action, hour: i64, now: Timestamp) -> Option<&'static str> {
        let name = action.vm.clone();
        let mut terms = self.scene.terms.iter();
        let terms = terms
            .find(|terms| terms.name == action.policy)
            .unwrap()
            .clone();
        let mut vms = self.scene.vms.iter_mut();
        let vm: &mut VmFacts = vms.find(|vm| vm.vm == name).unwrap();
        match action.action {
            ActionKind::Backup if is_failing(name.as_str(), hour) => {
                return Some("the VM is locked");
            }
            ActionKind::Backup => {
                let mut made = point(now);
                made.committed_at = now
                    .checked_add(super::SignedDuration::from_mins(1))
                    .unwrap();
                vm.points.push(made);
                *self.backups.entry(name).or_default() += 1;
            }
            ActionKind::Forget => {
                let rules = terms.keep.unwrap();
                let candidates = (0..).zip(&vm.points).map(|(seq, point)| Candidate {
                    name: format!("p{seq}").parse().unwrap(),
                    seq,
                    captured_at: point.captured_at,
                    tags: BTreeMap::new(),
                    kept: false,
                    lock: None,
                    is_damaged: false,
                    copies: point.copies.iter().map(|(id, _)| *id).collect(),
                    used_by: None,
                });
                let candidates: Vec<Candidate> = candidates.collect();
                let verdicts = retention::plan(&candidates, &rules, now);
                let mut verdicts = verdicts.iter();
                vm.points.retain(|point| {
                    let stays = verdicts.next().unwrap().keep;
                    let has_copy = self.copied.contains(&(name.clone(), point.captured_at));
                    assert!(
                        stays || has_copy,
                        "{name} {} was never copied",
                        point.captured_at
                    );
                    self.forgotten += usize::from(!stays);
                    stays
                });
            }
            ActionKind::Copy if is_away(hour) => return Some("offsite is not mounted"),
            ActionKind::Copy => {
                for point in vm.points.iter_mut().filter(|point| point.copies.is_empty()) {
                    point.copies.push((self.offsite, now));
                    self.copied.insert((name.clone(), point.captured_at));
                }
            }
            ActionKind::Verify => {
                let every = terms.verify_every.unwrap();
                for point in &mut vm.points {
                    let from = point.checked_at.unwrap_or(point.committed_at);
                    if now.duration_since(from) >= every {
                        point.checked_at = Some(now);
                    }
                }
            }
            ActionKind::Merge => unreachable!("nothing is hidden here"),
        }
        None
    }
}

/// What must be reported of a VM, in minutes of the year.
#[derive(Default)]
struct Oracle {
    /// Whether a backup is to be made at the next run.
    is_pending: bool,
    /// When the last one was made.
    last: Option<i64>,
    made: usize,
    /// When copies are due that are not made.
    owed: Vec<i64>,
}

impl Oracle {
    /// Whether the policy of a VM makes a backup in this hour.
    fn is_scheduled(vm: &str, hour: i64) -> bool {
        // 2026-03-29T01:00Z and 2026-10-25T01:00Z, as hours of the year.
        let is_summer = (87 * 24 + 1..297 * 24 + 1).contains(&hour);
        let two_in_berlin = match hour {
            // 02:00 of that night is 03:00.
            h if h == 87 * 24 + 1 => true,
            h if h / 24 == 87 => false,
            // That night has it twice; the first one counts.
            h if h / 24 == 297 => h % 24 == 0,
            h => h % 24 == if is_summer { 0 } else { 1 },
        };
        match vm.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "web" => two_in_berlin,
            "db" => hour % 6 == 0,
            // The first Sunday is the 4th of January.
            _ => (hour / 24) % 7 == 3 && hour % 24 == 4,
        }
    }

    fn hour(&mut self, vm: &str, hour: i64, is_first: bool) {
        self.is_pending |= Self::is_scheduled(vm, hour) || is_first;
        if is_in(OFF, hour) {
            return;
        }
        let now = hour * 60 + RUN;
        if self.is_pending && !is_failing(vm, hour) {
            self.is_pending = false;
            self.last = Some(now);
            self.made += 1;
            self.owed.push(now + 1 + 60);
        }
        // A copy takes all points, also those that need not be there yet.
        let copies_at = now + 3 * STEP;
        if !is_away(hour) && self.owed.iter().any(|due| *due <= copies_at) {
            self.owed.clear();
        }
    }

    /// Compares what is reported at a minute with what must be.
    fn compare(&self, vm: &str, reported: &Standing, now: i64, seen: &mut Seen) {
        let rpo = match vm.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "web" => 26 * 60,
            "db" => 8 * 60,
            _ => 8 * 24 * 60,
        };
        let is_late = self.last.is_none_or(|last| now - last > rpo);
        let due = self.owed.iter().filter(|due| **due <= now).count();
        let is_copy_late = self.owed.iter().any(|due| now - due > 24 * 60);
        let place = || format!("{vm} at {}: {reported:?}", minute(now));
        assert_eq!(reported.rpo_met, Some(!is_late), "{}", place());
        assert_eq!(reported.copies_due, due, "{}", place());
        let says = |part: &str| reported.problems.iter().any(|text| text.contains(part));
        assert_eq!(
            says("no point of the last"),
            is_late && self.last.is_some(),
            "{}",
            place()
        );
        assert_eq!(
            says("without a copy at offsite"),
            is_copy_late,
            "{}",
            place()
        );
        let expected = usize::from(is_late) + usize::from(is_copy_late);
        assert_eq!(reported.problems.len(), expected, "{}", place());
        assert_eq!(reported.is_met(), expected == 0);
        seen.late += usize::from(is_late);
        seen.copy_late += usize::from(is_copy_late);
        seen.met += usize::from(expected == 0);
    }
}

/// How often each answer was seen.
#[derive(Default)]
struct Seen {
    late: usize,
    copy_late: usize,
    met: usize,
}

#[test]
fn what_is_reported_is_what_an_oracle_says_and_nothing_uncopied_is_forgotten() {
    let mut world = World::new();
    let names: Vec<VmName> = world.scene.vms.iter().map(|vm| vm.vm.clone()).collect();
    let mut oracles: Vec<Oracle> = names.iter().map(|_| Oracle::default()).collect();
    let mut seen = Seen::default();
    let mut points_max = 0;
    for hour in 0..YEAR {
        if !is_in(OFF, hour) {
            world.run(hour);
        }
        for (vm, oracle) in names.iter().zip(&mut oracles) {
            // A VM without a point is backed up at once.
            oracle.hour(vm.as_str(), hour, hour == 0);
        }
        if ![2, 11, 23].contains(&(hour % 24)) {
            continue;
        }
        let now = hour * 60 + 40;
        let standings = world.scene.standings(minute(now));
        for ((vm, oracle), reported) in names.iter().zip(&oracles).zip(&standings) {
            assert_eq!(reported.vm, *vm);
            oracle.compare(vm.as_str(), reported, now, &mut seen);
        }
        let points = world.scene.vms.iter().map(|vm| vm.points.len());
        points_max = points_max.max(points.max().unwrap_or(0));
    }
    for (vm, oracle) in names.iter().zip(&oracles) {
        assert_eq!(world.backups[vm], oracle.made, "{vm}");
    }
    // The year had all of it: VMs that were late, copies that were, and points that waited for three weeks.
    assert!(seen.late > 20 && seen.copy_late > 1_000 && seen.met > 15_000);
    assert!(
        points_max > 4 * 21 && world.forgotten > 10_000,
        "{points_max} {}",
        world.forgotten
    );
    // In the end retention has what it asks for, and no more than what waits for its copy.
    let most = world
        .scene
        .vms
        .iter()
        .map(|vm| vm.points.len())
        .max()
        .unwrap_or(0);
    assert!(most <= 16, "{most} points");
    let year = at(BEGIN).checked_add(hours(YEAR)).unwrap();
    assert_eq!(year, at("2027-01-01T00:00:00Z"));
}
