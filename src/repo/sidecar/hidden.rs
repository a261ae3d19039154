//! A hidden layer in `index.json`: one that no point names, and that a point needs all the same.

use serde::{Deserialize, Serialize};

use super::Unknown;
use super::plain::plain;
use crate::repo::slot::Slot;
use crate::types::{Digest, LayerId};

/// A layer that only backing chains name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenLayer {
    /// Its slot.
    pub slot: Slot,
    /// Its id.
    pub layer_id: LayerId,
    /// Stable key of the disk that it belongs to.
    pub disk_key: String,
    /// The content of the disk as of this layer.
    pub content_root: Digest,
    /// Bytes that its file takes.
    pub file_bytes: u64,
    /// Clusters that it holds.
    pub held_clusters: u64,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

plain!(PlainHidden of HiddenLayer {
    slot: Slot,
    layer_id: LayerId,
    disk_key: String,
    content_root: Digest,
    file_bytes: u64,
    held_clusters: u64,
});
