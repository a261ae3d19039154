//! Restoring a disk: every cluster is read through the chain and proved against its leaf before it is written.
//!
//! # Concurrency
//! Threads take chunks in order; each keeps the page of leaves of the region it is in.

pub mod image;
pub mod target;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{ReadAt, WriteAt};
use crate::chain::{Disk, Pool};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::ChainSource;
use crate::repo::Repository;
use crate::repo::content::{CLUSTER, PAGE_BYTES, Region, leaf_at, leaf_index, zero_leaf};
use crate::repo::leaves::Leaves;
use crate::repo::metadata::prove_chain;
use crate::repo::sidecar::point::PointDisk;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, VmId, VmName};

const CLUSTER_BYTES: u64 = CLUSTER.size_bytes();
/// Bytes that a thread takes at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// LIMIT: threads.
pub const THREADS_MAX: usize = 64;

/// How a restore goes about.
pub struct RestoreOptions<'a> {
    /// Threads; by default two for each processor.
    pub threads: Option<usize>,
    /// Whether the target is known to read as zero, so that holes are not written.
    pub target_is_zero: bool,
    /// Set to stop early.
    pub stop: &'a AtomicBool,
    /// Told the bytes that are done, holes included.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// What a restore has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Size of the target in bytes.
    pub size_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// A disk of a committed point with its leaves.
