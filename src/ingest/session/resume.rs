//! Resuming: a session continues after a crash, or after a failed commit, from its sidecar and its
//! logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::disk::DiskWriter;
use crate::ingest::disk::quiet::Quiet;
use crate::ingest::record::{Record, RecordLog};
use crate::ingest::{Engine, Session};
use crate::layer::LayerDraft;
use crate::point::ChainSource;
use crate::qcow2::{CompressedCluster, Mapping};
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::session::{self as sidecar, SessionDisk};
use crate::types::{GuestCluster, HostOffset, PointName, VmName};

/// A disk's size and state at the end of its log.
#[derive(Debug, Clone, Copy, Default)]
struct LogEnd {
    size: Option<(u64, u64)>,
    finished: bool,
}

impl Session {
    /// Resumes a session that an earlier process left. Flushed data is there; its clusters are
    /// hashed again by the keeper, or by the commit.
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

/// Opens one disk again; a layer that was already sealed is moved back.
pub(in crate::ingest) fn resume_disk(
    engine: &Engine,
    session: &sidecar::Session,
    source: &Arc<ChainSource>,
    disk: &SessionDisk,
) -> Result<Arc<DiskWriter>> {
    let keys = VmKeys::new(&session.vm)?;
    let repository = engine.owner.repository();
    let (store, stage) = (repository.store(), repository.stage());
    let open = keys.open_layer(&disk.layer)?;
    match store.delete(&keys.sums(&disk.layer, disk.layer_id)?) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    stage.reclaim(&keys.layer(&disk.layer)?, &open)?;
    let (parent, base) = DiskWriter::open_parent(engine, session, source, disk)?;
    let draft = LayerDraft::resume(
        repository,
        &session.vm,
        &disk.layer,
        DiskWriter::layer_options(session, disk),
        base,
        &engine.budget,
    )?;
    let mut end = LogEnd::default();
    let log = RecordLog::resume(
        stage.open(&keys.map(&session.name, disk.log_name())?)?,
        |record| apply(&draft, &mut end, record).map_err(|error| of_record(error, record)),
    )
    .at_path(&*format!("{}.map", disk.name))?;
    let quiet = Quiet::default();
    draft.restored(|cluster| quiet.add([cluster]))?;
    let mut writer = DiskWriter::new(disk, draft, parent, log, engine.owner.clock());
    writer.quiet = quiet;
    if let Some((size_bytes, source_bytes)) = end.size {
        writer.size_bytes.store(size_bytes, Ordering::SeqCst);
        writer.source_bytes.store(source_bytes, Ordering::SeqCst);
    }
    writer.completion.resumed(end.finished);
    Ok(Arc::new(writer))
}

/// A record that no writer can have written is damage of the log.
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

fn apply(draft: &LayerDraft, end: &mut LogEnd, record: Record) -> Result<()> {
    let clusters = |first: u64, count: u32| first..first.saturating_add(u64::from(count));
    match record {
        Record::Data {
            cluster,
            count,
            host,
        } => {
            for (n, cluster) in (0..).zip(clusters(cluster, count)) {
                draft.restore(
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
            draft.restore(GuestCluster(cluster), Mapping::Compressed(place))?;
        }
        Record::Zero { cluster, count } => {
            for cluster in clusters(cluster, count) {
                draft.restore(GuestCluster(cluster), Mapping::Zero { host: None })?;
            }
        }
        Record::Drop { cluster, count } => {
            for cluster in clusters(cluster, count) {
                draft.restore(GuestCluster(cluster), Mapping::Unallocated)?;
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
            if size_bytes > draft.size_bytes() {
                draft.set_size(size_bytes)?;
            }
            end.size = Some((size_bytes, source_bytes));
        }
        Record::State { finished } => end.finished = finished,
    }
    Ok(())
}
