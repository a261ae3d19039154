//! Policies in answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::View;
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::policy::{Standing, copy_rule};
use crate::repo::policy::PolicyChange;
use crate::repo::register::Register;
use crate::repo::sidecar::policy::{Keeping, Policy, Requirement};
use crate::repo::sidecar::{Sidecar, Unknown};
use crate::types::{PolicyName, RepositoryName, VmName};

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PolicyAnswer {
    /// Its name.
    pub name: PolicyName,
    /// What it says, as in `policies/<name>.json`; `null` when it cannot be read.
    #[schema(value_type = Option<Object>)]
    pub policy: Option<Value>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// What a policy says, without the command that makes backups: a command runs on the daemon's machine, and is set there alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTerms {
    /// Names and patterns (`*`, `?`) of the VMs.
    #[schema(min_items = 1)]
    pub vms: Vec<String>,
    /// The time zone of the schedule and of the rules (`Europe/Berlin`); UTC where it is absent.
    #[serde(default)]
    pub zone: Option<String>,
    /// When backups are due: `hourly`, `daily 02:00`, `weekly mon 02:00`, `every 6h`.
    #[serde(default)]
    pub schedule: Option<String>,
    /// The rules of retention: `{"daily": 7, "weekly": 4}`; without them nothing is forgotten.
    #[serde(default)]
    pub keep: Option<Keeping>,
    /// Where copies go.
    #[serde(default)]
    pub copies: Vec<CopyTerm>,
    /// What the copies of a point must amount to: `{"copies": 3, "media": 2, "offsite": 1}`.
    #[serde(default)]
    pub require: Option<Requirement>,
    /// The longest time in seconds for which a point stays unverified.
    #[serde(default)]
    pub verify_every_seconds: Option<u64>,
    /// The greatest age in seconds of a VM's last point.
    #[serde(default)]
    pub rpo_seconds: Option<u64>,
    /// Layers of a chain beyond which hidden ones are merged at any price.
    #[serde(default)]
    pub max_depth: Option<u32>,
}

/// A repository to which points are copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyTerm {
    /// Its name in the register.
    pub to: RepositoryName,
    /// Seconds from the commit of a point until its copy is due.
    #[serde(default)]
    pub after_seconds: u64,
}

/// How a VM stands with its policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StandingAnswer {
    /// The VM.
    pub vm: VmName,
    /// The policies that apply to it.
    pub policies: Vec<PolicyName>,
    /// The age in seconds that its last point may have.
    pub rpo_seconds: Option<u64>,
    /// Whether its last point is younger; `null` where no policy asks for it.
    pub rpo_met: Option<bool>,
    /// Copies of points that are due and missing.
    pub copies_due: usize,
    /// Points that were not verified in time.
    pub verify_due: usize,
    /// Why a policy is not met; empty where all are.
    pub problems: Vec<String>,
    /// Actions whose last attempt failed.
    pub failures: Vec<String>,
}

impl StandingAnswer {
    pub(super) fn of(standing: &Standing) -> Self {
        Self {
            vm: standing.vm.clone(),
            policies: standing.policies.clone(),
            rpo_seconds: standing.rpo_seconds,
            rpo_met: standing.rpo_met,
            copies_due: standing.copies_due,
            verify_due: standing.verify_due,
            problems: standing.problems.clone(),
            failures: standing.failures.clone(),
        }
    }
}

fn encode(policy: &Policy) -> Result<serde_json::Value> {
    serde_json::to_value(policy)
        .map_err(|e| Error::new(ErrorKind::Io, "the policy cannot be encoded").caused_by(e))
}

impl View {
    /// All policies, by name.
    ///
    /// # Errors
    /// `PermissionDenied` for a caller that may not read all VMs: a policy names VMs; `LimitExceeded`, `Io`.
    pub fn policies(&self) -> Result<Vec<PolicyAnswer>> {
        if !self.may_all(Right::Read) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "policies are shown to callers that may read every VM",
            ));
        }
        let stored = self.repository().policies()?.into_iter();
        let answers = stored.map(|stored| {
            let (policy, error) = match stored.policy {
                Ok(policy) => (Some(encode(&policy)?), None),
                Err(e) => (None, Some(e.report())),
            };
            Ok(PolicyAnswer {
                name: stored.name,
                policy,
                error,
            })
        });
        answers.collect()
    }

    /// One policy.
    ///
    /// # Errors
    /// `NotFound`; as [`View::policies`].
    pub fn policy(&self, name: &PolicyName) -> Result<PolicyAnswer> {
        let mut all = self.policies()?.into_iter();
        all.find(|policy| policy.name.same_as(name))
            .ok_or_else(|| Error::not_found(format!("there is no policy {name}")))
    }

    /// Writes a policy; returns whether it is new.
    ///
    /// # Errors
    /// `InvalidInput` for terms that contradict themselves or overlap with another policy; `NotFound` (a repository to copy to);
    /// `NotPermitted` for a policy with a command, which would be lost; as [`Service::change_policy`](crate::service::Service).
    pub fn put_policy(
        &self,
        name: &PolicyName,
        terms: PolicyTerms,
    ) -> Result<(bool, PolicyAnswer)> {
        // Which policies and repositories there are is not for everybody.
        self.local().demand_policies(name)?;
        let mut stored = self.repository().policies()?.into_iter();
        let known = match stored.find(|stored| stored.name.same_as(name)) {
            Some(stored) => Some(stored.policy?),
            None => None,
        };
        if known
            .as_ref()
            .is_some_and(|policy| !policy.command.is_empty())
        {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                "the policy has a command, which would be lost",
            )
            .advise("change it on the machine: restorefs policy edit"));
        }
        let register = Register::load()?;
        let before = known.as_ref().map_or(&[][..], |policy| &policy.copies);
        let copies = terms.copies.iter().map(|copy| {
            let after = copy.after_seconds;
            copy_rule(self.repository(), &register, &copy.to, after, before)
        });
        let copies = copies.collect::<Result<_>>()?;
        let is_new = known.is_none();
        let policy = Policy {
            schema: Policy::SCHEMA,
            name: known
                .as_ref()
                .map_or_else(|| name.clone(), |policy| policy.name.clone()),
            vms: terms.vms,
            zone: terms.zone,
            created_at: known
                .as_ref()
                .map_or_else(|| self.now(), |policy| policy.created_at),
            schedule: terms.schedule,
            command: Vec::new(),
            keep: terms.keep,
            copies,
            require: terms.require,
            verify_every_seconds: terms.verify_every_seconds,
            rpo_seconds: terms.rpo_seconds,
            max_depth: terms.max_depth,
            unknown: known.map_or_else(Unknown::new, |policy| policy.unknown),
        };
        // Who may write and not read gets back what it wrote.
        let answer = PolicyAnswer {
            name: policy.name.clone(),
            policy: Some(encode(&policy)?),
            error: None,
        };
        let policy = Box::new(policy);
        self.service()
            .change_policy(&PolicyChange::Put { policy, is_new })?;
        Ok((is_new, answer))
    }
}
