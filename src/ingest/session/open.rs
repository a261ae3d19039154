//! Opening the disks of a session: their parents and their layers.

use std::sync::Arc;

use super::Engine;
use crate::error::Result;
use crate::ingest::disk::DiskWriter;
use crate::ingest::disk::parent::Parent;
use crate::ingest::record::RecordLog;
use crate::layer::{Base, LayerDraft};
use crate::point::ChainSource;
use crate::qcow2::LayerOptions;
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::session::{self as sidecar, SessionDisk};

impl DiskWriter {
    /// Creates the files of a disk of a session.
    pub(in crate::ingest) fn create(
        engine: &Engine,
        session: &sidecar::Session,
        source: &Arc<ChainSource>,
        disk: &SessionDisk,
    ) -> Result<Arc<Self>> {
        let repository = engine.owner.repository();
        let (parent, base) = Self::open_parent(engine, session, source, disk)?;
        let draft = LayerDraft::create(
            repository,
            &session.vm,
            &disk.layer,
            Self::layer_options(session, disk),
            base,
            &engine.budget,
        )?;
        let log = VmKeys::new(&session.vm)?.map(&session.name, disk.log_name())?;
        let log = RecordLog::create(repository.stage().create(&log)?);
        let clock = engine.owner.clock();
        Ok(Arc::new(Self::new(disk, draft, parent, log, clock)))
    }

    /// Opens the parent of a disk, and the leaves that its layer is compared with; neither for a
    /// disk that begins anew.
    pub(in crate::ingest) fn open_parent(
        engine: &Engine,
        session: &sidecar::Session,
        source: &Arc<ChainSource>,
        disk: &SessionDisk,
    ) -> Result<(Option<Parent>, Option<Base>)> {
        let Some(parent) = &disk.parent else {
            return Ok((None, None));
        };
        let point = session.parent.as_ref().map(|parent| &parent.name);
        let opened = Parent::open(&engine.pool, source, &disk.name, parent, point)?;
        Ok((Some(opened.0), Some(opened.1)))
    }

    pub(in crate::ingest) fn layer_options(
        session: &sidecar::Session,
        disk: &SessionDisk,
    ) -> LayerOptions {
        LayerOptions {
            size_bytes: disk.size_bytes,
            backing: disk.parent.as_ref().map(|parent| parent.layer.layer_file()),
            layer_id: disk.layer_id,
            compression: session.compression,
        }
    }
}
