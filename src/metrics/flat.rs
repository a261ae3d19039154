//! Flat disks: what came of making them, and how disks were opened.

use prometheus::{IntCounter, Registry};

use super::Family;
use super::family::Registered;
use super::label::labelled;

static MADE: Family = Family::counter(
    "restorefs_flat_disks_total",
    &["result"],
    "Attempts to make a flat disk in the cache, by what came of them; all but the first two leave the disk buffered.",
);
static OPENS: Family = Family::counter(
    "restorefs_flat_disk_opens_total",
    &["path"],
    "Opens of whole disks on mounts with passthrough, by how the kernel reads them.",
);

pub(super) const FAMILIES: &[&Family] = &[&MADE, &OPENS];

labelled! {
    /// What came of making a flat disk.
    pub enum Outcome {
        /// Made of the layers.
        Made = "made",
        /// Made of the flat disk of an earlier point and the layers above it.
        Extended = "extended",
        /// No reflink, compressed clusters, or another store than a directory.
        Unsupported = "unsupported",
        /// More extents than a flat disk may have.
        TooManyExtents = "too_many_extents",
        /// No room.
        NoSpace = "no_space",
        /// Layers were merged or forgotten meanwhile.
        Replaced = "replaced",
        /// Any other error.
        Failed = "failed",
    }
}

labelled! {
    /// How the kernel reads an open disk.
    pub enum Path {
        /// From the flat disk.
        Passthrough = "passthrough",
        /// Through this process.
        Buffered = "buffered",
    }
}

pub(super) struct Series {
    made: Vec<IntCounter>,
    opens: Vec<IntCounter>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            made: MADE.counters(registry, Outcome::LABELS)?,
            opens: OPENS.counters(registry, Path::LABELS)?,
        })
    }
}

/// Counts an attempt to make a flat disk.
pub fn note_made(outcome: Outcome) {
    if let Some(counter) = super::series().and_then(|s| s.flat.made.get(outcome as usize)) {
        counter.inc();
    }
}

/// Counts an open of a disk.
pub fn note_open(path: Path) {
    if let Some(counter) = super::series().and_then(|s| s.flat.opens.get(path as usize)) {
        counter.inc();
    }
}
