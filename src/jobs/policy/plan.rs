//! The plan: what is due now.
//!
//! # Why
//! The plan is made of what is there, not of what a timer has started: points, their copies, and the last successes. So a run that
//! was missed is caught up by the next one, once, and one that failed is due again.

use jiff::{SignedDuration, Timestamp};

use super::action::Action;
use super::coverage::Coverage;
use super::facts::{PointFacts, Scene, VmFacts};
use super::terms::{CopyTerms, Terms};
use crate::repo::sidecar::policy_run::ActionKind;
use crate::types::RepositoryName;
use crate::types::size::Count;

/// How long retention and merging rest where nothing has changed.
const REST: SignedDuration = SignedDuration::from_hours(24);

/// What is due of one VM under one policy.
struct Due<'a> {
    scene: &'a Scene,
    terms: &'a Terms,
    vm: &'a VmFacts,
    now: Timestamp,
}

impl Scene {
    /// The actions that are due, in the order in which they are done.
    #[must_use]
    pub fn plan(&self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        for vm in self.vms.iter().filter(|vm| vm.unreadable.is_none()) {
            let coverage = Coverage::of(self, vm);
            for terms in &coverage.terms {
                let due = Due {
                    scene: self,
                    terms,
                    vm,
                    now,
                };
                actions.extend(due.backup());
                actions.extend(due.copies());
                actions.extend(due.verify());
            }
            if let Some(terms) = coverage.only() {
                let due = Due {
                    scene: self,
                    terms,
                    vm,
                    now,
                };
                actions.extend(due.forget());
                actions.extend(due.merge());
            }
        }
        let key = |action: &Action| {
            let vm = (action.vm.folded(), action.policy.folded());
            (
                action.action,
                action.due_since,
                vm,
                action.to.clone().map(|to| to.folded()),
            )
        };
        actions.sort_by_key(key);
        actions
    }
}

