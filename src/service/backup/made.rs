//! The restore point that a backup has made, in this repository or in one elsewhere.

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::service::CommitAnswer;
use crate::types::{DiskName, PointId, PointName, VmName};

/// A restore point.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The VM.
    pub vm: VmName,
    /// Its name.
    pub name: PointName,
    /// Its identity.
    pub point_id: PointId,
    /// `full`, `incremental` or `differential`.
    pub kind: String,
    /// Its disks.
    pub disks: Vec<MadeDisk>,
    /// All that is known of it, for programs.
    pub document: Value,
}

/// A disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeDisk {
    /// Its name.
    pub name: DiskName,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// Bytes that differed from the parent.
    pub changed_bytes: u64,
}

impl Made {
    /// The restore point of a repository on this machine.
    ///
    /// # Errors
    /// `Io` when it cannot be encoded.
    pub fn of(answer: &CommitAnswer) -> Result<Self> {
        let point = &answer.point;
        let document = serde_json::to_value(point).map_err(|e| {
            Error::new(ErrorKind::Io, "the restore point cannot be encoded").caused_by(e)
        })?;
        let disks = point.disks.iter().map(|disk| MadeDisk {
            name: disk.name.clone(),
            source_bytes: disk.source_bytes,
            changed_bytes: disk.changed_bytes,
        });
        Ok(Self {
            vm: answer.vm.clone(),
            name: point.name.clone(),
            point_id: point.point_id,
            kind: point.kind.as_str().to_owned(),
            disks: disks.collect(),
            document,
        })
    }
}
