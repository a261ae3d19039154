//! What a caller asks of a session: one request for each operation, the same at every door.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::origin::Origin;
use crate::qcow2::Compression;
use crate::repo::selector::Which;
use crate::repo::sidecar::point::Consistency;
use crate::repo::sidecar::session::TTL_SECONDS_DEFAULT;
use crate::types::{DiskName, PointName, VmName};

/// One disk as the caller wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRequest {
    /// Name.
    pub name: DiskName,
    /// Size of the source in bytes; by default the parent's.
    #[serde(default)]
    pub source_bytes: Option<u64>,
    /// Stable key of the disk.
    #[serde(default)]
    pub key: Option<String>,
    /// Store everything, compare with nothing.
    #[serde(default)]
    pub full: bool,
}

/// What a session is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRequest {
    /// The VM; made when there is none of that name.
    pub vm: VmName,
    /// Name of the session; by default the point's.
    #[serde(default)]
    pub session: Option<PointName>,
    /// Name of the point; by default the time of capture.
    #[serde(default)]
    pub point: Option<PointName>,
    /// Disks that are new, resized or full. The parent's other disks are in the session all the same.
    #[serde(default)]
    pub disks: Vec<DiskRequest>,
    /// Disks of the parent, by the names that they had there, that the VM does not have any more.
    #[serde(default)]
    pub without: Vec<DiskName>,
    /// All disks full.
    #[serde(default)]
    pub full: bool,
    /// Compare with the last full point instead of the newest.
    #[serde(default)]
    pub differential: bool,
    /// Compare with this point. Naming one also allows a second open session.
    #[serde(default)]
    pub parent: Option<Which>,
    /// Whether only what changed since the parent is sent. The commit then needs the change ids that it changed since.
    #[serde(default)]
    pub changed_only: bool,
    /// The change ids that changes are counted from, as far as they are known now.
    #[serde(default)]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that the caller writes whole: they begin anew by themselves when what they would be compared with is damaged.
    #[serde(default)]
    pub whole: Vec<DiskName>,
    /// Whether it may begin without a disk: they are made later.
    #[serde(default)]
    pub empty: bool,
    /// Seconds without activity after which the session ends by itself.
    #[serde(default = "default_ttl_seconds")]
    pub ttl_seconds: u64,
    /// Whether it goes on after a crash.
    #[serde(default = "yes")]
    pub resumable: bool,
    /// Compression of the layers.
    #[serde(default)]
    pub compression: Compression,
    /// Bytes that are to stay free on the repository's filesystem; by default the engine's.
    #[serde(default)]
    pub low_water_bytes: Option<u64>,
    /// Whether a session that is expected to find no room is refused.
    #[serde(default = "yes")]
    pub checks_room: bool,
    /// What is known of the disks' sources.
    #[serde(default)]
    pub origins: BTreeMap<DiskName, Origin>,
}

const fn default_ttl_seconds() -> u64 {
    TTL_SECONDS_DEFAULT
}

const fn yes() -> bool {
    true
}

impl BeginRequest {
    /// The plainest request for a VM.
    #[must_use]
    pub fn new(vm: VmName) -> Self {
        Self {
            vm,
            session: None,
            point: None,
            disks: Vec::new(),
            without: Vec::new(),
            full: false,
            differential: false,
            parent: None,
            changed_only: false,
            previous_change_ids: BTreeMap::new(),
            whole: Vec::new(),
            empty: false,
            ttl_seconds: TTL_SECONDS_DEFAULT,
            resumable: true,
            compression: Compression::None,
            low_water_bytes: None,
            checks_room: true,
            origins: BTreeMap::new(),
        }
    }
}

/// What the caller says of the disks at commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommitRequest {
    /// Name of the point, instead of what was said at begin.
    pub point: Option<PointName>,
    /// Change ids by disk.
    pub change_ids: BTreeMap<DiskName, String>,
    /// The change ids that changes were counted from, by disk.
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that are the parent's, untouched.
    pub unchanged: Vec<DiskName>,
    /// Disks that the point does not have any more.
    pub without: Vec<DiskName>,
    /// New disks whose bytes are a disk's, although they begin as an image.
    pub raw: Vec<DiskName>,
    /// What is known of the instant.
    pub consistency: Option<Consistency>,
    /// Why it is `unknown`, in words.
    pub consistency_note: Option<String>,
}
