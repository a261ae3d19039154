//! `state/retention.json`: what the last run of retention has kept of a VM.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Sidecar, Unknown};
use crate::types::PointId;

/// What the last run of retention has kept of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retained {
    /// Schema number, 1.
    pub schema: u32,
    /// When it ran.
    pub ran_at: Timestamp,
    /// The points that it has kept, by ascending `seq`.
    pub kept: Vec<PointId>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Retained {
    const WHAT: &'static str = "record of what retention has kept";
    const SCHEMA: u32 = 1;
}
