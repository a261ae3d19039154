//! What a check found, and where.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::types::GuestCluster;

/// LIMIT: findings that a report keeps; the others are counted.
pub const FINDINGS_MAX: usize = 1_000;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// A host cluster is counted but not used: space is lost, nothing else.
    Leak,
    /// A host cluster is used more often than it is counted: it may be overwritten.
    RefcountTooLow,
    /// Two things use the same host cluster.
    Overlap,
    /// An entry is malformed, misaligned or out of range.
    BadEntry,
    /// The flag "refcount is 1" does not agree with the uses.
    CopiedFlag,
    /// The refcount table or a block of it cannot be read.
    BadTable,
    /// A layer's file does not end with a whole cluster.
    Padding,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort.
    pub kind: FindingKind,
    /// Byte offset in the file: of the entry, or of the host cluster.
    pub offset: u64,
    /// The guest cluster that is concerned.
    pub guest: Option<GuestCluster>,
    /// For people.
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

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// All findings that are not leaks.
    pub errors: u64,
    /// Leaked host clusters.
    pub leaks: u64,
    /// Refcounts and flags were not checked, because of internal snapshots or bitmaps.
    pub is_partial: bool,
    /// Guest clusters with data of their own, subclusters too.
    pub data_clusters: u64,
    /// Guest clusters that are compressed.
    pub compressed_clusters: u64,
    /// Guest clusters that are said to be zero.
    pub zero_clusters: u64,
}

impl Report {
    /// Whether nothing at all was found.
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

    /// Keeps a `Corrupt` error as a finding and passes any other on.
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
