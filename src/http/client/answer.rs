//! The parts of answers that a backup reads, where the service has no type for them.

use serde::Deserialize;
use serde_json::Value;

use crate::error::Result;
use crate::http::api::session::CommittedAnswer;
use crate::service::backup::made::{Made, MadeDisk};
use crate::types::{DiskName, VmName};

use super::failure;

/// A VM in a list.
#[derive(Debug, Deserialize)]
pub(super) struct ListedVm {
    pub(super) name: VmName,
}

/// `info.json` of a restore point.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) disks: Vec<InfoDisk>,
}

/// A disk in `info.json`.
#[derive(Debug, Deserialize)]
pub(super) struct InfoDisk {
    pub(super) name: DiskName,
    #[serde(default)]
    pub(super) change_id: Option<String>,
}

/// The restore point in the answer to a commit.
///
/// # Errors
/// `Unsupported` when there is none.
pub(super) fn made(answer: Value) -> Result<Made> {
    let document = answer.get("point").cloned().unwrap_or_default();
    let answer: CommittedAnswer = serde_json::from_value(answer).map_err(failure::stranger)?;
    let disks = answer.point.disks.into_iter().map(|disk| MadeDisk {
        name: disk.name,
        source_bytes: disk.source_bytes,
        changed_bytes: disk.changed_bytes,
    });
    Ok(Made {
        vm: answer.vm,
        name: answer.point.name,
        point_id: answer.point.point_id,
        kind: answer.point.kind,
        disks: disks.collect(),
        document,
    })
}
