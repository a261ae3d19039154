//! A VM's plan from what the repository has of it, and what came of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::layers::Layers;
use super::plan::{Candidate, Verdict, plan};
use super::reason::Reason;
use super::rule::Rules;
use crate::error::{ErrorKind, Result};
use crate::jobs::merge::{Merged, mergeable_bytes};
use crate::repo::Repository;
use crate::repo::chains::Chains;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::task::{Monitor, on_threads, threads};
use crate::types::sync::Mutex;
use crate::types::{PointId, PointName, VmName};

/// LIMIT: VMs that are planned at the same time.
const THREADS_MAX: usize = 8;

/// Which points a request forgets.
#[derive(Debug, Clone)]
pub enum Choice {
    /// Those that no rule keeps.
    Rules(Rules),
    /// These.
    Points(Vec<Which>),
    /// All of them.
    All,
}

/// The points of a VM, each with whether it stays, and what that frees.
#[derive(Serialize)]
pub struct VmPlan {
    /// The VM.
    pub vm: VmName,
    /// The points that the request is about, by ascending `seq`.
    pub points: Vec<Verdict>,
    /// Bytes of layers that nothing needs any more.
    pub freed_bytes: u64,
    /// Bytes that merging all hidden layers frees after that, whatever it costs; absent where it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mergeable_bytes: Option<u64>,
    /// What was merged after that; absent where merging is left for later, or nothing was to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged: Option<Merged>,
    /// Why the VM is left alone: none of its points goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<String>,
    /// Whether a chain of the VM is deeper than the repository allows, and has layers that can be merged.
    #[serde(skip)]
    pub is_too_deep: bool,
    #[serde(skip)]
    layers: Layers,
}

impl VmPlan {
    /// The plan for one VM. `is_unattended`: the VM is left alone when more than half of what the last run of retention has kept would go.
    ///
    /// # Errors
    /// `NotFound` (the VM, a point); `Corrupt`, `Io`.
    pub fn of_vm(
        repository: &Arc<Repository>,
        vm: &VmName,
        choice: &Choice,
        is_unattended: bool,
        now: Timestamp,
    ) -> Result<Self> {
        let index = repository.index(vm)?;
        let points = match choice {
            Choice::Rules(rules) => plan(&candidates(repository, &index)?, rules, now),
            Choice::All => all(&index),
            Choice::Points(which) => {
                let named = which.iter().map(|which| which.find(&index));
                let named = named.map(|found| found.map(|point| point.point_id));
                let named = named.collect::<Result<HashSet<PointId>>>()?;
                let points = index.points.iter();
                let points = points.filter(|point| named.contains(&point.point_id));
                points
                    .map(|point| Verdict::named(point.name.clone()))
                    .collect()
            }
        };
        let mut planned = Self {
            vm: index.name.clone(),
            points,
            freed_bytes: 0,
            mergeable_bytes: None,
            merged: None,
            left_alone: None,
            is_too_deep: !index.hidden.is_empty()
                && index.depth() > Some(repository.format().max_depth()),
            layers: Layers::new(repository, &index),
        };
        if is_unattended {
            planned.left_alone = planned.too_much(repository, &index, choice)?;
        }
        planned.weigh()?;
        Ok(planned)
    }

    /// The plans for many VMs, in their order.
    ///
    /// # Errors
    /// `Io` when a thread panicked; the errors of single VMs are in the returned list.
    pub fn of_vms(
        repository: &Arc<Repository>,
        vms: Vec<(VmName, Choice)>,
        is_unattended: bool,
        now: Timestamp,
    ) -> Result<Vec<(VmName, Result<Self>)>> {
        let found = Mutex::new(Vec::with_capacity(vms.len()));
        let count = vms.len();
        let mut next = vms.into_iter().enumerate();
        on_threads(
            threads(None, THREADS_MAX.min(count)),
            &Monitor::default(),
            || Ok(next.next()),
            || (),
            |(), (n, (vm, choice))| {
                let planned = Self::of_vm(repository, &vm, &choice, is_unattended, now);
                found.lock().push((n, (vm, planned)));
                Ok(())
            },
        )?;
        let mut found = found.into_inner();
        found.sort_by_key(|(n, _)| *n);
        Ok(found.into_iter().map(|(_, planned)| planned).collect())
    }

    /// The points that go.
    #[must_use]
    pub fn gone(&self) -> Vec<PointName> {
        if self.left_alone.is_some() {
            return Vec::new();
        }
        let gone = self.points.iter().filter(|verdict| !verdict.keep);
        gone.map(|verdict| verdict.point.clone()).collect()
    }

