//! Forgetting restore points by rules: the plan, and what came of it.
//!
//! Merging what the remaining points do not need any more is no part of it: most of the space of forgotten points comes back with the
//! next merge, of `restorefs forget` or of a policy.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::policy::{UNCOPIED_GO, spare_owed};
use crate::jobs::retention::{Choice, Reason, Rules, VmPlan, Zone};
use crate::repo::selector::Which;
use crate::repo::sidecar::policy::Keeping;
use crate::service::answer::KeptPoint;
use crate::service::{LocalService, Service};
use crate::task::TaskKind;
use crate::types::{PointName, VmName};

/// LIMIT: points that a request names.
const POINTS_MAX: usize = 10_000;

/// A request to forget restore points of a VM: those that it names, those that no rule keeps, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForgetRequest {
    /// Points by name, `latest`, or `latest~N`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<String>,
    /// The rules of which one must keep a point that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub keep: Option<Keeping>,
    /// The time zone of the rules (`Europe/Berlin`); UTC where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether every point goes.
    pub all: bool,
    /// Whether the VM is left alone when more than half of what the last run has kept would go.
    pub unattended: bool,
    /// Whether nothing is changed.
    pub dry_run: bool,
}

/// A point of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedPoint {
    /// The point.
    pub point: PointName,
    /// Whether it stays.
    pub keep: bool,
    /// Every reason.
    pub reasons: Vec<String>,
}

/// Answer to [`ForgetRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForgetPlan {
    /// The VM.
    pub vm: VmName,
    /// The points that the request is about, by ascending `seq`. What was to go and could not stays here, with the reason.
    pub points: Vec<PlannedPoint>,
    /// Bytes of layers that nothing needs any more once the points are gone.
    pub freed_bytes: u64,
    /// Why the VM is left alone: none of its points goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<String>,
    /// Points that are no longer listed; none of a dry run.
    pub forgotten: Vec<PointName>,
    /// Points that could not be forgotten.
    pub kept: Vec<KeptPoint>,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// Points that are no longer listed.
    pub forgotten: Vec<PointName>,
    /// Points that could not be forgotten.
    pub kept: Vec<KeptPoint>,
    /// Those of them that are failures: a point in use is skipped by rules, and a failure where it was named.
    pub failures: Vec<Error>,
}

/// Forgets the points that the plan does not keep, and notes in the plan those that could not be forgotten. `is_retention`: the plan is
/// one of rules.
///
/// # Errors
/// As [`Service::forget`].
pub fn forget_planned(
    service: &dyn Service,
    plan: &mut VmPlan,
    is_retention: bool,
) -> Result<Forgotten> {
    let gone = plan.gone();
    // Retention records what it has kept also where nothing goes.
    if plan.left_alone.is_some() || (gone.is_empty() && !is_retention) {
        return Ok(Forgotten::default());
    }
    let answer = service.forget(&plan.vm, &gone, is_retention)?;
    let mut failures = Vec::new();
    let mut kept = Vec::new();
    for one in &answer.kept {
        let error = Error::from(one.problem.clone());
        let reason = match error.kind() {
            ErrorKind::Busy => Reason::Used(error.what().to_owned()),
            _ => Reason::Failed(error.what().to_owned()),
        };
        kept.push((one.point.clone(), reason));
        if !is_retention || error.kind() != ErrorKind::Busy {
            failures.push(error);
        }
    }
    if !kept.is_empty() {
        plan.note_kept(kept);
    }
    Ok(Forgotten {
        forgotten: answer.forgotten,
        kept: answer.kept,
        failures,
    })
}

