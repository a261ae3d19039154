//! Writes one layer: append-only data, tables in memory, and a valid image after the seal.
//!
//! # On-disk layout
//! QCOW2 version 3, 64 KiB clusters, refcounts of 16 bits. Host cluster 0 is reserved for the header; data
//! clusters follow in order of arrival. The seal adds the nonempty L2 tables, the L1 table, the refcount
//! blocks and the refcount table, and punches unused host clusters. The header is written last, so a layer
//! that was never sealed is not an image.
//!
//! # Invariants
//! - A host cluster is allocated once and never again: a stale reader of a mapping never sees other data.
//! - The refcount of a host cluster is the number of L2 entries that use it. Space that was allocated and
//!   never mapped counts as unused, so failed writes leave no leaks.
//! - The pages of both tables have the on-disk form, big-endian.
//!
//! # Concurrency
//! All methods may be called from many threads. One mutex guards the host space for short times; each table
//! has its own. None is held during data I/O, and no two at once. When two threads map the same guest cluster
//! at once, one of the two results remains; the caller ensures that its data are the right ones.
//!
//! # Why
//! Dead bytes of compressed clusters in a host cluster with live ones stay: they are smaller than the unit
//! that can be punched.

mod options;
mod refcount;
mod seal;
mod space;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

pub use options::{CLUSTER_BYTES, Compression, L2_ENTRIES, LayerOptions, SIZE_BYTES_MAX};
pub use seal::Sealed;

use self::options::check_size;
use self::refcount::Refcounts;
use self::space::{Space, host_clusters, is_stored, kept_host};
use super::codec;
use super::entry::{CompressedCluster, Layout, Mapping};
use super::field;
use super::header::{BACKING_NAME_BYTES_MAX, CompressionType};
use crate::block::WriteAt;
use crate::block::page::{OpenSpill, PageBudget, PageTable};
use crate::error::{Error, Result, ResultExt};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::types::{ClusterBits, GuestCluster, HostCluster, HostOffset, LayerId};

/// A layer that is being written.
pub struct LayerWriter {
    file: Arc<dyn WriteAt>,
    backing: Option<String>,
    layer_id: LayerId,
    compression: Compression,
    size_bytes: AtomicU64,
    space: Mutex<Space>,
    l2: PageTable,
    refcounts: Refcounts,
    stored: AtomicU64,
    is_sealed: AtomicBool,
    /// A count could not be decremented (its page could not be read from the spill file): the seal counts
    /// again.
    is_miscounted: AtomicBool,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("layer_id", &self.layer_id)
            .field("size_bytes", &self.size_bytes())
            .field("next", &self.next_host())
            .finish_non_exhaustive()
    }
}

/// Decodes entries that this writer has encoded: ranges were checked at that time.
const LAYOUT: Layout = Layout {
    cluster_bits: ClusterBits::LAYER,
    version: 3,
    is_extended: false,
    is_external: false,
    file_bytes: 1 << 62,
};

impl LayerWriter {
    /// Begins a layer in `file`, and empties the file. `spill` makes a file for each of the two tables when
    /// memory first runs short.
    ///
    /// # Errors
    /// `InvalidInput` for a bad size or backing name; `NoSpace`, `Io`.
    pub fn create<S>(
        file: Arc<dyn WriteAt>,
        options: LayerOptions,
        budget: &Arc<PageBudget>,
        spill: S,
    ) -> Result<Self>
    where
        S: Fn() -> Result<Arc<dyn WriteAt>> + Send + Sync + 'static,
    {
        file.set_size(0)?;
        Self::resume(file, options, budget, spill)
    }

    /// Continues a half-written layer and keeps its data. The caller restores mappings with
    /// [`LayerWriter::restore_mapping`], and calls [`LayerWriter::restore_next`] last.
    ///
    /// # Errors
    /// `InvalidInput` for a bad size or backing name.
    pub fn resume<S>(
        file: Arc<dyn WriteAt>,
        options: LayerOptions,
        budget: &Arc<PageBudget>,
        spill: S,
    ) -> Result<Self>
    where
        S: Fn() -> Result<Arc<dyn WriteAt>> + Send + Sync + 'static,
    {
        check_size(options.size_bytes)?;
        if let Some(name) = &options.backing
            && (name.is_empty() || name.len() > usize_from_u32(BACKING_NAME_BYTES_MAX))
        {
            return Err(Error::invalid(
                "a backing file's name has 1 to 1023 bytes in QCOW2",
            ));
        }
        let spill = Arc::new(spill);
        let open = || -> OpenSpill {
            let spill = Arc::clone(&spill);
            Box::new(move || spill())
        };
        let page_bytes = usize_from_u64(CLUSTER_BYTES);
        Ok(Self {
            file,
            backing: options.backing,
            layer_id: options.layer_id,
            compression: options.compression,
            size_bytes: AtomicU64::new(options.size_bytes),
            space: Mutex::new(Space::new()),
            l2: PageTable::new(page_bytes, budget, open()),
            refcounts: Refcounts::new(PageTable::new(page_bytes, budget, open())),
            stored: AtomicU64::new(0),
            is_sealed: AtomicBool::new(false),
            is_miscounted: AtomicBool::new(false),
        })
    }

