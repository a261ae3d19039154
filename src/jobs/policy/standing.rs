//! Whether what the policies promise of a VM is kept.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::action::Action;
use super::coverage::Coverage;
use super::facts::{PointFacts, Scene, VmFacts};
use super::terms::Terms;
use crate::repo::sidecar::policy::Requirement;
use crate::repo::sidecar::policy_run::ActionKind;
use crate::types::duration::Age;
use crate::types::size::Count;
use crate::types::{PolicyName, RepositoryId, VmName};

/// The time for which an action may be due before the policy is not met.
pub const GRACE: SignedDuration = SignedDuration::from_hours(24);

/// How a VM stands with its policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The VM.
    pub vm: VmName,
    /// The policies that apply to it.
    pub policies: Vec<PolicyName>,
    /// The age in seconds that its last point may have, by the strictest of them.
    pub rpo_seconds: Option<u64>,
    /// Whether its last point is younger; `None` where no policy asks for it.
    pub rpo_met: Option<bool>,
    /// The copies of its last point, that point included; `None` without a point.
    pub copies: Option<Amount>,
    /// Whether the copies amount to what is required; `None` where no policy asks for it.
    pub copies_met: Option<bool>,
    /// Copies of points that are due and missing, over all repositories.
    pub copies_due: usize,
    /// Points that were not verified in time.
    pub verify_due: usize,
    /// Why a policy is not met; empty where all are.
    pub problems: Vec<String>,
    /// Actions whose last attempt failed, with the reason.
    pub failures: Vec<String>,
}

/// Copies of a point, the point itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Copies.
    pub copies: usize,
    /// Kinds of media that are known.
    pub media: usize,
    /// Copies that lie elsewhere.
    pub offsite: usize,
}

impl Amount {
    fn meets(self, required: Requirement) -> bool {
        let is_enough = |has: usize, wanted: u32| usize::try_from(wanted).is_ok_and(|n| has >= n);
        is_enough(self.copies, required.copies)
            && is_enough(self.media, required.media)
            && is_enough(self.offsite, required.offsite)
    }
}

fn age(length: SignedDuration) -> Age {
    Age(u64::try_from(length.as_secs()).unwrap_or_default())
}

impl Standing {
    /// Whether all policies of the VM are met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Scene {
    /// How each VM stands to which a policy applies, or should.
    #[must_use]
    pub fn standings(&self, now: Timestamp) -> Vec<Standing> {
        let actions = self.plan(now);
        let mut all = Vec::new();
        for vm in &self.vms {
            let coverage = Coverage::of(self, vm);
            if !coverage.terms.is_empty() || coverage.problem.is_some() {
                let of_vm = actions.iter().filter(|action| action.vm == vm.vm);
                all.push(self.standing(vm, &coverage, &of_vm.collect::<Vec<_>>(), now));
            }
        }
        all
    }

    fn standing(
        &self,
        vm: &VmFacts,
        coverage: &Coverage<'_>,
        actions: &[&Action],
        now: Timestamp,
    ) -> Standing {
        let mut problems: Vec<String> = coverage.problem.iter().cloned().collect();
        let rpo = coverage.terms.iter().filter_map(|terms| terms.rpo).min();
        let last = vm.points.last();
        // A point of the future is new.
        let is_late = |rpo| last.is_none_or(|last| now.duration_since(last.captured_at) > rpo);
        let rpo_met = rpo
            .filter(|_| vm.unreadable.is_none())
            .map(|rpo| !is_late(rpo));
        if let (Some(false), Some(rpo)) = (rpo_met, rpo) {
            problems.push(match last {
                Some(_) => format!("no point of the last {}", age(rpo)),
                None => "no point".to_owned(),
            });
        }
        for action in actions {
            let waits = now.duration_since(action.due_since);
            if let Some(problem) = late(action, waits, rpo.is_some()) {
                problems.push(problem);
            }
        }
        let required = coverage.terms.iter();
        let required = required.filter_map(|terms| Some((*terms, terms.require?)));
        let mut copies_met = None;
        for (terms, require) in required {
            let is_met = self.is_required_met(vm, terms, require, now);
            copies_met = Some(copies_met.unwrap_or(true) && is_met);
            if !is_met {
                let Requirement {
                    copies,
                    media,
                    offsite,
                } = require;
                problems.push(format!(
                    "its copies are fewer than {copies}-{media}-{offsite}"
                ));
            }
        }
        let points = |kind: ActionKind| {
            let of_kind = actions.iter().filter(|action| action.action == kind);
            of_kind.map(|action| action.points).sum()
        };
        Standing {
            vm: vm.vm.clone(),
            policies: coverage.terms.iter().map(|one| one.name.clone()).collect(),
            rpo_seconds: rpo.and_then(|rpo| u64::try_from(rpo.as_secs()).ok()),
            rpo_met,
            copies: last.map(|last| self.amount(last)),
            copies_met,
            copies_due: points(ActionKind::Copy),
            verify_due: points(ActionKind::Verify),
            problems,
            failures: self.failures(vm, coverage),
        }
    }

