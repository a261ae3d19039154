//! Builds the layer that an interval of a chain becomes.
//!
//! # Concurrency
//! Threads take regions in order. A build holds its own file (an flock), and no other lock.

use std::sync::Arc;

use super::mend::Mend;
use super::options::MergeOptions;
use super::plan::{Interval, Reach};
use super::source::{RegionView, SourceLayer, kept_clusters, kept_runs, open_all};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::layer::{Base, LayerDraft};
use crate::qcow2::header::CompressionType;
use crate::qcow2::{Compression, LayerOptions, Mapping, compress};
use crate::repo::content::{
    CLUSTER_BYTES, LEAVES_PER_REGION, PAGE_BYTES, Region, leaf_at, leaf_of, zero_page,
};
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::leaves::Leaves;
use crate::repo::replace::Replacement;
use crate::repo::{Repository, Slot};
use crate::store::HeldFile;
use crate::task::{self, Monitor, Pace};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, HostOffset, LayerId};

/// Clusters that are read at once.
const RUN_CLUSTERS: usize = 16;
/// LIMIT: extents of a file that shares them with the layer that it replaces; with more of them a copy is quicker, and reads faster.
const EXTENTS_MAX: u64 = 1 << 20;
/// LIMIT: threads that copy regions.
const THREADS_MAX: usize = 4;

/// Buffers of one thread.
struct Buffers {
    run: Vec<u8>,
    packed: Vec<u8>,
    page: Vec<u8>,
}

struct Builder<'a> {
    draft: &'a LayerDraft,
    sources: &'a [SourceLayer],
    /// The position of the layer whose file was cloned.
    cloned: Option<usize>,
    method: CompressionType,
    size_bytes: u64,
    pace: &'a Pace,
    mend: Option<&'a Mend<'a>>,
    monitor: &'a Monitor,
}

/// Clusters that lie one after the other, in the disk and in the same layer's file.
struct Run {
    first: usize,
    count: usize,
    source: usize,
    kind: Mapping,
    /// A single cluster that may be damaged.
    is_suspect: bool,
}

/// A layer that is complete and durable, in a file that nobody else takes as long as this value lives.
pub struct Build {
    /// What it replaces.
    pub replacement: Replacement,
    _held: Box<dyn HeldFile>,
}

