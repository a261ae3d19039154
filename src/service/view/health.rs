//! How a repository stands, for one caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::View;
use super::capacity::CapacityAnswer;
use super::policy::StandingAnswer;
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::health::VmHealth;
use crate::service::look::{Look, LookLimits};
use crate::types::{PointName, RepositoryName, VmName};

/// LIMIT: age of a look that serves a request (ours: a page that is loaded again after a change shows it; the sizes of files are older).
const LOOK_AGE_MAX: Duration = Duration::from_secs(2);
/// LIMIT: how long a request waits for a look.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a repository stands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StatusAnswer {
    /// The repository.
    pub repository: RepositoryName,
    /// `ok`, `unmet` (a policy), `late`, or `damaged`.
    pub verdict: String,
    /// The verdict as one sentence.
    pub summary: String,
    /// The VMs, those first that need somebody.
    pub vms: Vec<StatusVm>,
    /// Room; `null` for a caller that may not see all of the repository.
    pub capacity: Option<CapacityAnswer>,
}

/// How a VM stands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StatusVm {
    /// The VM.
    pub vm: VmName,
    /// `ok`, `damaged`, `unmet`, `unprotected` (no point), or `too-deep`.
    pub state: String,
    /// The number of its restore points.
    pub points: usize,
    /// Its last point.
    pub last: Option<PointName>,
    /// When the capture of that point began.
    pub last_at: Option<Timestamp>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// Layers of its deepest chain.
    pub depth: Option<u32>,
    /// Bytes of layers that no point names, and that later points need.
    pub hidden_bytes: u64,
    /// Since when the last point is known to be sound.
    pub checked_at: Option<Timestamp>,
    /// Points of which not everything was verified.
    pub unchecked_points: usize,
    /// The damage that is known.
    pub damage: Vec<String>,
    /// How it stands with its policies; `null` without one.
    pub policy: Option<StandingAnswer>,
}

impl StatusVm {
    fn of(vm: &VmHealth, policy: Option<StandingAnswer>) -> Self {
        let is_met = policy
            .as_ref()
            .is_none_or(|policy| policy.problems.is_empty());
        let state = match (vm.damage.is_empty(), vm.last.is_some(), is_met) {
            (false, ..) => "damaged",
            (true, false, _) => "unprotected",
            (true, true, false) => "unmet",
            (true, true, true) if vm.is_too_deep => "too-deep",
            (true, true, true) => "ok",
        };
        Self {
            vm: vm.vm.clone(),
            state: state.to_owned(),
            points: vm.points,
            last: vm.last.as_ref().map(|last| last.point.clone()),
            last_at: vm.last.as_ref().map(|last| last.captured_at),
            age_seconds: vm.last.as_ref().map(|last| last.age_seconds),
            depth: vm.depth,
            hidden_bytes: vm.hidden_bytes,
            checked_at: vm.checked_at,
            unchecked_points: vm.unchecked_points,
            damage: vm.damage.clone(),
            policy,
        }
    }

    fn rank(&self) -> u32 {
        match self.state.as_str() {
            "damaged" => 0,
            "unprotected" => 1,
            "unmet" => 2,
            "too-deep" => 3,
            _ => 4,
        }
    }
}

impl View {
    pub(super) fn look(&self) -> Result<Arc<Look>> {
        let limits = LookLimits {
            look_age_max: LOOK_AGE_MAX,
            ..LookLimits::default()
        };
        let looks = self.served().looks();
        looks.begin(&self.served().sessions().engine().owner, &limits);
        looks.wait(Instant::now() + PATIENCE).ok_or_else(|| {
            Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{} could not be looked at; the daemon's log tells why",
                    self.name()
                ),
            )
        })
    }

    /// How the repository stands, as far as the caller may see it: the verdict is over the VMs that the caller may read.
    ///
    /// # Errors
    /// `Io`.
    pub fn status(&self) -> Result<StatusAnswer> {
        Ok(self.status_by(self.look()?.as_ref()))
    }

    /// The same, and when the next backup of each VM is due.
    ///
    /// # Errors
    /// `LimitExceeded`, `Io`.
    pub fn status_with_next(&self) -> Result<(StatusAnswer, BTreeMap<VmName, Timestamp>)> {
        let look = self.look()?;
        Ok((self.status_by(&look), self.next_backups(&look)?))
    }

    /// How a VM stands; `None` for one of which the look knows nothing yet.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    pub fn status_of(&self, vm: &VmName) -> Result<Option<StatusVm>> {
        let name = self.vm_for(vm, Right::Read)?.name.clone();
        let look = self.look()?;
        let mut all = look.health.vms.iter();
        let health = all.find(|health| health.vm == name);
        let standing = look.standings.get(&name).map(StandingAnswer::of);
        Ok(health.map(|health| StatusVm::of(health, standing)))
    }

    fn status_by(&self, look: &Look) -> StatusAnswer {
        let sees_all = self.may_all(Right::Read);
        let mut health = match sees_all {
            true => look.health.clone(),
            false => look.health.only(|vm| self.may(Right::Read, vm)),
        };
        let is_unmet = |vm: &VmName| look.standings.get(vm).is_some_and(|one| !one.is_met());
        let unmet = health.vms.iter().map(|vm| &vm.vm);
        let unmet = unmet.filter(|vm| is_unmet(vm)).map(ToString::to_string);
        health.judge(unmet.collect());
        let standing = |vm: &VmName| look.standings.get(vm).map(StandingAnswer::of);
        let mut vms: Vec<StatusVm> = health
            .vms
            .iter()
            .map(|vm| StatusVm::of(vm, standing(&vm.vm)))
            .collect();
        vms.sort_by(|a, b| (a.rank(), &a.vm).cmp(&(b.rank(), &b.vm)));
        StatusAnswer {
            repository: self.name().clone(),
            verdict: health.verdict.as_str().to_owned(),
            summary: health.to_string(),
            vms,
            capacity: match sees_all {
                true => Some(CapacityAnswer::of(&look.content)),
                false => None,
            },
        }
    }
}
