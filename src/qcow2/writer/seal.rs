//! The seal: tables, refcounts and header of a layer, and the digests of all of them.

use super::refcount::BLOCK_ENTRIES;
use super::{CLUSTER_BYTES, Compression, L2_ENTRIES, LayerWriter};
use crate::error::{Error, Result};
use crate::qcow2::entry::encode_l1;
use crate::qcow2::extension::{
    EXTENSION_BACKING_FORMAT, EXTENSION_END, EXTENSION_FEATURE_NAMES, EXTENSION_LAYER_ID,
};
use crate::qcow2::feature::{Incompatible, name_table};
use crate::qcow2::field;
use crate::qcow2::header::{RawHeader, WRITTEN_BYTES};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{ClusterBits, Digest, HostCluster, HostOffset};

/// The result of sealing a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Size of the file, a multiple of the cluster size.
    pub file_bytes: u64,
    /// Bytes of the host clusters with guest data.
    pub data_bytes: u64,
    /// BLAKE3 of each host cluster with header or tables, by ascending cluster.
    pub metadata: Vec<(HostCluster, Digest)>,
}

/// Places of the tables, in host clusters.
struct Plan {
    l1: u64,
    blocks: u64,
    block_count: u64,
    table: u64,
    table_count: u64,
    end: u64,
}

impl Plan {
    /// Places the tables behind the L2 tables, which end at `start`. The refcount blocks also cover
    /// themselves.
    fn new(start: u64, l1_entries: u64) -> Self {
        let l1_count = (l1_entries * 8).div_ceil(CLUSTER_BYTES);
        let blocks = start + l1_count;
        let (mut block_count, mut table_count) = (1, 1);
        loop {
            let end = blocks + block_count + table_count;
            let blocks_needed = end.div_ceil(BLOCK_ENTRIES);
            let table_needed = (blocks_needed * 8).div_ceil(CLUSTER_BYTES);
            if blocks_needed <= block_count && table_needed <= table_count {
                return Self {
                    l1: start,
                    blocks,
                    block_count,
                    table: blocks + block_count,
                    table_count,
                    end,
                };
            }
            block_count = blocks_needed.max(block_count);
            table_count = table_needed.max(table_count);
        }
    }
}

/// Zero blocks of this size are not written: the block size of most filesystems.
const BLOCK_BYTES: usize = 4096;

/// Writes metadata clusters and records their digests.
struct Output<'a> {
    layer: &'a LayerWriter,
    metadata: Vec<(HostCluster, Digest)>,
}

impl Output<'_> {
    /// Writes one cluster. The file has nothing beyond the data yet, so zero blocks stay holes there: most of
    /// a small layer's tables are zero. Only the header's cluster may have been written before.
    fn put_cluster(&self, cluster: HostCluster, whole: &[u8]) -> Result<()> {
        let at = cluster.get() * CLUSTER_BYTES;
        if cluster.get() == 0 {
            return self.layer.file.write_at(at, whole);
        }
        let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let mut start = 0;
        for run in whole
            .chunks(BLOCK_BYTES)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length: usize = run.iter().map(|block| block.len()).sum();
            if run.first().is_some_and(|block| !is_zero(block)) {
                let bytes = whole.get(start..start + length).unwrap_or_default();
                self.layer
                    .file
                    .write_at(at + u64_from_usize(start), bytes)?;
            }
            start += length;
        }
        Ok(())
    }

    /// Writes `bytes` at a host cluster, padded with zeroes to whole clusters.
    fn put(&mut self, first: u64, bytes: &[u8]) -> Result<()> {
        for (n, chunk) in bytes.chunks(usize_from_u64(CLUSTER_BYTES)).enumerate() {
            let cluster = HostCluster(first + u64_from_usize(n));
            let mut padded;
            let whole = if u64_from_usize(chunk.len()) == CLUSTER_BYTES {
                chunk
            } else {
                padded = vec![0; usize_from_u64(CLUSTER_BYTES)];
                field::set(&mut padded, 0, chunk);
                &padded
            };
            self.put_cluster(cluster, whole)?;
            self.metadata.push((cluster, Digest::of(whole)));
        }
        Ok(())
    }
}

pub(super) fn seal(layer: &LayerWriter) -> Result<Sealed> {
    layer.recount()?;
    let data_end = layer.space().next();
    let mut output = Output {
        layer,
        metadata: Vec::new(),
    };
    let clusters = ClusterBits::LAYER.clusters_for(layer.size_bytes());
    // An empty disk has one entry too: an image without an L1 table is not valid everywhere.
    let l1_entries = clusters.div_ceil(L2_ENTRIES).max(1);
    let mut l1 = vec![0; usize_from_u64(l1_entries * 8)];
    let l2_end = write_l2(&mut output, data_end, &mut l1)?;
    let plan = Plan::new(l2_end, l1_entries);
    output.put(plan.l1, &l1)?;
    drop(l1);
    let data_clusters = write_refcounts(&mut output, data_end, &plan)?;
    let file_bytes = plan.end * CLUSTER_BYTES;
    layer.file.set_size(file_bytes)?;
    layer.file.flush()?;
    let header = header(layer, &plan, l1_entries)?;
    output.put(0, &header)?;
    layer.file.flush()?;
    let mut metadata = output.metadata;
    metadata.sort_unstable_by_key(|(cluster, _)| *cluster);
    Ok(Sealed {
        file_bytes,
        data_bytes: data_clusters * CLUSTER_BYTES,
        metadata,
    })
}