/// Builds the layer that an interval becomes; [`crate::repo::Owner::replace`] swaps it in. Progress counts the bytes of copied clusters.
/// With `mend`, damaged clusters of an interval of one layer get their content from elsewhere.
///
/// # Errors
/// `Stale` when the chain has changed; `Corrupt` naming layer and offset when a cluster is not what was committed;
/// `NotFound`, `NoSpace`, `Io`; `Cancelled`. Nothing of the build is left then.
pub fn build(
    repository: &Arc<Repository>,
    interval: &Interval,
    options: &MergeOptions,
    mend: Option<&Mend<'_>>,
    monitor: &Monitor,
) -> Result<Build> {
    let (vm, vm_id) = (&interval.vm, interval.vm_id);
    let sources = open_all(repository, vm, &interval.layers)?;
    let (Some(top), Some(bottom)) = (sources.first(), sources.last()) else {
        return Err(Error::invalid("no layers were to be merged"));
    };
    let below = bottom.below.clone();
    if interval.reach == Reach::Full && below.is_some() {
        return Err(Error::invalid("a full layer is built from a whole chain"));
    }
    let base = match &below {
        Some(slot) => {
            let file = LayerFile::open(repository, vm, slot)?;
            let root = file
                .prove_header(repository, vm, slot)?
                .summary()
                .content_root();
            let leaves = Leaves::open(repository, vm, vm_id, slot, root)?;
            // How much of the base is data matters to points, not to a layer that replaces another one.
            Some(Base::new(leaves, 0))
        }
        None => None,
    };
    let layer = LayerId::random();
    let method = top.image.compression();
    let layer_options = LayerOptions {
        size_bytes: top.image.size_bytes(),
        backing: below.as_ref().map(Slot::layer_file),
        layer_id: layer,
        compression: match method {
            CompressionType::Zlib => Compression::Zlib,
            CompressionType::Zstd => Compression::Zstd,
        },
    };
    let size_bytes = layer_options.size_bytes;
    let keys = VmKeys::new(vm)?;
    let key = keys.build(&top.slot, layer)?;
    let cloned = match worth_cloning(&sources, method)? {
        Some((position, source)) => {
            let file = repository
                .stage()
                .clone_object(&keys.layer(&source.slot)?, &key)?;
            file.map(|file| (position, file))
        }
        None => None,
    };
    let (cloned, file) = cloned.unzip();
    let draft = LayerDraft::create_build(
        repository,
        vm,
        &top.slot,
        file,
        layer_options,
        base,
        &options.budget,
    )
    .inspect_err(|_| {
        // A clone that nothing can be written to; the error is the one to return.
        let _ = repository.stage().delete(&key);
    })?;
    let built = repository.stage().hold_file(&key).and_then(|held| {
        let held = held.ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "another process holds the new layer's file",
            )
        })?;
        let builder = Builder {
            draft: &draft,
            sources: &sources,
            cloned,
            method,
            size_bytes,
            pace: &options.pace,
            mend,
            monitor,
        };
        builder.copy()?;
        let sealed = draft.build()?;
        let stated = top.sums.summary().content_root();
        if sealed.content_root != stated {
            return Err(Error::corrupt(
                format!(
                    "layers from {} on do not have the content that was committed",
                    top.slot
                ),
                stated,
                sealed.content_root,
            ));
        }
        Ok(held)
    });
    let held = match built {
        Ok(held) => held,
        Err(e) => {
            if let Err(left) = draft.discard() {
                tracing::warn!(vm = %vm, slot = %top.slot, error = %left.report(), "a build that failed is left over until the repository is next opened");
            }
            return Err(e);
        }
    };
    let replaced = match interval.reach {
        Reach::Merge => sources.len(),
        Reach::Full => 1,
    };
    let replacement = Replacement {
        vm: vm.clone(),
        interval: sources
            .iter()
            .take(replaced)
            .map(|source| (source.slot.clone(), source.layer))
            .collect(),
        rest: sources
            .iter()
            .skip(replaced)
            .map(|source| source.slot.clone())
            .collect(),
        below,
        layer,
    };
    Ok(Build {
        replacement,
        _held: held,
    })
}

/// The layer whose file is worth cloning: the one that holds most of what stays, unless a third of the new file would be
/// holes of what does not. A clone keeps its compressed clusters, so it must have the new layer's method.
fn worth_cloning(
    sources: &[SourceLayer],
    method: CompressionType,
) -> Result<Option<(usize, &SourceLayer)>> {
    let kept = kept_clusters(sources, 1, sources.len())?;
    let kept = kept.first().map(Vec::as_slice).unwrap_or_default();
    let largest = kept.iter().zip(sources).enumerate();
    let largest = largest.max_by_key(|(_, (kept, _))| **kept);
    let worth = largest.filter(|(_, (kept, source))| {
        let file_clusters = source.image.file_bytes() / CLUSTER_BYTES;
        source.image.compression() == method && **kept * 3 >= file_clusters * 2
    });
    let Some((position, (_, source))) = worth else {
        return Ok(None);
    };
    let runs = kept_runs(sources, position)?;
    if runs > EXTENTS_MAX {
        tracing::info!(slot = %source.slot, runs, "a layer would share too many extents with the one that it replaces; it is copied");
        return Ok(None);
    }
    Ok(Some((position, source)))
}

