//! One image file, opened for reading: its header, its L1 table, L2 tables on request, and its clusters.
//!
//! # Invariants
//! - Only the given file is read; the caller provides a data file.
//! - A file may end within its last data cluster or sector (QEMU writes such images); the missing rest reads
//!   as zero. Restorefs's own layers are padded to whole clusters, so there it is `Corrupt`.
//!
//! # Why
//! The L1 table is kept as its nonzero entries, because thousands of layers may be open, most of them small
//! increments of large disks. L2 tables are not cached here: the callers know which ones they will need
//! again.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use super::codec;
use super::entry::{COPIED, CompressedCluster, Layout, Mapping};
use super::field;
use super::header::{CompressionType, Header};
use crate::block::ReadAt;
use crate::error::{Error, Result, ResultExt};
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::types::{ClusterBits, HostOffset, LayerId};

/// LIMIT: bytes of an L1 table read at once.
const L1_CHUNK_BYTES: u64 = 64 << 10;

/// Bytes of the smallest cluster, which contain the fixed header of any image.
const CLUSTER_BYTES_MIN: u64 = 512;

/// One QCOW2 file, open for reading.
pub struct Image {
    file: Arc<dyn ReadAt>,
    data_file: Option<Arc<dyn ReadAt>>,
    header: Header,
    layout: Layout,
    /// L1 index and entry, sorted; zero entries are omitted.
    l1: Box<[(u32, u64)]>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("header", &self.header)
            .field("l1", &self.l1.len())
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Reads and checks header and L1 table. No backing or data file is opened.
    ///
    /// # Errors
    /// As [`Header::parse`]; `Corrupt` when the L1 table passes the end of the file; `Io`.
    pub fn open(file: Arc<dyn ReadAt>) -> Result<Self> {
        let header = load_header(&*file)?;
        let layout = Layout::new(&header, file.size_bytes());
        let l1 = load_l1(&*file, &header)?;
        Ok(Self {
            file,
            data_file: None,
            header,
            layout,
            l1,
        })
    }

    /// Sets the external data file of the image.
    #[must_use]
    pub fn with_data_file(mut self, data_file: Arc<dyn ReadAt>) -> Self {
        self.data_file = Some(data_file);
        self
    }

    /// The decoded header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The layer's id; only restorefs's layers have one.
    #[must_use]
    pub fn layer_id(&self) -> Option<LayerId> {
        self.header.layer_id
    }

    /// Name of the backing file, verbatim.
    #[must_use]
    pub fn backing_name(&self) -> Option<&[u8]> {
        self.header.backing_name.as_deref()
    }

    /// Format of the backing file.
    #[must_use]
    pub fn backing_format(&self) -> Option<&str> {
        self.header.backing_format.as_deref()
    }

    /// Name of the external data file.
    #[must_use]
    pub fn data_file_name(&self) -> Option<&[u8]> {
        self.header.data_file_name.as_deref()
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// Size of the file itself in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.layout.file_bytes
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn ReadAt> {
        &self.file
    }

    /// Cluster size.
    #[must_use]
    pub fn cluster_bits(&self) -> ClusterBits {
        self.header.cluster_bits
    }

    /// Whether L2 entries describe subclusters.
    #[must_use]
    pub fn has_extended_l2(&self) -> bool {
        self.header.has_extended_l2()
    }

    /// Guest clusters that one L2 table maps.
    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        self.header.l2_entries()
    }