/// Writes the nonempty L2 tables from host cluster `next` on, and their L1 entries; returns the end.
fn write_l2(output: &mut Output<'_>, mut next: u64, l1: &mut [u8]) -> Result<u64> {
    let mut table = vec![0; usize_from_u64(CLUSTER_BYTES)];
    for index in output.layer.l2.indices() {
        let is_used = output.layer.l2.peek(index, |page| match page {
            Some(page) if page.iter().any(|byte| *byte != 0) => field::set(&mut table, 0, page),
            _ => false,
        })?;
        if !is_used {
            continue;
        }
        output.put(next, &table)?;
        let at = usize_from_u64(index * 8);
        if !field::set_u64(l1, at, encode_l1(HostOffset(next * CLUSTER_BYTES))) {
            return Err(Error::invalid(format!(
                "L2 table {index} is beyond the disk's size"
            )));
        }
        next += 1;
    }
    Ok(next)
}

/// Writes refcount blocks and table, punches unused clusters below `data_end`, and counts the used ones.
fn write_refcounts(output: &mut Output<'_>, data_end: u64, plan: &Plan) -> Result<u64> {
    let mut block = vec![0; usize_from_u64(CLUSTER_BYTES)];
    let mut table = vec![0; usize_from_u64(plan.table_count * CLUSTER_BYTES)];
    let mut data_clusters = 0;
    let mut unused = None;
    for index in 0..plan.block_count {
        output.layer.refcounts.copy_block(index, &mut block)?;
        let first = index * BLOCK_ENTRIES;
        for (n, entry) in block.chunks_exact_mut(2).enumerate() {
            let cluster = first + u64_from_usize(n);
            if cluster >= plan.end {
                break;
            }
            if cluster == 0 || cluster >= data_end {
                entry.copy_from_slice(&1_u16.to_be_bytes());
            }
            let is_used = field::u16_at(entry, 0) != Some(0);
            if is_used {
                punch(output.layer, &mut unused, cluster)?;
                if cluster != 0 && cluster < data_end {
                    data_clusters += 1;
                }
            } else {
                unused.get_or_insert(cluster);
            }
        }
        output.put(plan.blocks + index, &block)?;
        let place = (plan.blocks + index) * CLUSTER_BYTES;
        field::set_u64(&mut table, usize_from_u64(index * 8), place);
    }
    output.put(plan.table, &table)?;
    Ok(data_clusters)
}

/// Punches the run of unused clusters that ends before `end`, if there is one.
fn punch(layer: &LayerWriter, unused: &mut Option<u64>, end: u64) -> Result<()> {
    let Some(first) = unused.take() else {
        return Ok(());
    };
    // Nothing was ever written beyond the end of the file.
    let offset = first * CLUSTER_BYTES;
    let stop = (end * CLUSTER_BYTES).min(layer.file.size_bytes());
    if offset < stop {
        layer.file.punch(offset, stop - offset)?;
    }
    Ok(())
}

/// The whole header cluster without its padding.
fn header(layer: &LayerWriter, plan: &Plan, l1_entries: u64) -> Result<Vec<u8>> {
    let mut extensions = Vec::new();
    let mut extend = |kind: u32, data: &[u8]| -> Result<()> {
        let length = u32::try_from(data.len())
            .map_err(|e| Error::invalid("a header extension is too long").caused_by(e))?;
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend_from_slice(&length.to_be_bytes());
        extensions.extend_from_slice(data);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
        Ok(())
    };
    if layer.backing.is_some() {
        extend(EXTENSION_BACKING_FORMAT, b"qcow2")?;
    }
    extend(EXTENSION_LAYER_ID, &layer.layer_id.to_bytes())?;
    extend(EXTENSION_FEATURE_NAMES, &name_table())?;
    extend(EXTENSION_END, &[])?;
    let name = layer.backing.as_deref().unwrap_or_default().as_bytes();
    let name_offset = u64_from_usize(WRITTEN_BYTES + extensions.len());
    let narrow = |n: u64| {
        u32::try_from(n).map_err(|e| Error::invalid("a header field overflows").caused_by(e))
    };
    let is_zstd = layer.compression == Compression::Zstd;
    let raw = RawHeader {
        version: 3,
        backing_file_offset: if name.is_empty() { 0 } else { name_offset },
        backing_file_size: narrow(u64_from_usize(name.len()))?,
        cluster_bits: ClusterBits::LAYER.get(),
        size: layer.size_bytes(),
        crypt_method: 0,
        l1_size: narrow(l1_entries)?,
        l1_table_offset: plan.l1 * CLUSTER_BYTES,
        refcount_table_offset: plan.table * CLUSTER_BYTES,
        refcount_table_clusters: narrow(plan.table_count)?,
        nb_snapshots: 0,
        snapshots_offset: 0,
        incompatible_features: if is_zstd {
            Incompatible::COMPRESSION_TYPE.bits()
        } else {
            0
        },
        compatible_features: 0,
        autoclear_features: 0,
        refcount_order: 4,
        header_length: narrow(u64_from_usize(WRITTEN_BYTES))?,
        compression_type: u8::from(is_zstd),
    };
    let mut bytes = raw.encode().to_vec();
    bytes.extend_from_slice(&extensions);
    bytes.extend_from_slice(name);
    Ok(bytes)
}
