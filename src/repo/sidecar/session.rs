//! `session.json`: a restore point being written. With the `<disk>.map` logs it is all that a session
//! needs to go on after a crash.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::point::{Kind, PointParent};
use super::{Sidecar, Unknown};
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, LayerId, PointName, SessionId, Token, VmName};

/// Seconds after which an idle session ends by itself, by default (24 h).
pub const TTL_SECONDS_DEFAULT: u64 = 24 * 3600;

/// The sidecar of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub session_id: SessionId,
    /// The VM.
    pub vm: VmName,
    /// Name of the session.
    pub name: PointName,
    /// Name of the point that it becomes, when one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointName>,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// Seconds without activity after which it ends by itself.
    pub ttl_seconds: u64,
    /// Whether it goes on after a crash; what a killed `restorefs backup` left does not.
    pub resumable: bool,
    /// The point that it is compared with, which stays as long as the session is open.
    pub parent: Option<PointParent>,
    /// What a client over TCP has to know beside the name; a session without one is not served there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// All disks of the VM.
    pub disks: Vec<SessionDisk>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One disk of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionDisk {
    /// Name.
    pub name: DiskName,
    /// Stable key.
    pub key: String,
    /// Slot of the layer that is being written.
    pub layer: Slot,
    /// Its identity.
    pub layer_id: LayerId,
    /// How it relates to its parent.
    pub kind: Kind,
    /// Why it is full although it has a predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Virtual size in bytes at begin, a multiple of 512.
    pub size_bytes: u64,
    /// Size of the source in bytes at begin.
    pub source_bytes: u64,
    /// The parent's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentDisk>,
}

/// What a session needs to know of a parent's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentDisk {
    /// Slot of its layer.
    pub layer: Slot,
    /// Content that it had when the session began.
    pub content_root: Digest,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Size of its source in bytes.
    pub source_bytes: u64,
    /// Bytes that are not zero.
    pub data_bytes: u64,
}

impl Sidecar for Session {
    const WHAT: &'static str = "session sidecar";
    const SCHEMA: u32 = 1;
}
