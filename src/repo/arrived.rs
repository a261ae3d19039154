//! What of a copy has arrived: the record of each layer that is received.

use serde::{Deserialize, Serialize};

use super::layer_file::LayerFile;
use super::layout::VmKeys;
use super::repository::Repository;
use super::sidecar::SIDECAR_BYTES_MAX;
use super::slot::Slot;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{Digest, LayerId, PointName, VmName};

/// What of a layer that arrives is durable and proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Arrived {
    /// Batches of its data.
    pub batches: u64,
    /// Whether everything of it is there.
    pub is_whole: bool,
}

impl Repository {
    /// What of a layer has arrived; nothing where there is no record of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn arrived(
        &self,
        vm: &VmName,
        session: &PointName,
        slot: &Slot,
        layer: LayerId,
    ) -> Result<Arrived> {
        let key = VmKeys::new(vm)?.arrived(session, slot, layer)?;
        match self.stage().get(&key, SIDECAR_BYTES_MAX) {
            // What cannot be read is sent again.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Arrived::default()),
            Err(e) => Err(e),
        }
    }

    /// Records what of a layer has arrived, durably. The caller has made the layer's bytes durable.
    ///
    /// # Errors
    /// `NotFound` when the session is gone; `NoSpace`, `Io`.
    pub fn note_arrived(
        &self,
        vm: &VmName,
        session: &PointName,
        (slot, layer): (&Slot, LayerId),
        arrived: Arrived,
    ) -> Result<()> {
        let keys = VmKeys::new(vm)?;
        let bytes = serde_json::to_vec(&arrived)
            .map_err(|e| Error::invalid("the record cannot be encoded").caused_by(e))?;
        // `put` would make the directory of a session that was aborted again.
        self.session(vm, session)?;
        let key = keys.arrived(session, slot, layer)?;
        self.stage().put(&key, &bytes, PutMode::Replace)
    }

    /// The content of the layer in a slot, if there is one; its header is proved.
    ///
    /// # Errors
    /// `Corrupt` when layer or sums are damaged; `Io`.
    pub fn content_in(&self, vm: &VmName, slot: &Slot) -> Result<Option<Digest>> {
        let file = match LayerFile::open(self, vm, slot) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let sums = file.prove_header(self, vm, slot)?;
        Ok(Some(sums.summary().content_root()))
    }
}
