//! Origins: what a caller knows of the sources of a session's disks before it copies them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::block::magic;
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    pub fn describe(&self, disk: &DiskName) -> String {
        let format = &self.format;
        if magic::is_packed(format) {
            return format!("the source of disk {disk} begins as a {format} archive");
        }
        format!(
            "the source of disk {disk} begins as a {format} image, but neither its name nor a flag states that format"
        )
    }
}
