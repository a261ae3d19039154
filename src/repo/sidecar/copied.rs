//! Copies at other repositories: of a point, where it is; of a VM, from where it came.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Unknown;
use super::plain::plain;
use crate::types::RepositoryId;

/// A copy of a point at another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCopy {
    /// The repository that has it.
    pub repository_id: RepositoryId,
    /// When the point was committed there.
    pub at: Timestamp,
    /// When the other repository was last asked for it and had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// When it was first found that the other repository, by its own rules, does not have it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Timestamp>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

plain!(PlainCopy of PointCopy {
    repository_id: RepositoryId,
    at: Timestamp,
    #[serde(default)]
    verified_at: Option<Timestamp>,
    #[serde(default)]
    gone_at: Option<Timestamp>,
});

/// The repository from which a VM is copied. The VM takes no session until it is adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The other repository.
    pub repository_id: RepositoryId,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
