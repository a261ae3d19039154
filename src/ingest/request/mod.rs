//! The requests of a session: one type for each operation, the same at every door.

pub(in crate::ingest) mod limit;
pub(in crate::ingest) mod lookalike;
pub(in crate::ingest) mod origin;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::qcow2::Compression;
use crate::repo::selector::Which;
use crate::repo::sidecar::point::Consistency;
use crate::repo::sidecar::session::TTL_SECONDS_DEFAULT;
use crate::types::{DiskName, PointName, VmName};
use origin::Origin;

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
    /// Whether to store everything, without comparison.
    #[serde(default)]
    pub full: bool,
}

/// The description of a session to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRequest {
    /// The VM; created if it does not exist.
    pub vm: VmName,
    /// Name of the session; by default the point's.
    #[serde(default)]
    pub session: Option<PointName>,
    /// Name of the point; by default the time of capture.
    #[serde(default)]
    pub point: Option<PointName>,
    /// Disks that are new, resized or full. The parent's other disks are in the session as well.
    #[serde(default)]
    pub disks: Vec<DiskRequest>,
    /// The parent's disks that the VM no longer has, by their names in the parent.
    #[serde(default)]
    pub without: Vec<DiskName>,
    /// Whether `disks` are all disks that the VM has: the parent's others are gone.
    #[serde(default)]
    pub complete: bool,
    /// Whether all disks are full.
    #[serde(default)]
    pub full: bool,
    /// Whether to compare with the last full point instead of the newest.
    #[serde(default)]
    pub differential: bool,
    /// The point to compare with. Naming one also allows a second open session.
    #[serde(default)]
    pub parent: Option<Which>,
    /// Whether the client sends only what changed since the parent. The commit then needs the
    /// change ids that the changes are counted from.
    #[serde(default)]
    pub changed_only: bool,
    /// The change ids that changes are counted from, as far as they are known at begin.
    #[serde(default)]
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that the caller writes whole: they begin anew by themselves when the content to
    /// compare with is damaged.
    #[serde(default)]
    pub whole: Vec<DiskName>,
    /// Whether the session may begin without a disk; disks are created later.
    #[serde(default)]
    pub empty: bool,
    /// Seconds without activity after which the session ends by itself.
    #[serde(default = "default_ttl_seconds")]
    pub ttl_seconds: u64,
    /// Whether the session resumes after a crash.
    #[serde(default = "yes")]
    pub resumable: bool,
    /// Compression of the layers.
    #[serde(default)]
    pub compression: Compression,
    /// Bytes to keep free on the repository's filesystem; by default the engine's.
    #[serde(default)]
    pub low_water_bytes: Option<u64>,
    /// Whether to refuse a session for which there is probably no room.
    #[serde(default = "yes")]
    pub checks_room: bool,
    /// The origins of the disks' sources, as far as they are known.
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
    /// The origin of a disk, if it is known.
    #[must_use]
    pub fn origin(&self, name: &DiskName) -> Option<&Origin> {
        let mut origins = self.origins.iter();
        origins
            .find(|(other, _)| other.same_as(name))
            .map(|(_, origin)| origin)
    }

    /// The simplest request for a VM.
    #[must_use]
    pub fn new(vm: VmName) -> Self {
        Self {
            vm,
            session: None,
            point: None,
            disks: Vec::new(),
            without: Vec::new(),
            complete: false,
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

/// What the caller declares about the disks at commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommitRequest {
    /// Name of the point; replaces the name given at begin.
    pub point: Option<PointName>,
    /// Change ids by disk.
    pub change_ids: BTreeMap<DiskName, String>,
    /// The change ids that changes were counted from, by disk.
    pub previous_change_ids: BTreeMap<DiskName, String>,
    /// Disks that equal the parent's because nothing was written to them.
    pub unchanged: Vec<DiskName>,
    /// Disks that the point no longer has.
    pub without: Vec<DiskName>,
    /// New disks whose content is a raw disk, although it begins as an image.
    pub raw: Vec<DiskName>,
    /// The consistency of the captured instant, if known.
    pub consistency: Option<Consistency>,
    /// Why the consistency is `unknown`, as text.
    pub consistency_note: Option<String>,
}
