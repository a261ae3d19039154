//! `policies/<name>.json`: what happens to VMs by itself: backup, retention, merging, copies, verification.
//!
//! # Why
//! Schedules, zones and spans are kept as people write them. `jobs::policy` parses them, and refuses what it cannot: a file from
//! elsewhere may have anything.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Sidecar, Unknown};
use crate::types::{PolicyName, RepositoryId, RepositoryName};

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Schema number, 1.
    pub schema: u32,
    /// Its name, which the name of the file repeats.
    pub name: PolicyName,
    /// Names and patterns (`*`, `?`) of the VMs.
    pub vms: Vec<String>,
    /// The time zone of the schedule and of the rules; UTC where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// When the policy was added.
    pub created_at: Timestamp,
    /// When backups begin: `hourly`, `daily 02:00`, `weekly mon 02:00`, `every 6h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The command that makes a backup of one VM: a program and its arguments. Without one, something else makes the backups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The rules of retention; without them nothing is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keeping>,
    /// Where copies go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyRule>,
    /// What the copies of a point must amount to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Requirement>,
    /// The longest time in seconds for which a point stays unverified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_every_seconds: Option<u64>,
    /// The greatest age in seconds of a VM's last point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<u64>,
    /// Layers of a chain beyond which hidden ones are merged at any price; the repository's limit where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Rules of retention as `forget` takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Keeping {
    /// The newest points.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last: u32,
    /// The newest point of each of the newest hours.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hourly: u32,
    /// ... days.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub daily: u32,
    /// ... weeks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weekly: u32,
    /// ... months.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub monthly: u32,
    /// ... years.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub yearly: u32,
    /// All points that are younger: `1y6m`, `14d`, `2d12h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// The newest of each hour among the younger ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_hourly: Option<String>,
    /// ... day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_daily: Option<String>,
    /// ... week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_weekly: Option<String>,
    /// ... month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_monthly: Option<String>,
    /// ... year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_yearly: Option<String>,
    /// Points with one of these tags: `KEY` or `KEY=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Members that this release does not know.
    #[serde(flatten)]
    #[schema(ignore)]
    pub unknown: Unknown,
}

/// A repository to which points are copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRule {
    /// Its name in the register.
    pub to: RepositoryName,
    /// The id that it had when the policy named it. Another repository under that name gets no copies.
    pub repository_id: RepositoryId,
    /// Seconds from the commit of a point until its copy is due.
    #[serde(default, skip_serializing_if = "is_none_seconds")]
    pub after_seconds: u64,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the copies of a point must amount to, the point itself included: 3-2-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requirement {
    /// Copies.
    pub copies: u32,
    /// Kinds of media.
    pub media: u32,
    /// Copies that lie elsewhere.
    pub offsite: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_none_seconds(number: &u64) -> bool {
    *number == 0
}

impl Sidecar for Policy {
    const WHAT: &'static str = "policy";
    const SCHEMA: u32 = 1;
}
