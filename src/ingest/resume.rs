//! Resuming: a session goes on after a crash, or after a commit that failed, from its sidecar and its logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::begin::{assemble, layer_options, spill};
use super::disk::{DiskWriter, UNKNOWN};
use super::record::{Record, RecordLog};
use super::session::{Engine, Session};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::point::ChainSource;
use crate::qcow2::{CompressedCluster, LayerWriter, Mapping};
use crate::repo::content::{
    CLUSTER, CLUSTER_BYTES, LEAVES_PER_REGION, Region, leaf_at, leaf_index, leaf_of, set_leaf,
    zero_leaf,
};
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::session::{self as sidecar, SessionDisk};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{GuestCluster, HostOffset, PointName, VmName};

/// What a log says of a disk's size and state at its end.
#[derive(Debug, Clone, Copy, Default)]
struct LogEnd {
    size: Option<(u64, u64)>,
    finished: bool,
}

impl Session {
    /// Goes on with a session that an earlier process left. What was flushed is there; its clusters are rehashed in
    /// the background.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` (the parent has other content now, or is damaged); `Io`.
    pub fn resume(engine: &Engine, vm: &VmName, name: &PointName) -> Result<Arc<Self>> {
        let repository = engine.owner.repository();
        let session = repository.session(vm, name)?;
        let vm_id = engine.owner.vm_snapshot(vm)?.vm.vm_id;
        let source = ChainSource::new(repository, vm, vm_id, true);
        let disks = session
            .disks
            .iter()
            .filter(|disk| !disk.unlinked)
            .map(|disk| resume_disk(engine, &session, &source, disk))
            .collect::<Result<Vec<_>>>()?;
        let serial = match session.serial {
            0 => engine.owner.next_serial()?,
            serial => serial,
        };
        Ok(Self::new(engine.clone(), session, serial, disks, 0))
    }
}

/// Opens one disk again; a layer that was sealed already is taken back.
pub(super) fn resume_disk(
    engine: &Engine,
    session: &sidecar::Session,
    source: &Arc<ChainSource>,
    disk: &SessionDisk,
) -> Result<Arc<DiskWriter>> {
    let keys = VmKeys::new(&session.vm)?;
    let (store, stage) = (
        engine.owner.repository().store(),
        engine.owner.repository().stage(),
    );
    let open = keys.open_layer(&disk.layer)?;
    match store.delete(&keys.sums(&disk.layer, disk.layer_id)?) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    stage.reclaim(&keys.layer(&disk.layer)?, &open)?;
    let writer = LayerWriter::resume(
        stage.open(&open)?,
        layer_options(session, disk),
        &engine.budget,
        spill(engine),
    )?;
    let mut end = LogEnd::default();
    let log = RecordLog::resume(
        stage.open(&keys.map(&session.name, disk.log_name())?)?,
        |record| apply(&writer, &mut end, record).map_err(|error| of_record(error, record)),
    )
    .at_path(&*format!("{}.map", disk.name))?;
    writer.restore_next(writer.next_host())?;
    let writer = assemble(engine, session, source, disk, writer, log)?;
    if let Some((size_bytes, source_bytes)) = end.size {
        writer.size_bytes.store(size_bytes, Ordering::SeqCst);
        writer.source_bytes.store(source_bytes, Ordering::SeqCst);
    }
    writer.finish.set(end.finished);
    writer.word.resumed(end.finished);
    let unknown = writer.mark_unknown()?;
    let writer = Arc::new(writer);
    if unknown > 0 {
        rehash_in_background(&writer)?;
    }
    Ok(writer)
}

/// What no writer has recorded is damage of the log.
fn of_record(error: Error, record: Record) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::LimitExceeded => Error::corrupt(
            "a record in the log of a session",
            "one that fits the disk",
            format!("{record:?}"),
        )
        .caused_by(error),
        _ => error,
    }
}

