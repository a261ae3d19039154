//! A look: what is found of a repository for scrapes, pages and requests.

mod flight;
mod limit;

pub(super) use flight::Flight;
pub use limit::LookLimits;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Result;
use crate::jobs::health::{Content, Health};
use crate::jobs::policy::{Scene, Standing, Target};
use crate::repo::Repository;
use crate::repo::register::Register;
use crate::types::VmName;

/// What was found.
pub(super) struct Look {
    pub(super) at: Timestamp,
    pub(super) health: Health,
    pub(super) standings: HashMap<VmName, Standing>,
    pub(super) unusable_policies: usize,
    pub(super) depth_max: u32,
    pub(super) content: Arc<Content>,
    pub(super) stored_by_vm: HashMap<VmName, u64>,
}

impl Look {
    /// Looks at the indexes, the directories and the policies of a repository. `content` is what an earlier look has found
    /// of the sizes of files, if that is recent enough.
    ///
    /// # Why
    /// The policies are judged by what is noted in this repository ([`Scene`]). A [`Report`](crate::jobs::policy::Report) would
    /// also look through the repositories to which the policies copy, at each scrape.
    ///
    /// # Errors
    /// `LimitExceeded`, `Io`. A VM that cannot be read is damage in the returned value.
    pub(super) fn of(
        repository: &Arc<Repository>,
        content: Option<Arc<Content>>,
        now: Timestamp,
    ) -> Result<Self> {
        let content = match content {
            Some(content) => content,
            None => Arc::new(Content::of(repository, now)?),
        };
        let health = Health::of(repository, None, content.trash_bytes, now)?;
        let (mut standings, mut unusable_policies) = (HashMap::new(), 0);
        if !repository.policies()?.is_empty() {
            let register = Register::load().unwrap_or_else(|e| {
                tracing::debug!(error = %e.report(), "the names of repositories cannot be read");
                Register::default()
            });
            let targets = register.entries().iter().map(Target::from).collect();
            let scene = Scene::of(repository, targets)?;
            unusable_policies = scene.unreadable.len();
            let found = scene.standings(now).into_iter();
            standings = found.map(|one| (one.vm.clone(), one)).collect();
        }
        Ok(Self {
            at: now,
            health,
            standings,
            unusable_policies,
            depth_max: repository.format().max_depth(),
            stored_by_vm: content.used_by_vm.iter().cloned().collect(),
            content,
        })
    }
}
