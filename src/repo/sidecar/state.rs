//! `state/<point_id>.json`: facts about a point that change after its commit: tags, checks, found volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plain::plain;
use super::{Sidecar, Unknown, member};
use crate::types::PointId;

/// The facts about a point that can change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Schema number, 1.
    pub schema: u32,
    /// The point.
    pub point_id: PointId,
    /// Labels for people.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Whether somebody keeps the point by hand: retention does not forget it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Volumes found by probing; `null` until probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Value>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for State {
    const WHAT: &'static str = "state of the point";
    const SCHEMA: u32 = 1;

    fn parse_plain(object: &[u8]) -> Option<Self> {
        member::check(object, Self::WHAT).ok()?;
        let plain = serde_json::from_slice::<PlainState>(object).ok()?;
        Some(Self::from(plain)).filter(|state| state.schema <= Self::SCHEMA)
    }
}

// The names in the volumes are compared beforehand, as in any sidecar.
plain!(PlainState of State {
    schema: u32,
    point_id: PointId,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    kept: bool,
    #[serde(default)]
    volumes: Option<Value>,
});
