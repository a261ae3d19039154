//! The chains of a VM: where to find their layers and flattened maps.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{ReadAt, WriteAt};
use crate::chain::{ChainId, Disk, FlatStore, LayerSource, Pool};
use crate::error::{ErrorKind, Result};
use crate::repo::leaves::Leaves;
use crate::repo::{Repository, Slot, layout, trash};
use crate::types::{Digest, LayerId, VmId, VmName};

/// Gives the chains of one VM their layers, and a place for flattened maps.
pub struct ChainSource {
    repository: Arc<Repository>,
    vm: VmName,
    id: VmId,
    /// Whether this process may write flattened maps.
    writable: bool,
}

impl ChainSource {
    /// A source for the layers of a VM; `writable` if this process owns the repository.
    #[must_use]
    pub fn new(repository: &Arc<Repository>, vm: &VmName, id: VmId, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            repository: Arc::clone(repository),
            vm: vm.clone(),
            id,
            writable,
        })
    }

    /// The VM.
    #[must_use]
    pub const fn vm(&self) -> &VmName {
        &self.vm
    }

    /// Opens the leaves of the disk whose top layer is in `slot`, and proves that its content is `root`.
    ///
    /// # Errors
    /// As [`Leaves::open`].
    pub fn open_leaves(&self, slot: &Slot, root: Digest) -> Result<Leaves> {
        Leaves::open(&self.repository, &self.vm, self.id, slot, root)
    }

    /// Opens the disk whose top layer is in `slot`.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open_disk(self: &Arc<Self>, pool: &Arc<Pool>, slot: &Slot) -> Result<Disk> {
        let source: Arc<dyn LayerSource> = Arc::<Self>::clone(self);
        let flat: Arc<dyn FlatStore> = Arc::<Self>::clone(self);
        Disk::open(pool, source, slot.as_str(), Some(flat))
    }
}

impl LayerSource for ChainSource {
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>> {
        self.repository.find_layer(&self.vm, &Slot::parse(slot)?)
    }
    fn open_replaced(&self, slot: &str, layer: Option<LayerId>) -> Result<Option<Arc<dyn ReadAt>>> {
        trash::open_layer(&self.repository, self.id, &Slot::parse(slot)?, layer)
    }
    fn look_up_delay(&self) -> Duration {
        self.repository.store().look_up_delay()
    }
    fn scope(&self) -> u128 {
        u128::from_be_bytes(self.id.to_bytes())
    }
}

impl FlatStore for ChainSource {
    fn open_flat(&self, chain: ChainId) -> Result<Option<Arc<dyn WriteAt>>> {
        if !self.writable {
            return Ok(None);
        }
        let key = layout::flat_map(self.id, chain)?;
        let stage = self.repository.stage();
        match stage.open(&key) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if let Some(prefix) = key.parent() {
                    stage.make_prefix(&prefix)?;
                }
                match stage.create(&key) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => stage.open(&key).map(Some),
                    other => other.map(Some),
                }
            }
            other => other.map(Some),
        }
    }

    fn discard_flat(&self, chain: ChainId) -> Result<()> {
        let key = layout::flat_map(self.id, chain)?;
        match self.repository.stage().delete(&key) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