    /// Whether the newest point of which no copy is awaited has what is required.
    fn is_required_met(
        &self,
        vm: &VmFacts,
        terms: &Terms,
        require: Requirement,
        now: Timestamp,
    ) -> bool {
        let is_settled = |point: &&PointFacts| {
            let is_awaited = |copy| {
                let due = point.copy_due(copy, now);
                let until = due.and_then(|due| due.checked_add(GRACE).ok());
                point.lacks(copy) && until.is_none_or(|until| until >= now)
            };
            !terms.copies.iter().any(is_awaited)
        };
        let mut newest_first = vm.points.iter().rev();
        newest_first
            .find(is_settled)
            .is_none_or(|point| self.amount(point).meets(require))
    }

    /// The copies of a point: those that its state names, and the point itself.
    fn amount(&self, point: &PointFacts) -> Amount {
        let own = self.own_id;
        let ids: BTreeSet<RepositoryId> = point
            .copies
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| Some(*id) != own && !point.gone.contains(id))
            .chain(own)
            .collect();
        let known = self
            .targets
            .iter()
            .filter(|target| ids.contains(&target.id));
        let media = known.clone().filter_map(|target| target.media.as_deref());
        let media: BTreeSet<String> = media.map(str::to_lowercase).collect();
        let mut offsite: Vec<RepositoryId> =
            known.filter(|one| one.offsite).map(|one| one.id).collect();
        offsite.sort();
        offsite.dedup();
        Amount {
            copies: ids.len() + usize::from(own.is_none()),
            media: media.len(),
            offsite: offsite.len(),
        }
    }

    fn failures(&self, vm: &VmFacts, coverage: &Coverage<'_>) -> Vec<String> {
        let of_vm = self.runs.runs.iter().filter(|run| {
            let applies = |terms: &&Terms| terms.name.same_as(&run.policy);
            run.vm.same_as(&vm.vm) && coverage.terms.iter().any(applies)
        });
        of_vm
            .filter_map(|run| {
                let to = run.to.as_ref();
                let to = to.map_or_else(String::new, |to| format!(" to {to}"));
                let why = run.failure.as_ref()?;
                Some(format!("{}{to}: {why}", run.action.as_str()))
            })
            .collect()
    }
}

/// What is wrong with an action that waits for too long.
fn late(action: &Action, waits: SignedDuration, has_rpo: bool) -> Option<String> {
    // A repository that is not the one that is meant is no matter of waiting.
    if waits <= GRACE && (action.action != ActionKind::Copy || action.blocked.is_none()) {
        return None;
    }
    let since = age(waits);
    let points = Count::of(action.points, "point");
    match action.action {
        // Without a command something else makes the backups; the rpo judges them.
        ActionKind::Backup if has_rpo || action.blocked.is_some() => None,
        ActionKind::Backup => Some(format!("its backup has been due for {since}")),
        ActionKind::Forget => Some(format!("retention has been due for {since}")),
        ActionKind::Merge => Some(format!("merging has been due for {since}")),
        ActionKind::Verify => Some(format!("{points} not verified in time, for {since}")),
        ActionKind::Copy => {
            let to = action.to.as_ref();
            let to = to.map_or_else(String::new, |to| format!(" at {to}"));
            let why = action.blocked.as_ref();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Some(format!("{points} without a copy{to}, due for {since}{why}"))
        }
    }
}
