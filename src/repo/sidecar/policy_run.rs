//! `policies/runs.json`: how the actions of policies have ended lately; `policies/runner`: the machine that runs them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Sidecar, Unknown};
use crate::types::{PolicyName, RepositoryName, VmName};

/// What a policy does to a VM, in the order in which a run does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    /// The command of the policy makes a restore point.
    Backup,
    /// Points that no rule keeps are removed.
    Forget,
    /// Layers that no point needs by itself are merged.
    Merge,
    /// Points are copied to another repository.
    Copy,
    /// Points are verified.
    Verify,
}

impl ActionKind {
    /// All kinds, in the order of a run.
    pub const ALL: [Self; 5] = [
        Self::Backup,
        Self::Forget,
        Self::Merge,
        Self::Copy,
        Self::Verify,
    ];

    /// The spelling in sidecars and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Forget => "forget",
            Self::Merge => "merge",
            Self::Copy => "copy",
            Self::Verify => "verify",
        }
    }
}

/// The results of all actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRuns {
    /// Schema number, 1.
    pub schema: u32,
    /// The last results.
    pub runs: Vec<PolicyRun>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How an action has ended lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRun {
    /// The policy.
    pub policy: PolicyName,
    /// The VM.
    pub vm: VmName,
    /// The action.
    pub action: ActionKind,
    /// The repository to which it copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RepositoryName>,
    /// When it began last.
    pub attempted_at: Timestamp,
    /// When it last began and succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded_at: Option<Timestamp>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The machine that runs the policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Schema number, 1.
    pub schema: u32,
    /// Its id: a hash of `/etc/machine-id`, or of the host's name where there is none.
    pub machine: String,
    /// The name of the host, for people.
    pub host: String,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicyRuns {
    /// The last result of an action.
    #[must_use]
    pub fn find(
        &self,
        policy: &PolicyName,
        vm: &VmName,
        action: ActionKind,
        to: Option<&RepositoryName>,
    ) -> Option<&PolicyRun> {
        self.runs.iter().find(|run| {
            run.action == action
                && run.policy.same_as(policy)
                && run.vm.same_as(vm)
                && run.to.as_ref() == to
        })
    }

    /// Records a result in place of the one of the same action. A failure keeps the time of the last success.
    pub fn note(&mut self, run: PolicyRun) {
        let is_it = |known: &&mut PolicyRun| {
            known.action == run.action
                && known.policy.same_as(&run.policy)
                && known.vm.same_as(&run.vm)
                && known.to == run.to
        };
        match self.runs.iter_mut().find(is_it) {
            Some(known) => {
                let before = known.succeeded_at;
                *known = run;
                if known.failure.is_some() {
                    known.succeeded_at = before;
                }
            }
            None => self.runs.push(run),
        }
    }
}

impl Sidecar for PolicyRuns {
    const WHAT: &'static str = "record of the policies' runs";
    const SCHEMA: u32 = 1;
}

impl Sidecar for Runner {
    const WHAT: &'static str = "name of the machine that runs the policies";
    const SCHEMA: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::{ActionKind, PolicyRun, PolicyRuns};
    use crate::repo::sidecar::Unknown;

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success() {
        let run = |at: i64, failure: Option<&str>| PolicyRun {
            policy: "nightly".parse().unwrap(),
            vm: "web01".parse().unwrap(),
            action: ActionKind::Copy,
            to: Some("offsite".parse().unwrap()),
            attempted_at: jiff::Timestamp::from_second(at).unwrap(),
            succeeded_at: failure
                .is_none()
                .then(|| jiff::Timestamp::from_second(at).unwrap()),
            failure: failure.map(str::to_owned),
            unknown: Unknown::new(),
        };
        let mut runs = PolicyRuns::default();
        runs.note(run(10, None));
        runs.note(run(20, Some("the target is away")));
        assert_eq!(runs.runs.len(), 1);
        let found = &runs.runs[0];
        assert_eq!(found.attempted_at.as_second(), 20);
        assert_eq!(found.succeeded_at.map(|at| at.as_second()), Some(10));
        runs.note(run(30, None));
        assert_eq!(runs.runs[0].failure, None);
        // Another VM, another target and another action are other actions.
        for (n, change) in [0, 1, 2].into_iter().enumerate() {
            let mut other = run(5, None);
            match change {
                0 => other.vm = "db01".parse().unwrap(),
                1 => other.to = None,
                _ => other.action = ActionKind::Verify,
            }
            runs.note(other);
            assert_eq!(runs.runs.len(), n + 2);
        }
        let nightly = "NIGHTLY".parse().unwrap();
        let web01 = "web01".parse().unwrap();
        let found = runs.find(&nightly, &web01, ActionKind::Copy, None);
        assert_eq!(found.unwrap().attempted_at.as_second(), 5);
    }
}