    /// Indices of all nonzero L1 entries, ascending; some may lie beyond the virtual size.
    pub fn l1_indices(&self) -> impl Iterator<Item = u64> + '_ {
        self.l1.iter().map(|(index, _)| u64::from(*index))
    }

    /// The index of the first nonzero L1 entry at or after `l1_index`.
    #[must_use]
    pub fn next_l2(&self, l1_index: u64) -> Option<u64> {
        let at = self
            .l1
            .partition_point(|(index, _)| u64::from(*index) < l1_index);
        self.l1.get(at).map(|(index, _)| u64::from(*index))
    }

    /// Offset of the L2 table of an L1 entry; `None` when the entry has none.
    ///
    /// # Errors
    /// `Corrupt` when the entry is malformed or passes the end of the file.
    pub fn l2_offset(&self, l1_index: u64) -> Result<Option<HostOffset>> {
        let Ok(at) = self
            .l1
            .binary_search_by_key(&l1_index, |(index, _)| u64::from(*index))
        else {
            return Ok(None);
        };
        let Some((_, entry)) = self.l1.get(at) else {
            return Ok(None);
        };
        self.layout.decode_l1(*entry).at_offset(
            self.header
                .l1_offset
                .get()
                .saturating_add(l1_index.saturating_mul(8)),
        )
    }

    /// Whether an L1 entry has the flag that the refcount of its L2 table is 1.
    pub(super) fn is_l1_copied(&self, l1_index: u64) -> bool {
        self.l1
            .binary_search_by_key(&l1_index, |(index, _)| u64::from(*index))
            .ok()
            .and_then(|at| self.l1.get(at))
            .is_some_and(|(_, entry)| entry & COPIED != 0)
    }

    /// Reads the L2 table of an L1 entry; `None` when the entry has none.
    ///
    /// # Errors
    /// As [`Image::l2_offset`]; `Io`.
    pub fn load_l2(&self, l1_index: u64) -> Result<Option<L2Table>> {
        let Some(host) = self.l2_offset(l1_index)? else {
            return Ok(None);
        };
        let mut bytes =
            vec![0; usize_from_u64(self.cluster_bits().size_bytes())].into_boxed_slice();
        self.file
            .read_at(host.get(), &mut bytes)
            .at_offset(host.get())?;
        Ok(Some(L2Table {
            bytes,
            host,
            layout: self.layout,
        }))
    }

    /// Reads bytes of data clusters, from the data file when there is one. The range may span contiguous
    /// clusters.
    ///
    /// # Errors
    /// `InvalidInput` when the data file is missing; `Corrupt` when the range is beyond the end; `Io`.
    pub fn read_data(&self, host: HostOffset, buf: &mut [u8]) -> Result<()> {
        let file = self.data_source()?;
        self.read_tail(&**file, host, buf, self.cluster_bits().size_bytes())
    }

    /// The file that contains the data clusters.
    ///
    /// # Errors
    /// `InvalidInput` when it is an external one that is missing.
    pub fn data_source(&self) -> Result<&Arc<dyn ReadAt>> {
        if self.header.has_data_file() {
            self.data_file.as_ref().ok_or_else(|| {
                Error::invalid("the image has an external data file, which was not opened")
            })
        } else {
            Ok(&self.file)
        }
    }

    /// Reads a compressed cluster; `out` is exactly one cluster.
    ///
    /// # Errors
    /// `Corrupt` when it does not decompress to a whole cluster; `InvalidInput` for another length; `Io`.
    pub fn read_compressed(&self, cluster: CompressedCluster, out: &mut [u8]) -> Result<()> {
        if u64_from_usize(out.len()) != self.cluster_bits().size_bytes() {
            return Err(Error::invalid(
                "a compressed cluster is read into exactly one cluster",
            ));
        }
        codec::with_scratch(|scratch| {
            let (buffer, contexts) = scratch.split();
            // LIMIT: an L2 entry counts at most 2^(cluster_bits - 8) sectors: two clusters.
            buffer.resize(usize_from_u32(cluster.length_bytes), 0);
            self.read_tail(&*self.file, cluster.host, buffer, 512)?;
            codec::decompress(self.header.compression, contexts, buffer, out)
                .map(drop)
                .at_offset(cluster.host.get())
        })
    }

    /// Reads a compressed cluster as [`Image::read_compressed`], and its compressed bytes into `packed`. The L2 entry
    /// counts whole sectors; `packed` has what the cluster itself takes.
    ///
    /// # Errors
    /// As [`Image::read_compressed`].
    pub fn read_packed(
        &self,
        cluster: CompressedCluster,
        packed: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<()> {
        packed.resize(usize_from_u32(cluster.length_bytes), 0);
        self.read_tail(&*self.file, cluster.host, packed, 512)?;
        let taken = codec::with_scratch(|scratch| {
            codec::decompress(self.header.compression, scratch.split().1, packed, out)
        })
        .at_offset(cluster.host.get())?;
        packed.truncate(taken);
        Ok(())
    }

    /// The compression method of the header.
    #[must_use]
    pub fn compression(&self) -> CompressionType {
        self.header.compression
    }

    /// Reads a range that may pass the end of a source's file, but only within the last unit of `unit_bytes`.
    fn read_tail(
        &self,
        file: &dyn ReadAt,
        host: HostOffset,
        buf: &mut [u8],
        unit_bytes: u64,
    ) -> Result<()> {
        let size = file.size_bytes();
        let end = host.get().checked_add(u64_from_usize(buf.len()));
        if end.is_some_and(|end| end <= size) {
            return file.read_at(host.get(), buf);
        }
        let padded = size.checked_next_multiple_of(unit_bytes);
        if end.is_none() || end > padded || self.layer_id().is_some() {
            return Err(Error::corrupt(
                "a cluster passes the end of the file",
                format!("an end of at most {size}"),
                format!("{}+{}", host, buf.len()),
            )
            .at_offset(host.get()));
        }
        let present = usize_from_u64(size.saturating_sub(host.get()));
        let (head, tail) = buf
            .split_at_mut_checked(present)
            .ok_or_else(|| Error::invalid("a range does not pass the end").at_offset(size))?;
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        file.read_at(host.get(), head)
    }
}