impl Due<'_> {
    fn action(&self, action: ActionKind, since: Timestamp, why: String) -> Action {
        // Nothing was due before there was a policy, and nothing is due since tomorrow.
        let created = Some(self.terms.created_at).filter(|at| *at <= self.now);
        let since = created.map_or(since, |created| since.max(created));
        Action {
            action,
            policy: self.terms.name.clone(),
            vm: self.vm.vm.clone(),
            to: None,
            due_since: since.min(self.now),
            why,
            blocked: None,
            points: 0,
            at_any_price: false,
        }
    }

    /// When an action last began and succeeded; `None` where that time lies in the future: a clock was set back.
    fn succeeded(&self, action: ActionKind, to: Option<&RepositoryName>) -> Option<Timestamp> {
        let runs = &self.scene.runs;
        let run = runs.find(&self.terms.name, &self.vm.vm, action, to)?;
        run.succeeded_at.filter(|at| *at <= self.now)
    }

    fn backup(&self) -> Option<Action> {
        let schedule = self.terms.schedule.filter(|_| !self.vm.is_copied)?;
        let zone = self.terms.zone.time_zone();
        // A point that somebody else has made since then is as good.
        let captured = self.vm.points.iter().map(|point| point.captured_at);
        let done = captured
            .filter(|at| *at <= self.now)
            .chain(self.succeeded(ActionKind::Backup, None))
            .max();
        let since = match done {
            Some(done) => schedule.next(done, zone)?,
            None => schedule.last(self.now, zone)?,
        };
        if since > self.now {
            return None;
        }
        let mut action = self.action(ActionKind::Backup, since, format!("{schedule}"));
        if self.terms.command.is_empty() {
            let name = &self.terms.name;
            action.blocked = Some(format!(
                "the policy has no command; give it one with: restorefs policy edit {name} --command PROGRAM ..."
            ));
        }
        Some(action)
    }

    fn forget(&self) -> Option<Action> {
        let keep = self.terms.keep.as_ref()?;
        let changes = self.vm.points.iter().flat_map(|point| {
            let copies = point.copies.iter().map(|(_, at)| *at);
            std::iter::once(point.committed_at).chain(copies)
        });
        let changes = changes.filter(|at| *at <= self.now);
        let (since, mut why) = match self.succeeded(ActionKind::Forget, None) {
            None => (changes.min()?, "it has not run yet".to_owned()),
            Some(last) => match changes.filter(|at| *at > last).min() {
                Some(since) => (since, "points or copies are new".to_owned()),
                None => {
                    let rested = last.checked_add(REST).ok()?;
                    if rested > self.now || self.vm.points.is_empty() {
                        return None;
                    }
                    (rested, "a day has passed".to_owned())
                }
            },
        };
        if self.scene.is_low && !keep.owed.is_empty() {
            why.push_str("; less than a tenth is free: points that lack a copy are not spared");
        }
        Some(self.action(ActionKind::Forget, since, why))
    }

    fn merge(&self) -> Option<Action> {
        if self.vm.hidden_layers == 0 {
            return None;
        }
        let forgot = self
            .terms
            .keep
            .as_ref()
            .and_then(|_| self.succeeded(ActionKind::Forget, None));
        let limit = self.terms.max_depth.unwrap_or(self.scene.max_depth);
        let is_too_deep = self.vm.depth.is_some_and(|depth| depth > limit);
        let grown = self.vm.points.iter().map(|point| point.committed_at);
        let grown = grown.filter(|at| *at <= self.now && is_too_deep);
        let last = self.succeeded(ActionKind::Merge, None);
        let is_new = |at: &Timestamp| last.is_none_or(|last| *at > last);
        let since = grown.chain(forgot).filter(is_new).min()?;
        let layers = Count::of(self.vm.hidden_layers, "layer");
        let why = match is_too_deep {
            true => format!("a chain is deeper than {limit} layers"),
            false => format!("no point needs {layers} by itself"),
        };
        let mut action = self.action(ActionKind::Merge, since, why);
        action.at_any_price = is_too_deep;
        Some(action)
    }

    fn copies(&self) -> Vec<Action> {
        let copies = self.terms.copies.iter();
        copies.filter_map(|copy| self.copy(copy)).collect()
    }

    fn copy(&self, copy: &CopyTerms) -> Option<Action> {
        let is_lacking = |point: &&PointFacts| point.lacks(copy);
        let due = self.vm.points.iter().filter(is_lacking);
        let due = due.filter_map(|point| point.copy_due(copy, self.now));
        let due: Vec<Timestamp> = due.filter(|at| *at <= self.now).collect();
        let since = *due.iter().min()?;
        let points = Count::of(due.len(), "point");
        let mut action = self.action(ActionKind::Copy, since, format!("{points} without a copy"));
        action.points = due.len();
        action.to = Some(copy.to.clone());
        action.blocked = self.scene.target(&copy.to, copy.id).err();
        if self.scene.own_id == Some(copy.id) {
            action.blocked = Some(format!("{} is this repository", copy.to));
        }
        Some(action)
    }

    fn verify(&self) -> Option<Action> {
        let every = self.terms.verify_every?;
        let due = self.vm.points.iter();
        let due = due.filter_map(|point| point.verification_due(every, self.now));
        let due: Vec<Timestamp> = due.filter(|at| *at <= self.now).collect();
        let since = *due.iter().min()?;
        let points = Count::of(due.len(), "point");
        let why = format!("{points} not verified in time");
        let mut action = self.action(ActionKind::Verify, since, why);
        action.points = due.len();
        Some(action)
    }
}

impl PointFacts {
    /// Whether a copy of it is owed. A damaged point is copied once it is repaired.
    pub(super) fn lacks(&self, copy: &CopyTerms) -> bool {
        !self.is_damaged && !self.copies.iter().any(|(id, _)| *id == copy.id)
    }

    /// When its copy is due; at once where its commit lies in the future.
    pub(super) fn copy_due(&self, copy: &CopyTerms, now: Timestamp) -> Option<Timestamp> {
        match self.committed_at > now {
            true => Some(now),
            false => self.committed_at.checked_add(copy.after).ok(),
        }
    }

    /// When it is to be verified next; at once where its times lie in the future.
    fn verification_due(&self, every: SignedDuration, now: Timestamp) -> Option<Timestamp> {
        let past = |at: &Timestamp| *at <= now;
        let checked = self.checked_at.filter(past);
        match checked.or(Some(self.committed_at).filter(past)) {
            Some(from) => from.checked_add(every).ok(),
            None => Some(now),
        }
    }
}
