//! What is due, case by case, and a year of it.

mod calendar;
mod due;
mod standing;
mod terms;
mod year;

use jiff::{SignedDuration, Timestamp};

use super::{PointFacts, Scene, Target, Terms, VmFacts};
use crate::repo::sidecar::policy::{CopyRule, Keeping, Policy};
use crate::repo::sidecar::policy_run::{ActionKind, PolicyRun};
use crate::repo::sidecar::{Sidecar, Unknown};
use crate::types::{Digest, PointId, RepositoryId, VmName};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// A policy of this name for these VMs, which does nothing yet.
fn policy(name: &str, vms: &[&str]) -> Policy {
    Policy {
        schema: Policy::SCHEMA,
        name: name.parse().unwrap(),
        vms: vms.iter().map(|text| (*text).to_owned()).collect(),
        zone: None,
        created_at: at("2026-01-01T00:00:00Z"),
        schedule: None,
        command: Vec::new(),
        keep: None,
        copies: Vec::new(),
        require: None,
        verify_every_seconds: None,
        rpo_seconds: None,
        max_depth: None,
        unknown: Unknown::new(),
    }
}

/// The policy of the manual: a backup each night, a week of points, a copy an hour later, verified each month.
fn nightly(offsite: RepositoryId) -> Policy {
    Policy {
        schedule: Some("daily 02:00".to_owned()),
        command: vec!["backup-vm".to_owned()],
        keep: Some(Keeping {
            daily: 7,
            ..Keeping::default()
        }),
        copies: vec![CopyRule {
            to: "offsite".parse().unwrap(),
            repository_id: offsite,
            after_seconds: 3_600,
            unknown: Unknown::new(),
        }],
        verify_every_seconds: Some(30 * 86_400),
        rpo_seconds: Some(26 * 3_600),
        ..policy("nightly", &["web*"])
    }
}

fn offsite(id: RepositoryId) -> Target {
    Target {
        name: "offsite".parse().unwrap(),
        id,
        media: Some("nas".to_owned()),
        offsite: true,
    }
}

fn vm(name: &str) -> VmFacts {
    VmFacts::absent(name.parse().unwrap())
}

fn point(captured_at: Timestamp) -> PointFacts {
    PointFacts {
        point_id: PointId::random(),
        point_blake3: Digest::of(b"point"),
        captured_at,
        committed_at: captured_at,
        is_damaged: false,
        checked_at: None,
        copies: Vec::new(),
        gone: Vec::new(),
    }
}

fn scene(policies: &[Policy], vms: Vec<VmFacts>) -> Scene {
    Scene {
        terms: policies.iter().map(|one| Terms::of(one).unwrap()).collect(),
        vms,
        max_depth: 500,
        ..Scene::default()
    }
}

/// The result of an action of the policy `nightly`.
fn ran(vm: &VmName, action: ActionKind, began: Timestamp, failure: Option<&str>) -> PolicyRun {
    PolicyRun {
        policy: "nightly".parse().unwrap(),
        vm: vm.clone(),
        action,
        to: (action == ActionKind::Copy).then(|| "offsite".parse().unwrap()),
        attempted_at: began,
        succeeded_at: failure.is_none().then_some(began),
        failure: failure.map(str::to_owned),
        unknown: Unknown::new(),
    }
}

/// What is due: `backup web01 since 2026-11-30T02:00:00Z`.
fn due(scene: &Scene, now: &str) -> Vec<String> {
    let plan = scene.plan(at(now)).into_iter();
    plan.map(|one| format!("{} {} since {}", one.action.as_str(), one.vm, one.due_since))
        .collect()
}
