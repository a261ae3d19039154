//! Clusters of a layer that are not what was committed, and who has their content.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::types::sync::Mutex;
use crate::types::{Digest, GuestCluster};

/// Gives the content of clusters from elsewhere.
pub trait Donor: Sync {
    /// Fills `bytes`, a whole cluster, with content whose hash is `leaf`; `false` when it has none. `cluster` is where the content
    /// lies in the disk.
    ///
    /// # Errors
    /// `Cancelled`. What cannot be read elsewhere is not there.
    fn give(&self, cluster: GuestCluster, leaf: &Digest, bytes: &mut [u8]) -> Result<bool>;
}

/// A layer that is built anew with content from elsewhere.
pub struct Mend<'a> {
    /// Clusters of the layer that may be damaged: each is read and proved.
    pub suspects: &'a BTreeSet<GuestCluster>,
    /// Who has the content of those that are.
    pub donor: &'a dyn Donor,
    mended: Mutex<BTreeSet<GuestCluster>>,
    left: Mutex<BTreeSet<GuestCluster>>,
}

impl<'a> Mend<'a> {
    /// Content for `suspects`.
    #[must_use]
    pub fn new(suspects: &'a BTreeSet<GuestCluster>, donor: &'a dyn Donor) -> Self {
        Self {
            suspects,
            donor,
            mended: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// Clusters that have the committed content again.
    #[must_use]
    pub fn mended(&self) -> BTreeSet<GuestCluster> {
        self.mended.lock().clone()
    }

    /// Clusters whose content nobody has: they stay damaged.
    #[must_use]
    pub fn left(&self) -> BTreeSet<GuestCluster> {
        self.left.lock().clone()
    }

    pub(super) fn note(&self, cluster: GuestCluster, is_mended: bool) {
        let place = if is_mended { &self.mended } else { &self.left };
        place.lock().insert(cluster);
    }
}
