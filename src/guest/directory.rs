//! A directory that was read: its entries in their own order, and a way to find one by its name.

use std::sync::Arc;

use super::fs::{Entry, GuestIno};
use crate::error::{Error, Result};

/// See the module.
pub(super) struct Directory {
    entries: Arc<[Entry]>,
    /// Places of the entries, in the order of their names.
    by_name: Vec<usize>,
}

impl Directory {
    /// Takes the entries of directory `number`, which is named in errors; `.` and `..` are left out.
    ///
    /// # Errors
    /// `Corrupt` for a name that no file can have.
    pub(super) fn new(number: u64, entries: impl IntoIterator<Item = Entry>) -> Result<Self> {
        let mut kept = Vec::new();
        for entry in entries {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            if entry.name.is_empty() || entry.name.iter().any(|b| matches!(b, 0 | b'/')) {
                return Err(Error::corrupt(
                    format!("a name in directory {number}"),
                    "one without NUL and slash",
                    entry.name.escape_ascii(),
                ));
            }
            kept.push(entry);
        }
        let mut by_name: Vec<usize> = (0..kept.len()).collect();
        let name = |ix: &usize| kept.get(*ix).map(|entry| entry.name.as_slice());
        by_name.sort_by(|a, b| name(a).cmp(&name(b)));
        Ok(Self {
            entries: kept.into(),
            by_name,
        })
    }

    /// All entries.
    pub(super) fn entries(&self) -> Arc<[Entry]> {
        Arc::clone(&self.entries)
    }

    /// The inode of one name.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn lookup(&self, name: &[u8]) -> Result<GuestIno> {
        let entry = |ix: &usize| self.entries.get(*ix);
        self.by_name
            .binary_search_by(|ix| entry(ix).map(|e| e.name.as_slice()).cmp(&Some(name)))
            .ok()
            .and_then(|at| self.by_name.get(at))
            .and_then(entry)
            .map(|entry| entry.ino)
            .ok_or_else(|| Error::not_found("no such file or directory in the guest"))
    }

    /// How much memory it takes, in entries.
    pub(super) fn weight(&self) -> usize {
        self.entries.len().saturating_add(1)
    }
}