pub struct RestoreDisk {
    disk: Disk,
    leaves: Leaves,
    source_bytes: u64,
    name: String,
    proof: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl RestoreDisk {
    /// Opens a disk for a restore.
    ///
    /// # Errors
    /// `Corrupt` when the chain or its sums are broken; `Io`.
    pub fn open(
        repository: &Arc<Repository>,
        pool: &Arc<Pool>,
        vm: &VmName,
        vm_id: VmId,
        disk: &PointDisk,
    ) -> Result<Self> {
        let source = ChainSource::new(repository, vm, vm_id, false);
        let (place, name, top) = (Arc::clone(repository), vm.clone(), disk.layer.clone());
        Ok(Self {
            proof: Box::new(move || prove_chain(&place, &name, &top)),
            disk: source.open_disk(pool, &disk.layer)?,
            leaves: Leaves::open(repository, vm, &disk.layer, disk.content_root)?,
            source_bytes: disk.source_bytes,
            name: disk.name.to_string(),
        })
    }

    /// Proves what the disk's layers have besides data: a restored disk is right also where that is damaged, as each of its clusters is
    /// proved by itself.
    ///
    /// # Errors
    /// `Corrupt` naming file and offset; `Io`.
    pub fn prove_metadata(&self) -> Result<()> {
        (self.proof)()
    }

    /// Size that is restored, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Writes the whole disk to `target` and makes it durable.
    ///
    /// # Errors
    /// `Corrupt` naming the range when a cluster is not what was committed; `NoSpace`, `Io`; `Cancelled`.
    pub fn restore(&self, target: &dyn WriteAt, options: &RestoreOptions<'_>) -> Result<Restored> {
        let next = AtomicU64::new(0);
        let written = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let work = || -> Result<()> {
            let mut page = LoadedPage {
                region: None,
                leaves: vec![0; PAGE_BYTES],
            };
            let mut buf = vec![0; usize_from_u64(CHUNK_BYTES)];
            loop {
                if options.stop.load(Ordering::Relaxed) {
                    return Err(Error::new(ErrorKind::Cancelled, "the restore was stopped"));
                }
                let at = next.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
                if at >= self.source_bytes || failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let length = CHUNK_BYTES.min(self.source_bytes - at);
                written.fetch_add(
                    self.restore_chunk(
                        target,
                        at,
                        length,
                        &mut page,
                        &mut buf,
                        options.target_is_zero,
                    )?,
                    Ordering::Relaxed,
                );
                (options.progress)(length);
            }
        };
        let guarded = || {
            let result = work();
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            result
        };
        let default = std::thread::available_parallelism().map_or(2, |n| n.get() * 2);
        let threads = options.threads.unwrap_or(default).clamp(1, THREADS_MAX);
        let first = Mutex::new(Ok(()));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(e) = guarded() {
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        if first.is_ok() {
                            *first = Err(e);
                        }
                    }
                });
            }
        });
        first.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        target.flush()?;
        Ok(Restored {
            size_bytes: self.source_bytes,
            written_bytes: written.into_inner(),
        })
    }

    fn restore_chunk(
        &self,
        target: &dyn WriteAt,
        at: u64,
        length: u64,
        page: &mut LoadedPage,
        buf: &mut [u8],
        target_is_zero: bool,
    ) -> Result<u64> {
        // Whole clusters are read, so that they can be proved; the disk may end within the last one.
        let whole = length
            .next_multiple_of(CLUSTER_BYTES)
            .min(self.disk.size_bytes() - at);
        let extent = self.disk.extent_at(at, whole)?;
        let clusters = whole.div_ceil(CLUSTER_BYTES);
        let all_zero = extent.kind.reads_zero() && extent.length_bytes == whole;
        let bytes = buf.get_mut(..usize_from_u64(whole)).unwrap_or_default();
        if all_zero {
            self.prove_zero(at, clusters, page)?;
            if target_is_zero {
                return Ok(0);
            }
            target.punch(at, length)?;
            return Ok(0);
        }
        self.disk.read_at(at, bytes)?;
        let mut stored = 0;
        let mut run: Option<(u64, u64)> = None;
        let put = |run: Option<(u64, u64)>| -> Result<u64> {
            let Some((from, end)) = run else { return Ok(0) };
            let end = end.min(length);
            let part = bytes
                .get(usize_from_u64(from)..usize_from_u64(end))
                .unwrap_or_default();
            target.write_at(at + from, part)?;
            Ok(end - from)
        };
        for n in 0..clusters {
            let cluster = GuestCluster((at / CLUSTER_BYTES) + n);
            let (from, end) = (n * CLUSTER_BYTES, ((n + 1) * CLUSTER_BYTES).min(whole));
            let part = bytes
                .get(usize_from_u64(from)..usize_from_u64(end))
                .unwrap_or_default();
            let stated = self.stated(cluster, page)?;
            self.prove(cluster, part, &stated)?;
            if stated == zero_leaf() && target_is_zero {
                stored += put(run.take())?;
            } else {
                run = Some((run.map_or(from, |(start, _)| start), end));
            }
        }
        stored += put(run)?;
        Ok(stored)
    }

    fn stated(&self, cluster: GuestCluster, page: &mut LoadedPage) -> Result<Digest> {
        let region = Region::of(cluster);
        if page.region != Some(region) {
            page.region = None;
            self.leaves.load_page(region, &mut page.leaves)?;
            page.region = Some(region);
        }
        Ok(leaf_at(&page.leaves, leaf_index(cluster)))
    }

    fn prove(&self, cluster: GuestCluster, bytes: &[u8], stated: &Digest) -> Result<()> {
        let found = if u64_from_usize(bytes.len()) == CLUSTER_BYTES {
            Digest::of(bytes)
        } else {
            let mut whole = bytes.to_vec();
            whole.resize(usize_from_u64(CLUSTER_BYTES), 0);
            Digest::of(&whole)
        };
        if found == *stated {
            return Ok(());
        }
        let at = cluster.0 * CLUSTER_BYTES;
        Err(Error::corrupt(
            format!(
                "disk {}, bytes {at} to {}: not what was backed up",
                self.name,
                at + CLUSTER_BYTES
            ),
            stated,
            found,
        ))
        .at_offset(at)
    }

    fn prove_zero(&self, at: u64, clusters: u64, page: &mut LoadedPage) -> Result<()> {
        let zero = zero_leaf();
        for cluster in (at / CLUSTER_BYTES..).take(usize_from_u64(clusters)) {
            let stated = self.stated(GuestCluster(cluster), page)?;
            if stated != zero {
                let place = cluster * CLUSTER_BYTES;
                return Err(Error::corrupt(
                    format!(
                        "disk {}, bytes from {place}: zeroes instead of what was backed up",
                        self.name
                    ),
                    stated,
                    zero,
                ))
                .at_offset(place);
            }
        }
        Ok(())
    }
}

/// The page that a thread has at hand.
struct LoadedPage {
    region: Option<Region>,
    leaves: Vec<u8>,
}
