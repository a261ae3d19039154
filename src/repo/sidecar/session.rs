//! `session.json`: a restore point that is being written. The session needs only this file and the
//! `<disk>.map` logs to continue after a crash.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::arriving::Arriving;
use super::point::{Kind, PointParent};
use super::{Sidecar, Unknown};
use crate::qcow2::Compression;
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, JobId, LayerId, PointName, SessionId, Token, VmName};

/// Default time in seconds after which an idle session ends by itself (24 h).
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
    /// Name of the future point, when the client requested one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointName>,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// Seconds without activity after which the session ends by itself.
    pub ttl_seconds: u64,
    /// Whether the session can continue after a crash; a session of `restorefs backup` cannot.
    pub resumable: bool,
    /// The point with which it is compared. The parent stays as long as the session is open.
    pub parent: Option<PointParent>,
    /// Serial of its inode numbers.
    #[serde(default)]
    pub serial: u32,
    /// Secret that a client over TCP must present beside the name. A session without a token is not served
    /// over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The parent's disks that the VM does not have any more, where the begin named all that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<DiskName>,
    /// All disks of the VM.
    pub disks: Vec<SessionDisk>,
    /// Declarations about the disks so far.
    #[serde(default, skip_serializing_if = "Declared::is_empty")]
    pub declared: Declared,
    /// Whether the client sends only changes: the commit then needs to know their starting point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed_only: bool,
    /// How its layers are compressed.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
    /// Whether its removal has begun: then it can only be aborted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dismantled: bool,
    /// The point that is copied into it from another repository; such a session is written by nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving: Option<Arriving>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Declarations by the writer of a session about its disks, before the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Declared {
    /// Change ids.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub change_ids: BTreeMap<DiskName, String>,
    /// The change ids from which the changes were counted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that are equal to the parent's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<DiskName>,
    /// Disks that the point no longer has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<DiskName>,
    /// New disks whose bytes are raw content, although they begin like an image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub raw: Vec<DiskName>,
    /// Members that this release does not know.
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
    /// Number within the session. It is not given again while the same process holds the session open.
    #[serde(default)]
    pub number: u32,
    /// Name of its log without the suffix, when it differs from the disk's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Name of the file in the tree, while it is written beside the disk that it will replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporary: Option<String>,
    /// Whether the file was removed in the tree: the session cannot be committed until the disk is written
    /// again or declared as gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlinked: bool,
    /// Whether the parent point has the disk, even when it is compared with nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    /// Stable key.
    pub key: String,
    /// Slot of the layer that is being written.
    pub layer: Slot,
    /// Identity of that layer.
    pub layer_id: LayerId,
    /// Relation to the parent's disk.
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
    /// Members that this release does not know.
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

/// The parent's disk, as far as a session needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentDisk {
    /// Its name, when it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DiskName>,
    /// Slot of its layer.
    pub layer: Slot,
    /// Content root when the session began.
    pub content_root: Digest,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Size of its source in bytes.
    pub source_bytes: u64,
    /// Bytes of it that are not zero.
    pub data_bytes: u64,
    /// The change id at which it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Session {
    /// The slots that the session names, but for those of its parent.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let arriving = self.arriving.iter().flat_map(Arriving::slots);
        self.disks.iter().map(|disk| &disk.layer).chain(arriving)
    }

    /// Whether it is a copy with which nobody has gone on for its ttl.
    #[must_use]
    pub fn is_expired_copy(&self, now: Timestamp) -> bool {
        let arriving = self.arriving.as_ref();
        arriving.is_some_and(|arriving| arriving.is_expired(self.ttl_seconds, now))
    }

    /// The id of the session's task and, after its end, of its job.
    #[must_use]
    pub const fn job_id(&self) -> JobId {
        JobId::from_bytes(self.session_id.to_bytes())
    }
}

impl Sidecar for Session {
    const WHAT: &'static str = "session sidecar";
    const SCHEMA: u32 = 1;
}
