//! The findings of a check.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::types::GuestCluster;

/// LIMIT: findings that a report keeps; further ones are only counted.
pub const FINDINGS_MAX: usize = 1_000;

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// A host cluster is counted but not used: only space is lost.
    Leak,
    /// A host cluster is used more often than it is counted: a writer may overwrite it.
    RefcountTooLow,
    /// A host cluster has two users.
    Overlap,
    /// An entry is malformed, misaligned or out of range.
    BadEntry,
    /// The flag "refcount is 1" contradicts the uses.
    CopiedFlag,
    /// The refcount table or a refcount block cannot be read.
    BadTable,
    /// A layer's file does not end at a cluster boundary.
    Padding,
}

/// One fault, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Kind.
    pub kind: FindingKind,
    /// Byte offset in the file: of the entry, or of the host cluster.
    pub offset: u64,
    /// The affected guest cluster.
    pub guest: Option<GuestCluster>,
    /// Description for people.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(guest) = self.guest {
            write!(f, ", guest cluster {guest}")?;
        }
        write!(f, " (offset {})", self.offset)
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// Number of findings that are not leaks.
    pub errors: u64,
    /// Number of leaked host clusters.
    pub leaks: u64,
    /// Whether refcounts and flags were not checked, because of internal snapshots or bitmaps.
    pub is_partial: bool,
    /// Number of guest clusters with data of their own, including subclusters.
    pub data_clusters: u64,
    /// Number of compressed guest clusters.
    pub compressed_clusters: u64,
    /// Number of guest clusters that are marked as zero.
    pub zero_clusters: u64,
}

impl Report {
    /// Whether there are no findings.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.leaks == 0
    }

    pub(super) fn add(&mut self, kind: FindingKind, offset: u64, guest: Option<u64>, what: String) {
        let counter = if kind == FindingKind::Leak {
            &mut self.leaks
        } else {
            &mut self.errors
        };
        *counter = counter.saturating_add(1);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                kind,
                offset,
                guest: guest.map(GuestCluster),
                what,
            });
        }
    }

    /// Records a `Corrupt` error as a finding, and returns any other.
    pub(super) fn take(
        &mut self,
        error: Error,
        kind: FindingKind,
        guest: Option<u64>,
    ) -> Result<()> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        let offset = error.context().offset.unwrap_or(0);
        let text = match (&error.context().expected, &error.context().found) {
            (Some(expected), Some(found)) => {
                format!("{}: expected {expected}, found {found}", error.what())
            }
            _ => error.what().to_owned(),
        };
        self.add(kind, offset, guest, text);
        Ok(())
    }
}
