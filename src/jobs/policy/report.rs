//! How the policies of a repository stand, and what there is of room for them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::asked::ask;
use super::facts::{Scene, Target};
use super::standing::Standing;
use crate::error::Result;
use crate::jobs::health::{Content, RegisterHealth};
use crate::repo::Repository;
use crate::repo::register::Registered;
use crate::types::{PolicyName, RepositoryName};

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
    /// Looks at a repository and, each for a bounded time, at those to which its policies copy, which are among `entries`. With
    /// `is_asked`, the others are asked for the copies that points are said to have.
    ///
    /// # Errors
    /// As [`Scene::of`].
    pub fn of(
        repository: &Arc<Repository>,
        entries: &[Registered],
        is_asked: bool,
        now: Timestamp,
    ) -> Result<Self> {
        let targets = entries.iter().map(Target::from).collect();
        let mut scene = Scene::of(repository, targets)?;
        let unconfirmed = match is_asked {
            true => ask(&mut scene, entries),
            false => Vec::new(),
        };
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
