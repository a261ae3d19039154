//! What is known of a repository: its policies, what came of their runs, its VMs and their points.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::terms::Terms;
use crate::error::{ErrorKind, Result};
use crate::jobs::health::Space;
use crate::repo::Repository;
use crate::repo::register::Registered;
use crate::repo::repository::each_on_threads;
use crate::repo::sidecar::index::{CheckResult, Index, PointEntry};
use crate::repo::sidecar::policy_run::PolicyRuns;
use crate::types::{Digest, PointId, PolicyName, RepositoryId, RepositoryName, VmId, VmName};

/// What is known of a repository.
#[derive(Debug, Default)]
pub struct Scene {
    /// The policies.
    pub terms: Vec<Terms>,
    /// Policies that cannot be used, with the reason.
    pub unreadable: Vec<(PolicyName, String)>,
    /// The VMs, and those that a policy names and that have no point yet.
    pub vms: Vec<VmFacts>,
    /// What came of earlier runs.
    pub runs: PolicyRuns,
    /// The repositories that have a name.
    pub targets: Vec<Target>,
    /// The repository's own id; `None` in tests that do not need it.
    pub own_id: Option<RepositoryId>,
    /// Whether less than a tenth of the filesystem is free.
    pub is_low: bool,
    /// Layers that a chain may have where no policy says otherwise.
    pub max_depth: u32,
}

/// A repository that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: RepositoryName,
    /// Its id.
    pub id: RepositoryId,
    /// What it lies on.
    pub media: Option<String>,
    /// Whether it lies elsewhere.
    pub offsite: bool,
}

/// A VM.
#[derive(Debug, Clone)]
pub struct VmFacts {
    /// Its name.
    pub vm: VmName,
    /// Its id; `None` where there is nothing of it yet.
    pub vm_id: Option<VmId>,
    /// Whether it is copied from another repository, so that no backup is made here.
    pub is_copied: bool,
    /// The policy of its own.
    pub own_policy: Option<PolicyName>,
    /// Its points, by ascending `seq`.
    pub points: Vec<PointFacts>,
    /// Layers that no point names.
    pub hidden_layers: usize,
    /// Layers of its deepest chain.
    pub depth: Option<u32>,
    /// Why it cannot be read; nothing is done to it then.
    pub unreadable: Option<String>,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFacts {
    /// Its id.
    pub point_id: PointId,
    /// The hash of its sidecar, which a copy has, too.
    pub point_blake3: Digest,
    /// When its capture began.
    pub captured_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Whether damage is known.
    pub is_damaged: bool,
    /// When it was last verified.
    pub checked_at: Option<Timestamp>,
    /// Its copies: the repositories, and when each had it.
    pub copies: Vec<(RepositoryId, Timestamp)>,
    /// Those of them that have forgotten it since.
    pub gone: Vec<RepositoryId>,
}

impl From<&Registered> for Target {
    fn from(entry: &Registered) -> Self {
        Self {
            name: entry.name.clone(),
            id: entry.id,
            media: entry.media.clone(),
            offsite: entry.offsite,
        }
    }
}

impl From<&PointEntry> for PointFacts {
    fn from(entry: &PointEntry) -> Self {
        let copies = entry.copies.iter();
        let gone = copies.clone().filter(|copy| copy.gone_at.is_some());
        Self {
            point_id: entry.point_id,
            point_blake3: entry.point_blake3,
            captured_at: entry.captured_at,
            committed_at: entry.committed_at,
            is_damaged: entry.check == Some(CheckResult::Damaged),
            checked_at: entry.check.and(entry.checked_at),
            gone: gone.map(|copy| copy.repository_id).collect(),
            copies: copies.map(|copy| (copy.repository_id, copy.at)).collect(),
        }
    }
}

impl VmFacts {
    /// A VM of which there is nothing yet.
    #[must_use]
    pub const fn absent(vm: VmName) -> Self {
        Self {
            vm,
            vm_id: None,
            is_copied: false,
            own_policy: None,
            points: Vec::new(),
            hidden_layers: 0,
            depth: None,
            unreadable: None,
        }
    }

    fn of(repository: &Repository, name: &VmName) -> Result<Option<Self>> {
        let found = repository
            .vm(name)
            .and_then(|vm| Ok((vm, repository.index(name)?)));
        match found {
            Ok((vm, index)) => Ok(Some(Self {
                vm_id: Some(vm.vm_id),
                is_copied: vm.origin.is_some(),
                own_policy: vm.policy,
                ..Self::of_index(&index)
            })),
            // A directory without a sidecar is not a VM, and one can be removed meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                Ok(Some(Self {
                    unreadable: Some(e.report()),
                    ..Self::absent(name.clone())
                }))
            }
            Err(e) => Err(e),
        }
    }

    fn of_index(index: &Index) -> Self {
        let mut points: Vec<&PointEntry> = index.points.iter().collect();
        points.sort_by_key(|point| point.seq);
        Self {
            points: points.into_iter().map(PointFacts::from).collect(),
            hidden_layers: index.hidden.len(),
            depth: index.depth(),
            ..Self::absent(index.name.clone())
        }
    }
}

/// What came of earlier runs. It is only a memory: the points and the copies tell what is due, too.
fn runs(repository: &Repository) -> Result<PolicyRuns> {
    match repository.policy_runs() {
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            tracing::error!(error = %e.report(), "what is known of the policies' runs cannot be read and begins anew");
            Ok(PolicyRuns::default())
        }
        other => other,
    }
}

impl Scene {
    /// Looks at a repository. `targets` are the repositories that have a name.
    ///
    /// # Errors
    /// `LimitExceeded`, `Io`. Policies and VMs that cannot be read are in the
    /// returned value.
    pub fn of(repository: &Arc<Repository>, targets: Vec<Target>) -> Result<Self> {
        let (mut terms, mut unreadable) = (Vec::new(), Vec::new());
        for stored in repository.policies()? {
            match stored.policy.and_then(|policy| Terms::of(&policy)) {
                Ok(parsed) => terms.push(parsed),
                Err(e) => unreadable.push((stored.name, e.report())),
            }
        }
        let mut vms = Vec::new();
        let look = |name: &VmName| VmFacts::of(repository, name);
        for found in each_on_threads(&repository.vm_names()?, look)? {
            vms.extend(found?);
        }
        let mut known: HashSet<String> = vms.iter().map(|vm| vm.vm.folded()).collect();
        for name in terms.iter().flat_map(Terms::named) {
            if known.insert(name.folded()) {
                vms.push(VmFacts::absent(name));
            }
        }
        vms.sort_by(|a, b| a.vm.cmp(&b.vm));
        let space = repository.store().space()?;
        Ok(Self {
            terms,
            unreadable,
            vms,
            runs: runs(repository)?,
            targets,
            own_id: Some(repository.format().repository_id),
            is_low: space.as_ref().is_some_and(|space| Space::of(space).is_low),
            max_depth: repository.format().max_depth(),
        })
    }

    /// The target of a copy under its name, if it is there and is the one that is meant.
    pub(super) fn target(
        &self,
        name: &RepositoryName,
        id: RepositoryId,
    ) -> Result<&Target, String> {
        match self.targets.iter().find(|target| target.name.same_as(name)) {
            Some(target) if target.id == id => Ok(target),
            Some(target) => Err(format!(
                "{name} has the id {} now, and the policy means the repository {id}; name it again with: restorefs policy edit NAME --copy-to {name}",
                target.id
            )),
            None => Err(format!(
                "no repository is named {name}; name it with: restorefs repo add {name} DIR"
            )),
        }
    }
}
