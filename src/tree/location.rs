//! The place where a guest's file appears in the tree.

use std::sync::Arc;

use super::files::Instance;
use super::volume_node::VolumeNode;
use crate::guest::fs::{GuestFs, GuestIno};

/// The place where a guest's file appears.
#[derive(Clone)]
pub(super) enum GuestLocation {
    /// Below `volumes/`.
    Volume(Arc<VolumeNode>),
    /// Below `files/`, in this instance.
    Files(usize, Arc<Instance>),
}

impl GuestLocation {
    pub(super) fn volume(&self) -> &Arc<VolumeNode> {
        match self {
            Self::Volume(volume) => volume,
            Self::Files(_, instance) => &instance.volume,
        }
    }

    /// The top directory of that place.
    pub(super) fn root(&self, fs: &dyn GuestFs) -> GuestIno {
        match self {
            Self::Volume(_) => fs.root(),
            Self::Files(_, instance) => instance.root,
        }
    }
}
