//! A copy of a point that is under way: what the session at the target has of it.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Unknown;
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, LayerId, PointId, RepositoryId};

/// Seconds after which a copy that nobody goes on with ends by itself (30 days).
pub const ARRIVING_TTL_SECONDS: u64 = 30 * 24 * 3600;

/// The point that a session receives from another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arriving {
    /// The repository from which it comes.
    pub origin: RepositoryId,
    /// The point.
    pub point_id: PointId,
    /// BLAKE3 of the exact bytes of its `point.json`.
    pub point_blake3: Digest,
    /// When somebody last began or went on with the copy.
    pub renewed_at: Timestamp,
    /// The layers that are sent; each comes after the layer below it.
    pub layers: Vec<ArrivingLayer>,
    /// The layers of this repository on which those stand, and those of disks of which nothing is sent.
    pub bases: Vec<ArrivingBase>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A layer that is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivingLayer {
    /// The disk of the point to whose chain it belongs.
    pub disk: DiskName,
    /// Stable key of the disk.
    pub key: String,
    /// Its slot.
    pub slot: Slot,
    /// Its id.
    pub layer_id: LayerId,
    /// The slot of its backing layer.
    pub below: Option<Slot>,
    /// The content of the disk as of this layer.
    pub content_root: Digest,
    /// Bytes of its clusters.
    pub held_bytes: u64,
    /// Bytes that its file takes at most.
    pub file_bytes: u64,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A layer that is at the target already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivingBase {
    /// Stable key of the disk.
    pub key: String,
    /// Its slot.
    pub slot: Slot,
    /// The content of the disk as of this layer.
    pub content_root: Digest,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Arriving {
    /// The slots that the copy names.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let layers = self.layers.iter().map(|layer| &layer.slot);
        layers.chain(self.bases.iter().map(|base| &base.slot))
    }

    /// Whether nobody has gone on with the copy for `ttl_seconds`.
    #[must_use]
    pub fn is_expired(&self, ttl_seconds: u64, now: Timestamp) -> bool {
        let ttl = SignedDuration::from_secs(i64::try_from(ttl_seconds).unwrap_or(i64::MAX));
        now.duration_since(self.renewed_at) > ttl
    }

    /// The disks of which layers are sent, each once.
    #[must_use]
    pub fn disks(&self) -> Vec<&DiskName> {
        let mut seen = HashSet::new();
        let disks = self.layers.iter().map(|layer| &layer.disk);
        disks.filter(|disk| seen.insert(*disk)).collect()
    }
}
