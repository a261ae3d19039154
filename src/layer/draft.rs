//! The draft: tables and leaves of a layer, and the set of touched regions.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};

use super::base::Base;
use super::doubt::UnknownLeaves;
use crate::block::WriteAt;
use crate::block::page::{PageBudget, PageTable};
use crate::error::{Result, ResultExt};
use crate::qcow2::header::CompressionType;
use crate::qcow2::{LayerOptions, LayerWriter, Mapping};
use crate::repo::content::{PAGE_BYTES, Region, leaf_at, leaf_index, set_leaf, zero_page};
use crate::repo::layout::{self, VmKeys};
use crate::repo::{Repository, Slot};
use crate::store::Key;
use crate::types::sync::Mutex;
use crate::types::{Digest, GuestCluster, HostOffset, LayerId, SessionId, VmName};

/// A layer that is being written, in a slot of a VM.
pub struct LayerDraft {
    pub(super) repository: Arc<Repository>,
    pub(super) vm: VmName,
    pub(super) slot: Slot,
    /// The layer's file while it is being written.
    pub(super) file: Key,
    pub(super) writer: LayerWriter,
    /// The method by which clusters that are written become compressed ones, if any.
    pub(super) compression: Option<CompressionType>,
    pub(super) pages: PageTable,
    pub(super) base: Option<Base>,
    /// Regions that were written to.
    touched: Mutex<BTreeSet<Region>>,
    pub(super) doubts: UnknownLeaves,
}

/// Creates files for pages beyond the budget. The files have no name, so a crash leaves nothing of
/// them.
fn spill(
    repository: &Arc<Repository>,
) -> impl Fn() -> Result<Arc<dyn WriteAt>> + Send + Sync + 'static {
    let repository = Arc::clone(repository);
    move || {
        let prefix = layout::cache()?.join("spill")?;
        let stage = repository.stage();
        stage.make_prefix(&prefix)?;
        let key = prefix.join(&SessionId::random().to_string())?;
        let file = stage.create(&key)?;
        stage.delete(&key)?;
        Ok(file)
    }
}

impl LayerDraft {
    /// Begins a layer in a slot. Its backing layer must have the content of `base`; without a base
    /// the layer is full. Tables and leaves take memory of `budget`; beyond it they go to files.
    ///
    /// # Errors
    /// `AlreadyExists` when a layer is being written in that slot; `InvalidInput` for bad options;
    /// `NoSpace`, `Io`.
    pub fn create(
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        options: LayerOptions,
        base: Option<Base>,
        budget: &Arc<PageBudget>,
    ) -> Result<Self> {
        let key = VmKeys::new(vm)?.open_layer(slot)?;
        Self::create_file(repository, vm, slot, key, options, base, budget)
    }

    /// Begins a layer that is to replace the one in a slot. `cloned` is its file, where that shares the extents of a
    /// committed layer ([`crate::store::Stage::clone_object`]): [`LayerDraft::take_over`] takes its clusters. What is
    /// written stays uncompressed; [`LayerDraft::take_compressed`] takes compressed clusters. [`LayerDraft::build`]
    /// completes the layer; nothing is published.
    ///
    /// # Errors
    /// As [`LayerDraft::create`].
    pub fn create_build(
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        cloned: Option<Arc<dyn WriteAt>>,
        options: LayerOptions,
        base: Option<Base>,
        budget: &Arc<PageBudget>,
    ) -> Result<Self> {
        let key = VmKeys::new(vm)?.build(slot, options.layer_id)?;
        let mut draft = match cloned {
            Some(file) => {
                let end = HostOffset(file.size_bytes());
                let writer = LayerWriter::resume(file, options, budget, spill(repository))?;
                // The cloned layer's own tables lie before its end: what is added comes behind them.
                writer.restore_next(end)?;
                Self::over(repository, vm, slot, key, writer, base, budget)
            }
            None => Self::create_file(repository, vm, slot, key, options, base, budget)?,
        };
        draft.compression = None;
        Ok(draft)
    }

    /// Takes over a cluster that lies in the cloned file already, with the leaf that its layer has for it. Its bytes are
    /// not read. What the base has, too, is not taken.
    ///
    /// # Errors
    /// `Corrupt` (the base's sums, a mapping that does not fit); `NoSpace`, `Io`.
    pub fn take_over(&self, cluster: GuestCluster, held: Mapping, leaf: &Digest) -> Result<()> {
        let region = Region::of(cluster);
        self.touch(region)?;
        let index = leaf_index(cluster);
        if self.known_leaves(region, index, 1)?.first() == Some(leaf) {
            return Ok(());
        }
        self.writer.restore_mapping(cluster, held)?;
        self.pages
            .with_page(region.0, |_| Ok(()), |page| set_leaf(page, index, leaf))
    }

    fn create_file(
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        key: Key,
        options: LayerOptions,
        base: Option<Base>,
        budget: &Arc<PageBudget>,
    ) -> Result<Self> {
        let stage = repository.stage();
        // A separate workspace may not have the VM's directory yet.
        stage.make_prefix(&VmKeys::new(vm)?.layers()?)?;
        let file = stage.create(&key)?;
        let writer = LayerWriter::create(file, options, budget, spill(repository))?;
        Ok(Self::over(repository, vm, slot, key, writer, base, budget))
    }