/// Reads the available part of the first cluster, and decodes the header.
fn load_header(file: &dyn ReadAt) -> Result<Header> {
    let size = file.size_bytes();
    let mut bytes = vec![0; usize_from_u64(size.min(CLUSTER_BYTES_MIN))];
    file.read_at(0, &mut bytes)?;
    // Magic and cluster_bits determine the size of the rest; the parser reports a wrong value.
    let bits = field::u32_at(&bytes, 20).and_then(ClusterBits::new);
    if let Some(bits) = bits
        && field::u32_at(&bytes, 0) == Some(super::header::MAGIC)
    {
        bytes = vec![0; usize_from_u64(size.min(bits.size_bytes()))];
        file.read_at(0, &mut bytes)?;
    }
    Header::parse(&bytes)
}

fn load_l1(file: &dyn ReadAt, header: &Header) -> Result<Box<[(u32, u64)]>> {
    // LIMIT: `Header::parse` bounds the table at 32 MiB, and the file's size bounds the allocation.
    let start = header.l1_offset.get();
    let length = u64::from(header.l1_entries).saturating_mul(8);
    let end = start.checked_add(length);
    if end.is_none_or(|end| end > file.size_bytes()) {
        return Err(Error::corrupt(
            "the L1 table passes the end of the file",
            format!("an end of at most {}", file.size_bytes()),
            format!("{start}+{length}"),
        )
        .at_offset(40));
    }
    let mut entries = Vec::new();
    let mut chunk = vec![0; usize_from_u64(L1_CHUNK_BYTES.min(length))];
    let mut index = 0_u32;
    let mut at = start;
    let mut rest = length;
    while rest > 0 {
        let take = rest.min(L1_CHUNK_BYTES);
        let part = chunk.get_mut(..usize_from_u64(take)).unwrap_or_default();
        file.read_at(at, part)?;
        for entry in part.chunks_exact(8) {
            match field::u64_at(entry, 0) {
                Some(0) | None => {}
                Some(entry) => entries.push((index, entry)),
            }
            index = index.saturating_add(1);
        }
        at = at.saturating_add(take);
        rest = rest.saturating_sub(take);
    }
    Ok(entries.into_boxed_slice())
}

/// An L2 table: the mappings of consecutive guest clusters.
pub struct L2Table {
    bytes: Box<[u8]>,
    host: HostOffset,
    layout: Layout,
}

impl L2Table {
    /// Entries of the table.
    #[must_use]
    pub fn len(&self) -> u64 {
        let shift = if self.layout.is_extended { 4 } else { 3 };
        u64_from_usize(self.bytes.len()) >> shift
    }

    /// Always false: a table fills a cluster.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the table.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of the table.
    #[must_use]
    pub fn host(&self) -> HostOffset {
        self.host
    }

    /// Whether entry `index` has the flag that the refcount of its host cluster is 1.
    pub(super) fn is_copied(&self, index: u64) -> bool {
        let entry_bytes = if self.layout.is_extended { 16 } else { 8 };
        field::position(index, entry_bytes)
            .and_then(|at| field::u64_at(&self.bytes, at))
            .is_some_and(|entry| entry & COPIED != 0)
    }

    /// Decodes and checks entry `index`.
    ///
    /// # Errors
    /// `InvalidInput` beyond [`L2Table::len`]; `Corrupt` when the entry is malformed, misaligned or out of range.
    pub fn mapping(&self, index: u64) -> Result<Mapping> {
        let entry_bytes = if self.layout.is_extended { 16 } else { 8 };
        let at = field::position(index, entry_bytes).unwrap_or(usize::MAX);
        let entry = field::u64_at(&self.bytes, at)
            .ok_or_else(|| Error::invalid(format!("an L2 table has no entry {index}")))?;
        let bitmap = if self.layout.is_extended {
            field::u64_at(&self.bytes, at.saturating_add(8)).unwrap_or(0)
        } else {
            0
        };
        self.layout
            .decode_l2(entry, bitmap)
            .at_offset(self.host.get().saturating_add(u64_from_usize(at)))
    }
}

impl std::fmt::Debug for L2Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L2Table({} entries at {})", self.len(), self.host)
    }
}
