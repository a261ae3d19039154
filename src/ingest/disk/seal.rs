//! Sealing a disk of a session: its layer becomes a committed one, and the point's sidecar gets the
//! description of the disk.

use super::DiskWriter;
use crate::error::{Error, Result};
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::point::PointDisk;
use crate::store::PutMode;

impl DiskWriter {
    /// Refuses a disk that is smaller than its parent.
    pub(in crate::ingest) fn check_size(&self) -> Result<()> {
        match &self.parent {
            Some(parent) if self.size_bytes() < parent.size_bytes() => {
                Err(Error::invalid(format!(
                    "disk {} is smaller than its parent ({} < {} bytes)",
                    self.meta.name,
                    self.size_bytes(),
                    parent.size_bytes()
                ))
                .advise(format!(
                    "declare that a new disk begins: --full {}",
                    self.meta.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Seals the disk. The caller holds the gate alone and has flushed.
    pub(in crate::ingest) fn seal(&self, change_id: Option<String>) -> Result<PointDisk> {
        let size_bytes = self.size_bytes();
        self.check_size()?;
        if size_bytes != self.draft.size_bytes() {
            self.draft.set_size(size_bytes)?;
        }
        let settled = self.draft.settle(self)?;
        // The seal punches dropped clusters out: a resume must not find them named in the log.
        self.flush_gated()?;
        let sealed = self.draft.seal(settled, PutMode::Create)?;
        Ok(PointDisk {
            name: self.meta.name.clone(),
            key: self.meta.key.clone(),
            layer: self.meta.layer.clone(),
            kind: self.meta.kind,
            full_reason: self.meta.full_reason.clone(),
            size_bytes,
            source_bytes: self.source_bytes(),
            data_bytes: sealed.data_bytes,
            changed_bytes: sealed.changed_bytes,
            content_root: sealed.content_root,
            parent_content_root: self.meta.parent.as_ref().map(|p| p.content_root),
            change_id,
            unknown: Unknown::new(),
        })
    }
}