    /// Reopens a layer that was begun, or that was published and moved back. The caller restores
    /// its mappings with [`LayerDraft::restore`], and then calls [`LayerDraft::restored`].
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for bad options; `Io`.
    pub fn resume(
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        options: LayerOptions,
        base: Option<Base>,
        budget: &Arc<PageBudget>,
    ) -> Result<Self> {
        let key = VmKeys::new(vm)?.open_layer(slot)?;
        let file = repository.stage().open(&key)?;
        let writer = LayerWriter::resume(file, options, budget, spill(repository))?;
        Ok(Self::over(repository, vm, slot, key, writer, base, budget))
    }

    fn over(
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        file: Key,
        writer: LayerWriter,
        base: Option<Base>,
        budget: &Arc<PageBudget>,
    ) -> Self {
        Self {
            repository: Arc::clone(repository),
            vm: vm.clone(),
            slot: slot.clone(),
            file,
            compression: writer.compression().kind(),
            writer,
            pages: PageTable::new(PAGE_BYTES, budget, Box::new(spill(repository))),
            base,
            touched: Mutex::default(),
            doubts: UnknownLeaves::default(),
        }
    }

    /// The layer's id.
    #[must_use]
    pub fn layer_id(&self) -> LayerId {
        self.writer.layer_id()
    }

    /// The base that the layer is compared with, if any.
    #[must_use]
    pub const fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.writer.size_bytes()
    }

    /// Sets the virtual size; the layer drops what lies beyond it.
    ///
    /// # Errors
    /// `InvalidInput` for a size that QCOW2 cannot have; `NoSpace`, `Io`.
    pub fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.writer.set_size(size_bytes)
    }

    /// Makes the written data durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&self) -> Result<()> {
        self.writer.flush().at_path(self.slot.open_file())
    }

    /// How the layer holds a cluster.
    ///
    /// # Errors
    /// What the file that tables are spilled to returns.
    pub fn mapping(&self, cluster: GuestCluster) -> Result<Mapping> {
        self.writer.get(cluster)
    }

    /// Whether the layer holds nothing of a region.
    ///
    /// # Errors
    /// What the file that tables are spilled to returns.
    pub fn holds_nothing_of(&self, region: Region) -> Result<bool> {
        self.writer.is_region_empty(region.0)
    }

    /// Reads bytes of a cluster that the layer holds uncompressed.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_data(&self, host: HostOffset, part: &mut [u8]) -> Result<()> {
        self.writer.read_data(host, part)
    }

    /// Reads a cluster that the layer holds; zeroes where it holds none.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn read_held(&self, held: Mapping, buf: &mut [u8]) -> Result<()> {
        match held {
            Mapping::Data(host) => self.writer.read_data(host, buf),
            Mapping::Compressed(place) => self.writer.read_compressed(place, buf),
            Mapping::Zero { .. } | Mapping::Unallocated | Mapping::Subclusters { .. } => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// The leaves of some clusters of a touched region.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn known_leaves(&self, region: Region, first: usize, count: usize) -> Result<Vec<Digest>> {
        self.pages.peek(region.0, |page| {
            let page = page.unwrap_or_else(|| zero_page());
            (first..first + count)
                .map(|index| leaf_at(page, index))
                .collect()
        })
    }

    /// Calls `f` with the page of leaves of a region, if there is one.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn peek_leaves<R>(&self, region: Region, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.pages.peek(region.0, f)
    }

    /// Creates the page of a region if it is missing; loads the base's page outside of the table's
    /// lock.
    ///
    /// # Errors
    /// `Corrupt` (the base's sums); `NoSpace`, `Io`.
    pub fn touch(&self, region: Region) -> Result<()> {
        if self.is_touched(region) {
            return Ok(());
        }
        let mut page = vec![0; self.pages.page_bytes()];
        self.load_base_page(region, &mut page)?;
        self.pages.with_page(
            region.0,
            |fresh| {
                fresh.copy_from_slice(&page);
                Ok(())
            },
            |_| (),
        )?;
        self.touched().insert(region);
        Ok(())
    }

    /// Whether a region was written to.
    #[must_use]
    pub fn is_touched(&self, region: Region) -> bool {
        self.touched().contains(&region)
    }

    /// Whether nothing was written to the layer.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.touched().is_empty()
    }

    /// The regions that were written to, ascending.
    #[must_use]
    pub fn touched_regions(&self) -> Vec<Region> {
        self.touched().iter().copied().collect()
    }

    fn touched(&self) -> MutexGuard<'_, BTreeSet<Region>> {
        self.touched.lock()
    }

    /// Loads the base's leaves of a region into `page`.
    pub(super) fn load_base_page(&self, region: Region, page: &mut [u8]) -> Result<()> {
        match &self.base {
            Some(base) => base.leaves().load_page(region, page),
            None => {
                page.copy_from_slice(zero_page());
                Ok(())
            }
        }
    }

    /// Called after a failed change: marks the leaves of clusters that may have changed as unknown,
    /// so that the seal takes them from the bytes. Until the mark is recorded, the layer takes no
    /// write: a later write that equals the old leaf would be dropped, and the old leaf would be
    /// sealed over other bytes.
    pub(super) fn mark_unknown_leaves(&self, region: Region, indices: impl Iterator<Item = usize>) {
        self.doubts.add(region, indices);
        if let Err(e) = self.settle_doubts() {
            tracing::warn!(layer = %self.slot, error = %e.report(), "the leaves of a failed write could not be marked yet");
        }
    }

    /// Marks the leaves of failed writes for which marking has failed before. The caller holds the
    /// range, and calls this before it trusts a leaf.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn settle_doubts(&self) -> Result<()> {
        self.doubts.settle(&self.pages)
    }
}