fn apply(writer: &LayerWriter, end: &mut LogEnd, record: Record) -> Result<()> {
    let clusters = |first: u64, count: u32| first..first.saturating_add(u64::from(count));
    match record {
        Record::Data {
            cluster,
            count,
            host,
        } => {
            for (n, cluster) in (0..).zip(clusters(cluster, count)) {
                writer.restore_mapping(
                    GuestCluster(cluster),
                    Mapping::Data(HostOffset(host + n * CLUSTER_BYTES)),
                )?;
            }
        }
        Record::Compressed {
            cluster,
            host,
            length_bytes,
        } => {
            let place = CompressedCluster {
                host: HostOffset(host),
                length_bytes,
            };
            writer.restore_mapping(GuestCluster(cluster), Mapping::Compressed(place))?;
        }
        Record::Zero { cluster, count } => {
            for cluster in clusters(cluster, count) {
                writer.restore_mapping(GuestCluster(cluster), Mapping::Zero { host: None })?;
            }
        }
        Record::Drop { cluster, count } => {
            for cluster in clusters(cluster, count) {
                writer.restore_mapping(GuestCluster(cluster), Mapping::Unallocated)?;
            }
        }
        Record::Size {
            size_bytes,
            source_bytes,
        } => {
            if !size_bytes.is_multiple_of(512) || source_bytes > size_bytes {
                return Err(Error::invalid(
                    "a disk's size is a multiple of 512 and no smaller than its source's",
                ));
            }
            if size_bytes > writer.size_bytes() {
                writer.set_size(size_bytes)?;
            }
            end.size = Some((size_bytes, source_bytes));
        }
        Record::State { finished } => end.finished = finished,
    }
    Ok(())
}

impl DiskWriter {
    /// Marks every held cluster as not hashed yet; returns how many there are.
    fn mark_unknown(&self) -> Result<u64> {
        let mut unknown = 0;
        let clusters = CLUSTER.clusters_for(self.writer.size_bytes());
        for index in self.writer.regions() {
            let region = Region(index);
            let first = region.first_cluster().0;
            let mut marks = Vec::new();
            for cluster in first..(first + u64_from_usize(LEAVES_PER_REGION)).min(clusters) {
                match self.writer.get(GuestCluster(cluster))? {
                    Mapping::Unallocated => {}
                    Mapping::Zero { .. } => {
                        marks.push((leaf_index(GuestCluster(cluster)), zero_leaf()))
                    }
                    _ => {
                        unknown += 1;
                        marks.push((leaf_index(GuestCluster(cluster)), UNKNOWN));
                    }
                }
            }
            if !marks.is_empty() {
                self.touch(region)?;
                self.pages.with_page(
                    index,
                    |_| Ok(()),
                    |page| marks.iter().for_each(|(i, leaf)| set_leaf(page, *i, leaf)),
                )?;
            }
        }
        Ok(unknown)
    }

    fn rehash_cluster(&self, cluster: GuestCluster, buf: &mut [u8]) -> Result<()> {
        let _gate = self.gate.read();
        if self.sealed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let _range = self.ranges.hold(cluster.0, cluster.0 + 1);
        let region = Region::of(cluster);
        let index = leaf_index(cluster);
        let is_unknown = self.pages.peek(region.0, |page| {
            page.is_some_and(|page| leaf_at(page, index) == UNKNOWN)
        })?;
        let held = self.writer.get(cluster)?;
        if !is_unknown || held == Mapping::Unallocated {
            return Ok(());
        }
        self.read_held(held, buf)?;
        let leaf = leaf_of(buf);
        self.pages
            .with_page(region.0, |_| Ok(()), |page| set_leaf(page, index, &leaf))
    }
}

/// Hashes resumed clusters while the session goes on; the seal does what is left. Ends with the disk.
fn rehash_in_background(disk: &Arc<DiskWriter>) -> Result<()> {
    let disk = Arc::downgrade(disk);
    let regions: Vec<Region> = disk
        .upgrade()
        .map(|d| d.touched().iter().copied().collect())
        .unwrap_or_default();
    let work = move || -> Result<()> {
        let mut buf = vec![0; usize_from_u64(CLUSTER_BYTES)];
        for region in regions {
            for cluster in region.first_cluster().0
                ..region.first_cluster().0 + u64_from_usize(LEAVES_PER_REGION)
            {
                let Some(disk) = disk.upgrade() else {
                    return Ok(());
                };
                if cluster >= CLUSTER.clusters_for(disk.size_bytes()) {
                    break;
                }
                disk.rehash_cluster(GuestCluster(cluster), &mut buf)?;
            }
        }
        Ok(())
    };
    let logged = move || {
        if let Err(e) = work() {
            tracing::warn!(error = %e.report(), "resumed clusters are rehashed at the commit instead");
        }
    };
    std::thread::Builder::new()
        .name("rehash".into())
        .spawn(logged)
        .map(drop)
        .map_err(|e| Error::io("cannot start the rehashing thread", e))
}
