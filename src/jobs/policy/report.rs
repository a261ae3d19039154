//! How the policies of a repository stand, and what there is of room for them.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::facts::{Scene, Target};
use super::standing::Standing;
use crate::error::Result;
use crate::jobs::health::{Content, CopyCheck, RegisterHealth};
use crate::repo::Repository;
use crate::repo::register::Registered;
use crate::types::{PointId, PolicyName, RepositoryId, RepositoryName};

/// How the policies of a repository stand.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The VMs to which a policy applies, or should.
    pub policies: Vec<Standing>,
    /// Policies that cannot be used, with the reason.
    pub unusable: Vec<(PolicyName, String)>,
    /// Repositories that were asked for copies and could not answer, with the reason.
    pub unconfirmed: Vec<(RepositoryName, String)>,
    /// What this repository holds; `None` when that cannot be told.
    pub content: Option<Content>,
    /// The repositories to which the policies copy.
    pub repositories: RegisterHealth,
}

impl Report {
    /// Looks at a repository and, each for a bounded time, at those to which its policies copy, which are among `entries`. Copies that
    /// the repositories do not have, or were not asked for, by these `checks`, do not count.
    ///
    /// # Errors
    /// As [`Scene::of`].
    pub fn of(
        repository: &Arc<Repository>,
        entries: &[Registered],
        checks: &[CopyCheck],
        now: Timestamp,
    ) -> Result<Self> {
        let targets = entries.iter().map(Target::from).collect();
        let mut scene = Scene::of(repository, targets)?;
        let mut unconfirmed = Vec::new();
        for check in checks {
            if let (Some(name), Some(why)) = (&check.name, &check.error) {
                unconfirmed.push((name.clone(), why.clone()));
            }
            let lost: HashSet<PointId> = check.lost_ids.iter().copied().collect();
            for point in scene.vms.iter_mut().flat_map(|vm| &mut vm.points) {
                let is_lost = check.error.is_some() || lost.contains(&point.point_id);
                let is_kept = |id: RepositoryId| !is_lost || id != check.repository_id;
                point.copies.retain(|(id, _)| is_kept(*id));
            }
        }
        let copies = || scene.terms.iter().flat_map(|terms| &terms.copies);
        let is_target = |entry: &&Registered| copies().any(|copy| copy.to.same_as(&entry.name));
        let targets: Vec<Registered> = entries.iter().filter(is_target).cloned().collect();
        let content = Content::of(repository, now).inspect_err(
            |e| tracing::warn!(error = %e.report(), "what the repository holds is not known"),
        );
        Ok(Self {
            policies: scene.standings(now),
            unusable: scene.unreadable,
            unconfirmed,
            content: content.ok(),
            repositories: RegisterHealth::of(&targets, None, true, now),
        })
    }

    /// The VMs of which a policy is not met, and the policies that cannot be used.
    #[must_use]
    pub fn unmet(&self) -> Vec<String> {
        let vms = self.policies.iter().filter(|one| !one.is_met());
        let vms = vms.map(|one| one.vm.to_string());
        vms.chain(self.unusable.iter().map(|(name, _)| name.to_string()))
            .collect()
    }
}
