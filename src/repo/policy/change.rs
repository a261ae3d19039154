//! Changes of policies, which the owner makes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::repo::layout::{self, VmKeys};
use crate::repo::owner::Owner;
use crate::repo::sidecar::policy::Policy;
use crate::repo::sidecar::policy_run::{PolicyRun, PolicyRuns, Runner};
use crate::repo::sidecar::{Sidecar, encode};
use crate::store::PutMode;
use crate::types::{PolicyName, VmName};

/// LIMIT: characters of the reason of a failure in the record of runs.
const FAILURE_CHARS_MAX: usize = 1_000;

/// A change of the policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum PolicyChange {
    /// Writes a policy.
    Put {
        /// The policy.
        policy: Box<Policy>,
        /// Whether there must be none of that name yet; otherwise there must be one.
        is_new: bool,
    },
    /// Removes a policy.
    Remove {
        /// Its name.
        name: PolicyName,
    },
    /// Gives a VM a policy of its own, or takes it away.
    Assign {
        /// The VM.
        vm: VmName,
        /// The policy.
        policy: Option<PolicyName>,
    },
    /// Records results of actions.
    Note {
        /// The results.
        runs: Vec<PolicyRun>,
    },
    /// Names the machine that runs the policies, or none.
    Runner {
        /// The machine.
        runner: Option<Runner>,
    },
}

impl Owner {
    /// Changes the policies. The change is durable when the call returns.
    ///
    /// # Errors
    /// `NotFound` (the policy, the VM); `AlreadyExists`; `InvalidInput` (the name); `Stale` (the lock); `Corrupt` when a present
    /// record cannot be read; `NoSpace`, `Io`.
    pub fn change_policy(&self, change: &PolicyChange) -> Result<()> {
        let _turn = self.policies.lock();
        self.verify_lock()?;
        match change {
            PolicyChange::Put { policy, is_new } => self.put_policy(policy, *is_new),
            PolicyChange::Remove { name } => {
                // One that cannot be read can be removed.
                let key = layout::policy(&self.repository().spelled_policy(name)?)?;
                self.with_room(|| self.repository().store().delete(&key))
            }
            PolicyChange::Assign { vm, policy } => self.assign_policy(vm, policy.as_ref()),
            PolicyChange::Note { runs } => self.note_policy_runs(runs),
            PolicyChange::Runner { runner } => {
                let (key, store) = (layout::policy_runner()?, self.repository().store());
                match runner {
                    Some(runner) => {
                        let bytes = encode(runner)?;
                        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
                    }
                    None => match store.delete(&key) {
                        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                        other => other,
                    },
                }
            }
        }
    }

    fn put_policy(&self, policy: &Policy, is_new: bool) -> Result<()> {
        // Its file would be the record of runs, also where a filesystem takes names of either case for one.
        if policy.name.as_str().eq_ignore_ascii_case("runs") {
            return Err(Error::invalid("the name \"runs\" is reserved"));
        }
        let mut policy = policy.clone();
        match (self.repository().spelled_policy(&policy.name), is_new) {
            (Ok(stored), true) => {
                let what = format!("there is a policy {stored}");
                return Err(Error::new(ErrorKind::AlreadyExists, what)
                    .advise(format!("change it with: restorefs policy edit {stored}")));
            }
            (Ok(stored), false) => policy.name = stored,
            (Err(e), true) if e.kind() == ErrorKind::NotFound => {}
            (Err(e), _) => return Err(e),
        }
        let (key, bytes) = (layout::policy(&policy.name)?, encode(&policy)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
    }

    fn assign_policy(&self, vm: &VmName, policy: Option<&PolicyName>) -> Result<()> {
        let policy = policy
            .map(|name| self.repository().spelled_policy(name))
            .transpose()?;
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        if entry.vm.policy == policy {
            return Ok(());
        }
        let mut changed = entry.vm.clone();
        changed.policy = policy;
        let (key, bytes) = (VmKeys::new(&changed.name)?.vm()?, encode(&changed)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        entry.vm = changed;
        Ok(())
    }

    fn note_policy_runs(&self, runs: &[PolicyRun]) -> Result<()> {
        let repository = self.repository();
        let mut known = match repository.policy_runs() {
            // It is only a memory of what was done: the points and the copies tell what is due.
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                tracing::error!(error = %e.report(), "what is known of the policies' runs cannot be read and begins anew");
                PolicyRuns::default()
            }
            other => other?,
        };
        known.schema = PolicyRuns::SCHEMA;
        let policies = repository.policies()?;
        let is_there = |name: &PolicyName| policies.iter().any(|one| one.name.same_as(name));
        known.runs.retain(|run| is_there(&run.policy));
        for run in runs.iter().filter(|run| is_there(&run.policy)) {
            let mut run = run.clone();
            let failure = run.failure.as_deref();
            run.failure = failure.map(|text| text.chars().take(FAILURE_CHARS_MAX).collect());
            known.note(run);
        }
        let (key, bytes) = (layout::policy_runs()?, encode(&known)?);
        self.with_room(|| repository.store().put(&key, &bytes, PutMode::Replace))
    }
}
