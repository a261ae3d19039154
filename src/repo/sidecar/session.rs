//! `session.json`: a restore point being written. With the `<disk>.map` logs it is all that a session
//! needs to go on after a crash.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::point::{Kind, PointParent};
use super::{Sidecar, Unknown};
use crate::qcow2::Compression;
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
    /// Serial of its inode numbers.
    #[serde(default)]
    pub serial: u32,
    /// What a client over TCP has to know beside the name; a session without one is not served there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// All disks of the VM.
    pub disks: Vec<SessionDisk>,
    /// What was said of the disks so far.
    #[serde(default, skip_serializing_if = "Declared::is_empty")]
    pub declared: Declared,
    /// Whether only changes are sent: the commit then needs to know since when.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed_only: bool,
    /// How its layers are compressed.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
    /// Whether its removal has begun: it can only be aborted then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dismantled: bool,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What whoever writes a session has said of its disks before the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Declared {
    /// Change ids.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub change_ids: BTreeMap<DiskName, String>,
    /// The change ids that changes were counted from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that are the parent's, untouched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<DiskName>,
    /// Disks that the point does not have any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<DiskName>,
    /// New disks whose bytes are a disk's, although they begin as an image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<DiskName>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Declared {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One disk of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionDisk {
    /// Name.
    pub name: DiskName,
    /// Number within the session, not given again while the same process holds it open.
    #[serde(default)]
    pub number: u32,
    /// Name of its log without the suffix, when it is not the disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The name of the file in the tree, while it is written beside the disk that it is to replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporary: Option<String>,
    /// Removed in the tree: the session cannot be committed until it is written again or declared to be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlinked: bool,
    /// Whether the parent point has it, also when it is compared with nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
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
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl SessionDisk {
    /// Name of its log, without the suffix.
    #[must_use]
    pub fn log_name(&self) -> &str {
        self.log.as_deref().unwrap_or_else(|| self.name.as_str())
    }
}

/// What a session needs to know of a parent's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentDisk {
    /// Its name, when it had another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DiskName>,
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
    /// The change id that it was taken at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Session {
    const WHAT: &'static str = "session sidecar";
    const SCHEMA: u32 = 1;
}
