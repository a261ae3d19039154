//! An action that is due.

use jiff::Timestamp;
use serde::Serialize;

use crate::repo::sidecar::policy_run::ActionKind;
use crate::types::{PolicyName, RepositoryName, VmName};

/// An action that is due of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// What is done.
    pub action: ActionKind,
    /// The policy.
    pub policy: PolicyName,
    /// The VM.
    pub vm: VmName,
    /// The repository to which it copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<RepositoryName>,
    /// Since when it is due.
    pub due_since: Timestamp,
    /// Why, in words.
    pub why: String,
    /// Why it cannot be done; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// The points that wait for it, where it is about points.
    pub points: usize,
    /// Whether layers are merged at any price, because a chain is too deep.
    #[serde(skip)]
    pub at_any_price: bool,
}
