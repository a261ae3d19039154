//! Verifying a VM with a monitor for each of its disks.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::plan::VmParts;
use super::work::{Keep, Run, VmReport};
use crate::error::Result;
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, Pace};
use crate::types::DiskName;

/// How a VM is verified, whoever watches it.
pub struct Watched<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// The pace of reading.
    pub pace: &'a Pace,
    /// Makes the monitor of so many bytes of a disk; of no disk for everything else.
    pub piece: &'a dyn Fn(Option<&DiskName>, u64) -> Monitor,
    /// Whether data is read, and attached files; otherwise only everything else.
    pub data: bool,
    /// Where results go.
    pub keep: Keep<'a>,
    /// The time of the results.
    pub now: Timestamp,
}

impl Watched<'_> {
    /// Verifies parts of a VM.
    ///
    /// # Errors
    /// As [`Run::verify`].
    pub fn verify(&self, parts: &VmParts) -> Result<VmReport> {
        let disks: HashMap<_, Monitor> = parts
            .disk_bytes()
            .into_iter()
            .map(|(disk, bytes)| {
                let monitor = (self.piece)(disk.as_ref(), bytes);
                (disk, monitor)
            })
            .collect();
        let monitor = (self.piece)(None, 0);
        let watch = |slot: &Slot| {
            let monitor = disks.get(&slot.disk_hint());
            monitor.cloned().unwrap_or_else(|| (self.piece)(None, 0))
        };
        let run = Run {
            repository: self.repository,
            pace: self.pace,
            monitor: &monitor,
            watch: &watch,
            attached: self.data,
            keep: Some(self.keep),
            now: self.now,
        };
        run.verify(parts)
    }
}
