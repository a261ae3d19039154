//! The entries of a directory in their own order, with an index by name.

use std::sync::Arc;

use super::fs::{Entry, GuestIno};
use crate::error::{Error, Result};

/// A directory's entries, in order and by name.
pub(super) struct Directory {
    entries: Arc<[Entry]>,
    /// Positions of the entries, sorted by name.
    by_name: Vec<usize>,
}

impl Directory {
    /// Takes the entries of directory `number`, which errors name; drops the directory's own `.` and `..`.
    ///
    /// # Errors
    /// `Corrupt` for an invalid name, including a second `.` or `..`, which would hide a file silently.
    pub(super) fn new(number: u64, entries: impl IntoIterator<Item = Entry>) -> Result<Self> {
        let mut kept = Vec::new();
        let (mut own, mut above) = (false, false);
        for entry in entries {
            let is_first = match entry.name.as_slice() {
                b"." => !std::mem::replace(&mut own, true),
                b".." => !std::mem::replace(&mut above, true),
                _ => false,
            };
            if is_first {
                continue;
            }
            let is_dots = matches!(entry.name.as_slice(), b"." | b"..");
            if is_dots {
                return Err(Error::corrupt(
                    format!("a name in directory {number}"),
                    "one that is there once",
                    entry.name.escape_ascii(),
                ));
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

    /// Its memory use, in entries.
    pub(super) fn weight(&self) -> usize {
        self.entries.len().saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Directory;
    use crate::guest::fs::{Entry, GuestIno};

    fn directory(names: &[&str]) -> crate::error::Result<Directory> {
        let entries = names.iter().map(|name| Entry {
            name: name.as_bytes().to_vec(),
            ino: GuestIno(7),
        });
        Directory::new(5, entries)
    }

    #[test]
    fn its_own_dots_are_left_out_and_others_are_damage() {
        let sound = directory(&[".", "..", "a", "..."]).unwrap();
        assert_eq!(sound.entries().len(), 2);
        assert!(sound.lookup(b"...").is_ok() && sound.lookup(b"..").is_err());
        for bad in [&[".", "..", "a", ".."][..], &[".", "."], &["a/b"], &[""]] {
            let error = directory(bad).err().unwrap();
            assert!(error.report().contains("directory 5"), "{}", error.report());
        }
    }
}
