//! `point.json`: facts about the content of a restore point. Written once, never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::plain::PlainPointSidecar;
use super::{Sidecar, Unknown};
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, PointId, PointName, VmId, VmName};

/// How a disk or a point relates to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No parent: the layer holds everything.
    Full,
    /// On the newest point.
    Incremental,
    /// On the last full.
    Differential,
}

impl Kind {
    /// As sidecars spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

/// What a restore point holds of the instant that it was captured at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The guest's filesystems were frozen.
    Filesystem,
    /// One instant, as after a loss of power.
    Crash,
    /// Perhaps bytes of several instants.
    Unknown,
}

/// The sidecar of a restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub point_id: PointId,
    /// Identity of the VM.
    pub vm_id: VmId,
    /// Name of the VM at commit.
    pub vm: VmName,
    /// Name of the point.
    pub name: PointName,
    /// Position in the VM's order, given at commit.
    pub seq: u64,
    /// Full when every disk is, differential when one is, else incremental.
    pub kind: Kind,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// What is known of the instant; absent: nothing was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Why it is `unknown`, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_note: Option<String>,
    /// The point that it was compared with.
    pub parent: Option<PointParent>,
    /// All disks of the VM, from one instant.
    pub disks: Vec<PointDisk>,
    /// Files attached at backup time.
    pub attached: Vec<Attached>,
    /// The release that wrote it.
    pub writer: String,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a point records of its parent point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointParent {
    /// Its identity.
    pub point_id: PointId,
    /// Its name at the time.
    pub name: PointName,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One disk of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointDisk {
    /// Name of the disk.
    pub name: DiskName,
    /// Stable key of the disk (hypervisor's device key or serial; the name when there is none).
    pub key: String,
    /// Slot of its layer.
    pub layer: Slot,
    /// How this disk relates to its parent.
    pub kind: Kind,
    /// Why it is full although it has a predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Virtual size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Size of the source in bytes: what tree and restore show.
    pub source_bytes: u64,
    /// Bytes of the disk that are not zero, in whole clusters.
    pub data_bytes: u64,
    /// Bytes of the clusters that differed from the parent when it was captured.
    pub changed_bytes: u64,
    /// BLAKE3 over size and region hashes.
    pub content_root: Digest,
    /// Content of the parent's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_content_root: Option<Digest>,
    /// Change id that the capture agent gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A file attached to a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// File name below `attached/`.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Point {
    const WHAT: &'static str = "point sidecar";
    const SCHEMA: u32 = 1;

    fn parse_plain(object: &[u8]) -> Option<Self> {
        let plain = serde_json::from_slice::<PlainPointSidecar>(object).ok()?;
        Some(Self::from(plain)).filter(|point| point.schema <= Self::SCHEMA)
    }
}

impl Point {
    /// The disk of that name.
    #[must_use]
    pub fn disk(&self, name: &DiskName) -> Option<&PointDisk> {
        self.disks
            .iter()
            .find(|disk| disk.name.folded() == name.folded())
    }
}