impl Builder<'_> {
    fn copy(&self) -> Result<()> {
        let regions = Region::count(self.size_bytes);
        let mut left = (0..regions).map(Region);
        task::on_threads(
            task::threads(None, THREADS_MAX.min(usize_from_u64(regions))),
            self.monitor,
            || Ok(left.next()),
            || Buffers {
                run: vec![0; RUN_CLUSTERS * usize_from_u64(CLUSTER_BYTES)],
                packed: Vec::new(),
                page: vec![0; PAGE_BYTES],
            },
            |buffers, region| self.copy_region(region, buffers),
        )
    }

    fn copy_region(&self, region: Region, buffers: &mut Buffers) -> Result<()> {
        let Some(view) = RegionView::of(self.sources, region)? else {
            return Ok(());
        };
        buffers.page.copy_from_slice(zero_page());
        view.spread(&mut buffers.page);
        for run in self.runs(region, &view)? {
            self.monitor.check()?;
            self.copy_run(region, &run, buffers)
                .map_err(|e| self.name(&run, e))?;
            self.monitor
                .advance(u64_from_usize(run.count) * CLUSTER_BYTES);
        }
        self.prove(region, &view, &buffers.page)
    }

    /// The held clusters of a region, as runs.
    fn runs(&self, region: Region, view: &RegionView) -> Result<Vec<Run>> {
        let tables = self
            .sources
            .iter()
            .map(|source| match source.image.load_l2(region.0) {
                // All that it leads to is suspect.
                Err(e) if self.mend.is_some() && e.kind() == ErrorKind::Corrupt => Ok(None),
                other => other,
            })
            .collect::<Result<Vec<_>>>()?;
        let mut runs: Vec<Run> = Vec::new();
        for (index, holder) in view.holder.iter().enumerate() {
            let Some(source) = *holder else { continue };
            let table = tables.get(source).and_then(Option::as_ref);
            let mapping = match table {
                Some(table) => table.mapping(u64_from_usize(index)),
                None => Ok(Mapping::Unallocated),
            };
            if self.is_suspect(region, index) {
                // Where its entry is damaged, the layer does not have it.
                let kind = mapping.unwrap_or(Mapping::Unallocated);
                runs.push(Run::suspect(index, source, kind));
                continue;
            }
            let mapping = mapping?;
            if let Some(last) = runs.last_mut()
                && last.source == source
                && last.first + last.count == index
                && last.count < RUN_CLUSTERS
                && !last.is_suspect
                && last.continues(mapping)
            {
                last.count += 1;
                continue;
            }
            runs.push(Run {
                first: index,
                count: 1,
                source,
                kind: mapping,
                is_suspect: false,
            });
        }
        Ok(runs)
    }

    fn copy_run(&self, region: Region, run: &Run, buffers: &mut Buffers) -> Result<()> {
        let source = self.sources.get(run.source);
        let source = source.ok_or_else(|| Error::invalid("a run of no layer"))?;
        let first = GuestCluster(region.first_cluster().0 + u64_from_usize(run.first));
        let at = first.0 * CLUSTER_BYTES;
        let length = u64_from_usize(run.count) * CLUSTER_BYTES;
        // The disk may end within its last cluster.
        let inside = usize_from_u64(length.min(self.size_bytes.saturating_sub(at)));
        let bytes = buffers
            .run
            .get_mut(..usize_from_u64(length))
            .ok_or_else(|| Error::invalid("a run is longer than its buffer"))?;
        if run.is_suspect {
            let leaf = leaf_at(&buffers.page, run.first);
            return self.mend(first, source, run.kind, &leaf, bytes);
        }
        if self.cloned == Some(run.source) {
            return self.take_over(first, run, &buffers.page);
        }
        self.pace.wait_for(length, self.monitor)?;
        match run.kind {
            Mapping::Data(host) => source.image.read_data(host, bytes)?,
            Mapping::Zero { .. } => bytes.fill(0),
            Mapping::Compressed(place) => {
                source
                    .image
                    .read_packed(place, &mut buffers.packed, bytes)?;
                let leaf = leaf_of(bytes);
                let packed = if source.image.compression() == self.method {
                    Some(std::mem::take(&mut buffers.packed))
                } else {
                    compress(self.method, bytes)
                };
                if let Some(packed) =
                    packed.filter(|packed| u64_from_usize(packed.len()) < CLUSTER_BYTES)
                {
                    self.draft.take_compressed(first, &packed, &leaf)?;
                    buffers.packed = packed;
                    return Ok(());
                }
            }
            Mapping::Unallocated | Mapping::Subclusters { .. } => {
                return Err(unheld().at_offset(at));
            }
        }
        self.draft
            .write(first, bytes.get(..inside).unwrap_or_default(), &())
    }

    fn is_suspect(&self, region: Region, index: usize) -> bool {
        let cluster = GuestCluster(region.first_cluster().0 + u64_from_usize(index));
        self.mend
            .is_some_and(|mend| mend.suspects.contains(&cluster))
    }

    /// Takes a suspect cluster as the layer has it, else from elsewhere. What nobody has is taken as it can be read, with the leaf of
    /// what was committed, so that it stays damaged and known as such.
    fn mend(
        &self,
        cluster: GuestCluster,
        source: &SourceLayer,
        mapping: Mapping,
        leaf: &Digest,
        bytes: &mut [u8],
    ) -> Result<()> {
        let Some(mend) = self.mend else {
            return Err(unheld());
        };
        let at = cluster.0 * CLUSTER_BYTES;
        let inside = usize_from_u64(CLUSTER_BYTES.min(self.size_bytes.saturating_sub(at)));
        self.pace.wait_for(CLUSTER_BYTES, self.monitor)?;
        let read = match mapping {
            Mapping::Data(host) => source.image.read_data(host, bytes),
            Mapping::Zero { .. } => {
                bytes.fill(0);
                Ok(())
            }
            Mapping::Compressed(place) => source.image.read_compressed(place, bytes),
            Mapping::Unallocated | Mapping::Subclusters { .. } => Err(unheld()),
        };
        let is_whole = read.is_ok() && leaf_of(bytes) == *leaf;
        if !is_whole {
            let mut given = vec![0; bytes.len()];
            let is_mended = mend.donor.give(cluster, leaf, &mut given)?;
            mend.note(cluster, is_mended);
            if !is_mended {
                if read.is_err() {
                    bytes.fill(0);
                }
                return self.draft.take_damaged(cluster, bytes, leaf);
            }
            bytes.copy_from_slice(&given);
        }
        self.draft
            .write(cluster, bytes.get(..inside).unwrap_or_default(), &())
    }

    /// Takes over clusters that lie in the cloned file.
    fn take_over(&self, first: GuestCluster, run: &Run, page: &[u8]) -> Result<()> {
        for n in 0..run.count {
            let held = match run.kind {
                Mapping::Data(host) => {
                    Mapping::Data(HostOffset(host.0 + u64_from_usize(n) * CLUSTER_BYTES))
                }
                Mapping::Unallocated | Mapping::Subclusters { .. } => {
                    return Err(unheld().at_offset(first.0 * CLUSTER_BYTES));
                }
                Mapping::Zero { .. } => Mapping::Zero { host: None },
                Mapping::Compressed(place) => Mapping::Compressed(place),
            };
            let cluster = GuestCluster(first.0 + u64_from_usize(n));
            self.draft
                .take_over(cluster, held, &leaf_at(page, run.first + n))?;
        }
        Ok(())
    }

    fn name(&self, run: &Run, error: Error) -> Error {
        match self.sources.get(run.source) {
            Some(source) => error.at_path(source.slot.layer_file()),
            None => error,
        }
    }

    /// Compares what was copied with the sums of the layers that it came from.
    fn prove(&self, region: Region, view: &RegionView, page: &[u8]) -> Result<()> {
        let found = self.draft.known_leaves(region, 0, LEAVES_PER_REGION)?;
        for (index, (holder, found)) in view.holder.iter().zip(&found).enumerate() {
            let Some(position) = *holder else { continue };
            let stated = leaf_at(page, index);
            if *found == stated {
                continue;
            }
            let cluster = region.first_cluster().0 + u64_from_usize(index);
            let damaged = Error::corrupt(
                "a cluster of a layer is not what was committed",
                stated,
                found,
            );
            return Err(match self.sources.get(position) {
                Some(source) => damaged.at_path(source.slot.layer_file()),
                None => damaged,
            })
            .at_offset(cluster * CLUSTER_BYTES);
        }
        Ok(())
    }
}

fn unheld() -> Error {
    Error::corrupt(
        "a layer does not hold a cluster of which it has sums",
        "data, zeroes or a compressed cluster",
        "none",
    )
}

impl Run {
    const fn suspect(index: usize, source: usize, kind: Mapping) -> Self {
        Self {
            first: index,
            count: 1,
            source,
            kind,
            is_suspect: true,
        }
    }

    /// Whether a cluster with this mapping continues the run.
    fn continues(&self, next: Mapping) -> bool {
        match (self.kind, next) {
            (Mapping::Data(host), Mapping::Data(next)) => {
                HostOffset(host.0 + u64_from_usize(self.count) * CLUSTER_BYTES) == next
            }
            (Mapping::Zero { .. }, Mapping::Zero { .. }) => true,
            _ => false,
        }
    }
}
