//! Origins: what a caller knows of the sources of a session's disks before it copies them.

use serde::{Deserialize, Serialize};

use super::request::BeginRequest;
use crate::block::magic;
use crate::error::{Error, Result};
use crate::repo::entry::VmEntry;
use crate::repo::sidecar::session::SessionDisk;
use crate::types::DiskName;

/// The facts that a caller knows about the source of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Bytes that the source reports as data; `None` when it does not distinguish data from holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Set when the source begins as an image although the caller named no format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookalike: Option<Lookalike>,
}

/// A source that begins as an image of a format that the caller did not name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookalike {
    /// The source, as the caller wrote it.
    pub source: String,
    /// The format, by its QEMU name.
    pub format: String,
    /// What the caller can write instead.
    pub ways_out: String,
}

impl Lookalike {
    /// A description of what was found, for messages.
    #[must_use]
    pub fn words(&self, disk: &DiskName) -> String {
        let format = &self.format;
        if magic::is_packed(format) {
            return format!("the source of disk {disk} begins as a {format} archive");
        }
        format!(
            "the source of disk {disk} begins as a {format} image, but neither its name nor a flag states that format"
        )
    }
}

impl BeginRequest {
    /// The origin of a disk, if it is known.
    #[must_use]
    pub fn origin(&self, name: &DiskName) -> Option<&Origin> {
        let mut origins = self.origins.iter();
        origins
            .find(|(other, _)| other.same_as(name))
            .map(|(_, origin)| origin)
    }
}

/// Refuses a new disk whose source begins as an image although the caller named no format. A disk
/// that the VM had before is accepted as it is: otherwise a guest could stop its own backups by
/// writing such bytes to the beginning of its disk.
///
/// # Errors
/// `InvalidInput` with the ways out.
pub(super) fn check_lookalikes(
    request: &BeginRequest,
    entry: Option<&VmEntry>,
    disks: &[SessionDisk],
) -> Result<()> {
    let latest = entry.and_then(|entry| entry.index.latest());
    let is_known = |disk: &SessionDisk| {
        let is_same = |name: &DiskName| name.same_as(&disk.name);
        disk.parent.is_some()
            || latest.is_some_and(|point| point.disks.iter().any(|d| is_same(&d.name)))
    };
    for disk in disks.iter().filter(|disk| !is_known(disk)) {
        let origin = request.origin(&disk.name);
        if let Some(lookalike) = origin.and_then(|origin| origin.lookalike.as_ref()) {
            return Err(Error::invalid(lookalike.words(&disk.name))
                .at_path(&lookalike.source)
                .advise(lookalike.ways_out.clone()));
        }
    }
    Ok(())
}