    /// The layer's id.
    #[must_use]
    pub fn layer_id(&self) -> LayerId {
        self.layer_id
    }

    /// Compression of compressed clusters.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Number of guest clusters with data in this layer, including compressed ones; zero clusters are not
    /// counted.
    #[cfg(test)]
    #[must_use]
    pub fn stored_clusters(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    /// The first host offset that was never allocated: the argument for [`LayerWriter::restore_next`].
    #[must_use]
    pub fn next_host(&self) -> HostOffset {
        HostOffset(self.space().next() * CLUSTER_BYTES)
    }

    /// Allocates `clusters` contiguous host clusters, which read as zero until they are written.
    ///
    /// # Errors
    /// `InvalidInput` for zero clusters, or after the seal; `LimitExceeded` beyond 2^54 bytes.
    pub fn allocate(&self, clusters: u64) -> Result<HostOffset> {
        self.check_open()?;
        if clusters == 0 {
            return Err(Error::invalid("no host clusters were asked for"));
        }
        self.space().take(clusters)
    }

    /// Writes bytes of allocated clusters.
    ///
    /// # Errors
    /// `InvalidInput` outside allocated space, or after the seal; `NoSpace`, `Io`.
    pub fn write_data(&self, host: HostOffset, bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        self.check_allocated(host, u64_from_usize(bytes.len()))?;
        self.file.write_at(host.get(), bytes)
    }

    /// Reads bytes of allocated clusters; unwritten bytes are zero.
    ///
    /// # Errors
    /// `InvalidInput` outside allocated space; `Io`.
    pub fn read_data(&self, host: HostOffset, buf: &mut [u8]) -> Result<()> {
        self.check_allocated(host, u64_from_usize(buf.len()))?;
        let present = usize_from_u64(self.file.size_bytes().saturating_sub(host.get()));
        let (head, tail) = buf.split_at_mut(present.min(buf.len()));
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        self.file.read_at(host.get(), head)
    }

    /// Reads a compressed cluster; `out` is exactly one cluster.
    ///
    /// # Errors
    /// `Corrupt` when it does not decompress to a whole cluster; `InvalidInput` for another length, outside
    /// allocated space, or in a layer without compression; `Io`.
    pub fn read_compressed(&self, cluster: CompressedCluster, out: &mut [u8]) -> Result<()> {
        let kind = self.compression_kind()?;
        if u64_from_usize(out.len()) != CLUSTER_BYTES {
            return Err(Error::invalid(
                "a compressed cluster is read into exactly one cluster",
            ));
        }
        codec::with_scratch(|scratch| {
            let (buffer, contexts) = scratch.split();
            buffer.resize(usize_from_u32(cluster.length_bytes), 0);
            self.read_data(cluster.host, buffer)?;
            codec::decompress(kind, contexts, buffer, out)
                .map(drop)
                .at_offset(cluster.host.get())
        })
    }

    /// The mapping of a guest cluster.
    ///
    /// # Errors
    /// `InvalidInput` beyond the size; errors of the spill file.
    pub fn get(&self, guest: GuestCluster) -> Result<Mapping> {
        self.check_guest(guest)?;
        let entry = self.l2.peek(guest.get() / L2_ENTRIES, |page| {
            page.and_then(|page| field::u64_at(page, entry_position(guest)))
        })?;
        LAYOUT.decode_l2(entry.unwrap_or(0), 0)
    }

    /// Whether no cluster of a region ([`L2_ENTRIES`] guest clusters) was ever mapped.
    ///
    /// # Errors
    /// `Io` of the spill file.
    pub fn is_region_empty(&self, region: u64) -> Result<bool> {
        self.l2.peek(region, |page| page.is_none())
    }

    /// Indices of all regions ([`L2_ENTRIES`] guest clusters each) with a cluster that was ever mapped,
    /// ascending.
    #[must_use]
    pub fn regions(&self) -> Vec<u64> {
        self.l2.indices()
    }

    /// Maps a guest cluster, and returns its previous mapping, whose host clusters are then free if nothing
    /// else uses them.
    ///
    /// # Errors
    /// `InvalidInput` beyond the size, for a host cluster that is not allocated or is in use, for
    /// subclusters, or after the seal; errors of the spill file. In these cases nothing has changed.
    pub fn set(&self, guest: GuestCluster, mapping: Mapping) -> Result<Mapping> {
        self.check_open()?;
        self.check_guest(guest)?;
        if let Some((first, count)) = host_clusters(mapping) {
            self.check_allocated(
                HostOffset(first.get() * CLUSTER_BYTES),
                count * CLUSTER_BYTES,
            )?;
        }
        let entry = LAYOUT
            .encode_l2(mapping)
            .ok_or_else(|| Error::invalid(format!("{mapping:?} cannot be stored in a layer")))?;
        let present = self.get(guest)?;
        if present == mapping {
            return Ok(mapping);
        }
        // A change between data and zero in the same host cluster keeps that cluster.
        let keeps_host = kept_host(present).is_some() && kept_host(present) == kept_host(mapping);
        if !keeps_host {
            self.acquire(mapping)?;
        }
        let swapped = self.l2.with_page(
            guest.get() / L2_ENTRIES,
            |_| Ok(()),
            |page| {
                let at = entry_position(guest);
                let previous = field::u64_at(page, at).unwrap_or(0);
                field::set_u64(page, at, entry);
                previous
            },
        );
        let previous = match swapped {
            Ok(previous) => LAYOUT.decode_l2(previous, 0)?,
            Err(error) => {
                if !keeps_host {
                    self.release(mapping);
                }
                return Err(error);
            }
        };
        if !keeps_host {
            self.release(previous);
        }
        if is_stored(mapping) {
            self.stored.fetch_add(1, Ordering::AcqRel);
        }
        if is_stored(previous) {
            self.stored.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(previous)
    }

    /// Appends a compressed cluster directly behind the one before it, and maps the guest cluster to it.
    ///
    /// # Errors
    /// `InvalidInput` in a layer without compression, when `compressed` is empty or not shorter than a cluster,
    /// and as [`LayerWriter::set`]; `NoSpace`, `Io`.
    pub fn append_compressed(
        &self,
        guest: GuestCluster,
        compressed: &[u8],
    ) -> Result<CompressedCluster> {
        self.compression_kind()?;
        self.check_open()?;
        self.check_guest(guest)?;
        let length = u64_from_usize(compressed.len());
        if length == 0 || length >= CLUSTER_BYTES {
            return Err(Error::invalid(
                "a compressed cluster is neither empty nor as long as a cluster",
            ));
        }
        let start = self.space().take_packed(length)?;
        let cluster = CompressedCluster::of(HostOffset(start), length)
            .ok_or_else(|| Error::invalid("a compressed cluster is out of range"))?;
        self.file.write_at(start, compressed)?;
        self.set(guest, Mapping::Compressed(cluster))?;
        Ok(cluster)
    }

    /// Changes the virtual size. Mappings beyond a smaller size are dropped, and read as unallocated when the
    /// disk grows again.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid size or after the seal; errors of the spill file.
    pub fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.check_open()?;
        check_size(size_bytes)?;
        let clusters = ClusterBits::LAYER.clusters_for(size_bytes);
        for index in self.l2.indices() {
            if (index + 1) * L2_ENTRIES <= clusters {
                continue;
            }
            let keep = usize_from_u64(clusters.saturating_sub(index * L2_ENTRIES)) * 8;
            let dropped = self.l2.with_page(
                index,
                |_| Ok(()),
                |page| {
                    let beyond = page.get_mut(keep..).unwrap_or_default();
                    let entries: Vec<u64> = beyond
                        .chunks_exact(8)
                        .filter_map(|entry| field::u64_at(entry, 0))
                        .filter(|entry| *entry != 0)
                        .collect();
                    beyond.fill(0);
                    entries
                },
            )?;
            for entry in dropped {
                let mapping = LAYOUT.decode_l2(entry, 0)?;
                self.release(mapping);
                if is_stored(mapping) {
                    self.stored.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
        self.size_bytes.store(size_bytes, Ordering::Release);
        Ok(())
    }

    /// Makes all written data durable; this includes the tables only after the seal.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&self) -> Result<()> {
        self.file.flush()
    }

    /// Restores the mapping of a guest cluster from a record of an earlier run; a later record of the same
    /// cluster replaces it.
    ///
    /// # Errors
    /// As [`LayerWriter::set`]; the host clusters need not be allocated.
    pub fn restore_mapping(&self, guest: GuestCluster, mapping: Mapping) -> Result<()> {
        if let Some((first, count)) = host_clusters(mapping) {
            self.space().raise(first.get(), count)?;
        }
        self.set(guest, mapping).map(drop)
    }

    /// Marks host space up to `host` as allocated, and truncates the file there, so that later allocations
    /// read as zero. This is the last step of restoring.
    ///
    /// # Errors
    /// `InvalidInput` when `host` is out of range; `Io`.
    pub fn restore_next(&self, host: HostOffset) -> Result<()> {
        self.check_open()?;
        let end = {
            let clusters = ClusterBits::LAYER.clusters_for(host.get());
            let mut space = self.space();
            space.raise(0, clusters)?;
            space.next() * CLUSTER_BYTES
        };
        if self.file.size_bytes() > end {
            self.file.set_size(end)?;
        }
        Ok(())
    }

    /// Writes all tables and the header, punches unused clusters, and makes the whole file durable. The
    /// writer then accepts no more changes. After an error it does, and the seal may be repeated.
    ///
    /// # Errors
    /// `InvalidInput` when it is sealed already; `NoSpace`, `Io`; errors of the spill file.
    pub fn seal(&self) -> Result<Sealed> {
        if self.is_sealed.swap(true, Ordering::AcqRel) {
            return Err(Error::invalid("the layer is sealed already"));
        }
        let result = seal::seal(self);
        if result.is_err() {
            // The tables written so far must not appear in later allocations or be named by a header. The
            // seal's own error is the one to return.
            if self.file.size_bytes() >= CLUSTER_BYTES {
                let _ = self.file.punch(0, CLUSTER_BYTES);
            }
            let _ = self.file.set_size(self.next_host().get());
            self.is_sealed.store(false, Ordering::Release);
        }
        result
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        // No code panics between the changes of the two fields.
        self.space.lock()
    }

    fn compression_kind(&self) -> Result<CompressionType> {
        self.compression
            .kind()
            .ok_or_else(|| Error::invalid("the layer has no compression"))
    }

    fn check_open(&self) -> Result<()> {
        if self.is_sealed.load(Ordering::Acquire) {
            return Err(Error::invalid("the layer is sealed"));
        }
        Ok(())
    }

    fn check_guest(&self, guest: GuestCluster) -> Result<()> {
        if guest.get() < ClusterBits::LAYER.clusters_for(self.size_bytes()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "guest cluster {guest} is beyond the disk's size of {}",
            self.size_bytes()
        )))
    }

    fn check_allocated(&self, host: HostOffset, length_bytes: u64) -> Result<()> {
        let end = host.get().checked_add(length_bytes);
        if host.get() >= CLUSTER_BYTES && end.is_some_and(|end| end <= self.next_host().get()) {
            return Ok(());
        }
        Err(Error::invalid("host space is used that was not allocated").at_offset(host.get()))
    }

    fn acquire(&self, mapping: Mapping) -> Result<()> {
        let Some((first, count)) = host_clusters(mapping) else {
            return Ok(());
        };
        let users_max = match mapping {
            Mapping::Compressed(_) => u16::MAX,
            _ => 1,
        };
        for n in 0..count {
            if let Err(error) = self
                .refcounts
                .increment(HostCluster(first.get() + n), users_max)
            {
                // The first error is the one to return.
                self.release_clusters(first, n);
                return Err(error);
            }
        }
        Ok(())
    }

    fn release(&self, mapping: Mapping) {
        if let Some((first, count)) = host_clusters(mapping) {
            self.release_clusters(first, count);
        }
    }

    /// Decrements counts. A count that cannot be decremented stays too high, which the seal corrects.
    fn release_clusters(&self, first: HostCluster, count: u64) {
        for n in 0..count {
            let released = self.refcounts.decrement(HostCluster(first.get() + n));
            if released.is_err() {
                self.is_miscounted.store(true, Ordering::Release);
            }
        }
    }

    /// Counts the users of every host cluster again, when a count is known to be wrong.
    fn recount(&self) -> Result<()> {
        if !self.is_miscounted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.refcounts.clear();
        for index in self.l2.indices() {
            let entries: Vec<u64> = self.l2.peek(index, |page| {
                let entries = page.unwrap_or_default().chunks_exact(8);
                entries
                    .filter_map(|entry| field::u64_at(entry, 0))
                    .filter(|entry| *entry != 0)
                    .collect()
            })?;
            for entry in entries {
                self.acquire(LAYOUT.decode_l2(entry, 0)?)?;
            }
        }
        self.is_miscounted.store(false, Ordering::Release);
        Ok(())
    }
}

/// Byte position of a guest cluster's entry in its L2 table.
fn entry_position(guest: GuestCluster) -> usize {
    usize_from_u64(guest.get() % L2_ENTRIES * 8)
}

#[cfg(test)]
mod tests;