    /// Notes points that were to go and could not be forgotten, with the reason.
    pub fn note_kept(&mut self, kept: impl IntoIterator<Item = (PointName, Reason)>) {
        for (point, reason) in kept {
            for verdict in self.points.iter_mut().filter(|v| v.point == point) {
                verdict.keep = true;
                verdict.reasons.retain(|reason| *reason == Reason::Named);
                verdict.reasons.push(reason.clone());
            }
        }
        // What is known of the layers was read before they went; a failure was met then.
        if let Err(error) = self.weigh() {
            tracing::warn!(vm = %self.vm, error = %error.report(), "what was freed is not known");
        }
    }

    /// Looks at what merging frees once the points are gone, which reads the sums of hidden layers. Nothing is known where
    /// a layer cannot be read.
    pub fn weigh_merging(&mut self, repository: &Repository) {
        let look = || {
            let mut index = repository.index(&self.vm)?;
            let gone = self.gone();
            index.points.retain(|point| !gone.contains(&point.name));
            let chains = Chains::walk(repository, &self.vm, &index)?;
            mergeable_bytes(repository, &self.vm, &chains)
        };
        let found: Result<u64> = look();
        self.mergeable_bytes = found
            .inspect_err(|e| {
                tracing::info!(vm = %self.vm, error = %e.report(), "what merging frees is not known");
            })
            .ok();
    }

    /// The number of layers that [`VmPlan::weigh_merging`] looks at, at most.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.count()
    }

    fn weigh(&mut self) -> Result<()> {
        let gone = self.gone();
        self.freed_bytes = match self.layers.freed_bytes(&gone.iter().collect()) {
            // The collector meets the same, and then cleans nothing of the VM.
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                tracing::warn!(vm = %self.vm, error = %e.report(), "a layer cannot be read: nothing of the VM will be cleaned up");
                0
            }
            other => other?,
        };
        Ok(())
    }

    /// Whether more than half of what the last run has kept, and what is still there, would go.
    fn too_much(
        &self,
        repository: &Repository,
        index: &Index,
        choice: &Choice,
    ) -> Result<Option<String>> {
        let Some(last) = repository.retained(&index.name)? else {
            return Ok(None);
        };
        let ran_at = last.ran_at;
        let last: HashSet<PointId> = last.kept.into_iter().collect();
        let kept = index.points.iter();
        // The last run has spared what lacked a copy, and not kept it.
        let kept = kept.filter(|point| {
            last.contains(&point.point_id) && !was_only_spared(point, choice, ran_at)
        });
        let kept: HashSet<&PointName> = kept.map(|point| &point.name).collect();
        let gone = self.points.iter().filter(|verdict| !verdict.keep);
        let gone = gone.filter(|verdict| kept.contains(&verdict.point)).count();
        Ok((gone > kept.len() / 2).then(|| {
            format!(
                "{gone} of the {} points that the last run has kept would go",
                kept.len()
            )
        }))
    }
}

/// Whether a point lacked a copy that is owed when retention ran at `ran_at`.
fn was_only_spared(point: &PointEntry, choice: &Choice, ran_at: Timestamp) -> bool {
    let Choice::Rules(rules) = choice else {
        return false;
    };
    let mut owed = rules.owed.iter();
    owed.any(|owed| {
        let mut copies = point.copies.iter();
        let copy = copies.find(|copy| copy.repository_id == owed.id);
        copy.is_none_or(|copy| copy.at > ran_at)
    })
}

fn all(index: &Index) -> Vec<Verdict> {
    let points = index.points.iter();
    points
        .map(|point| Verdict::named(point.name.clone()))
        .collect()
}

/// The points of a VM as retention sees them. Sessions that are open use what they are compared with.
fn candidates(repository: &Repository, index: &Index) -> Result<Vec<Candidate>> {
    let mut parents: HashMap<PointId, PointName> = HashMap::new();
    for session in repository.session_names(&index.name)? {
        match repository.session(&index.name, &session) {
            // It is just beginning, or has ended meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            found => {
                if let Some(parent) = found?.parent {
                    parents.insert(parent.point_id, session);
                }
            }
        }
    }
    let points = index.points.iter().map(|point| {
        let session = parents.get(&point.point_id);
        let vm = &index.name;
        Candidate {
            used_by: session
                .map(|session| format!("the open session {vm}/{session} is compared with it")),
            ..Candidate::from(point)
        }
    });
    Ok(points.collect())
}