impl ForgetRequest {
    /// Which points go.
    fn choice(&self) -> Result<Choice> {
        let is_ruled = self.keep.is_some() || self.zone.is_some();
        let refuse = |what: &str, other: &str| {
            Err(Error::invalid(format!(
                "{what}, which does not go together with {other}"
            )))
        };
        if !self.points.is_empty() {
            let what = "the request names restore points";
            if self.points.len() > POINTS_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("a request names at most {POINTS_MAX} restore points"),
                ));
            }
            return match (is_ruled, self.all, self.unattended) {
                (true, ..) => refuse(what, "rules"),
                (_, true, _) => refuse(what, "all"),
                (.., true) => refuse(what, "unattended"),
                _ => {
                    let which = self.points.iter().map(|text| text.parse::<Which>());
                    which.collect::<Result<_>>().map(Choice::Points)
                }
            };
        }
        if self.all {
            let what = "the request forgets every restore point";
            return match (is_ruled, self.unattended) {
                (true, _) => refuse(what, "rules"),
                (_, true) => refuse(what, "unattended"),
                _ => Ok(Choice::All),
            };
        }
        let keep = self.keep.clone().unwrap_or_default();
        // A rule of a later release, or a mistyped one, would keep points.
        if let Some((name, _)) = keep.unknown.iter().next() {
            return Err(Error::invalid(format!(
                "there is no rule \"{}\"",
                name.escape_debug()
            )));
        }
        let zone: Zone = self
            .zone
            .as_deref()
            .map_or_else(|| Ok(Zone::default()), str::parse)?;
        let rules = Rules::of(&keep, zone)?.require(is_ruled);
        rules.map(Choice::Rules).map_err(|e| {
            e.advise("give rules (keep: {\"daily\": 7, \"weekly\": 4}), name points, or forget every point of the VM (all)")
        })
    }
}

impl LocalService {
    /// Forgets restore points of a VM by rules or by name; of a dry run the answer is the plan alone. With rules, points that lack a copy
    /// that a policy owes are spared, and the owner records what retention has kept.
    ///
    /// # Errors
    /// `NotFound` (VM, point), `PermissionDenied`: a dry run needs the right to read the VM, else that to manage it. `InvalidInput` for
    /// rules that keep nothing, or what does not go together; `Corrupt` when it is not known which copies are owed; as
    /// [`Service::forget`].
    pub fn forget_by(&self, vm: &VmName, request: &ForgetRequest) -> Result<ForgetPlan> {
        let right = match request.dry_run {
            true => Right::Read,
            false => Right::Manage,
        };
        let planned = self
            .demand_to("remove restore points", right, vm)
            .and_then(|()| self.planned(vm, request));
        if planned.is_err() && !request.dry_run {
            // What was planned is noted when it is done.
            let what = match (request.points.is_empty(), request.all) {
                (false, _) => format!("{} points", request.points.len()),
                (true, true) => "all points".to_owned(),
                (true, false) => "points by rules".to_owned(),
            };
            self.note_result("forget", vm, &what, &planned);
        }
        let (mut plan, is_retention) = planned?;
        let done = match request.dry_run {
            true => Forgotten::default(),
            false => forget_planned(self, &mut plan, is_retention)?,
        };
        let points = plan.points.iter().map(|verdict| PlannedPoint {
            point: verdict.point.clone(),
            keep: verdict.keep,
            reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        });
        Ok(ForgetPlan {
            points: points.collect(),
            freed_bytes: plan.freed_bytes,
            left_alone: plan.left_alone,
            forgotten: done.forgotten,
            kept: done.kept,
            vm: plan.vm,
        })
    }

    /// The plan, and whether rules made it.
    fn planned(&self, vm: &VmName, request: &ForgetRequest) -> Result<(VmPlan, bool)> {
        let choice = request.choice()?;
        let vm = &self.registry().engine().owner.repository().spelled(vm)?;
        let is_retention = matches!(choice, Choice::Rules(_));
        let planned = self.plan(vm, choice, request.unattended);
        if let Err(e) = &planned
            && !request.dry_run
            && let Err(lost) = self.note_failure(TaskKind::Forget, Some(vm), &e.report())
        {
            tracing::warn!(vm = %vm, error = %lost.report(), "the history does not have this failure");
        }
        Ok((planned?, is_retention))
    }

    fn plan(&self, vm: &VmName, choice: Choice, is_unattended: bool) -> Result<VmPlan> {
        let owner = &self.registry().engine().owner;
        let mut chosen = [(vm.clone(), choice)];
        if matches!(chosen, [(_, Choice::Rules(_))]) && spare_owed(owner.repository(), &mut chosen)?
        {
            tracing::warn!(vm = %vm, "{UNCOPIED_GO}");
        }
        let [(vm, choice)] = &chosen;
        VmPlan::of_vm(
            owner.repository(),
            vm,
            choice,
            is_unattended,
            owner.clock().now(),
        )
    }
}
