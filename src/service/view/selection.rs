//! Several paths of a point as one source of an archive: their common directory, with nothing in it but what leads to them.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{node, real_names};
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::export::files::Source;
use crate::guest::fs::Xattr;
use crate::tree::{Attributes, Ino, Tree};

/// LIMIT: paths of one archive.
const PATHS_MAX: usize = 1_000;

/// The selected part of a tree.
pub(super) struct Selection {
    tree: Arc<Tree>,
    /// Directories of which only these entries are taken.
    only: HashMap<Ino, Vec<(Vec<u8>, Ino)>>,
    /// The directory above all of them.
    pub(super) root: Ino,
}

impl Selection {
    /// Selects paths below the directory `start`. A path below another selected one is taken with that. A path that leads through a
    /// symbolic link selects what the link leads to, by the names that this really has.
    ///
    /// # Errors
    /// `InvalidInput` without a path, with too many, or with `..`; `NotFound` and others of a path that leads nowhere.
    pub(super) fn of(tree: &Arc<Tree>, start: Ino, paths: &[Vec<u8>]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::invalid("an archive needs a path").advise("add path=/files"));
        }
        if paths.len() > PATHS_MAX {
            let what = format!("an archive takes at most {PATHS_MAX} paths");
            return Err(Error::invalid(what));
        }
        let mut all = paths
            .iter()
            .map(|path| real_names(tree, start, path))
            .collect::<Result<Vec<_>>>()?;
        all.sort();
        // A path sorts before those below it.
        all.dedup_by(|below, above| below.starts_with(above));
        let common = common(&all);
        let mut selection = Self {
            tree: Arc::clone(tree),
            only: HashMap::new(),
            root: start,
        };
        for path in all {
            selection.add(start, &path, common)?;
        }
        Ok(selection)
    }

    fn add(&mut self, start: Ino, path: &[Vec<u8>], common: usize) -> Result<()> {
        let mut here = start;
        for (depth, part) in path.iter().enumerate() {
            if depth == common {
                self.root = here;
            }
            let found = node(&self.tree, here, part)?.ino;
            if depth >= common {
                let entries = self.only.entry(here).or_default();
                if !entries.iter().any(|(name, _)| name == part) {
                    entries.push((part.clone(), found));
                }
            }
            here = found;
        }
        if path.len() == common {
            self.root = here;
        }
        Ok(())
    }
}

/// The number of names that all paths begin with: of a single path, all but the last; the guest's root has no name of its own.
fn common(paths: &[Vec<Vec<u8>>]) -> usize {
    let Some((first, others)) = paths.split_first() else {
        return 0;
    };
    if others.is_empty() {
        return match first.as_slice() {
            [only] if only == b"files" => 1,
            path => path.len().saturating_sub(1),
        };
    }
    let same = |path: &Vec<Vec<u8>>| {
        let pairs = first.iter().zip(path);
        pairs.take_while(|(a, b)| a == b).count()
    };
    others.iter().map(same).min().unwrap_or(0)
}

impl Source for Selection {
    fn attributes(&self, ino: Ino) -> Result<Attributes> {
        Source::attributes(self.tree.as_ref(), ino)
    }

    fn is_frame(&self, ino: Ino) -> bool {
        // What is extracted into a directory leaves that directory as it is.
        ino == self.root || self.only.contains_key(&ino)
    }

    fn entries(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
        match self.only.get(&ino) {
            Some(entries) => Ok(entries.clone()),
            None => Source::entries(self.tree.as_ref(), ino),
        }
    }

    fn link_target(&self, ino: Ino) -> Result<Vec<u8>> {
        Source::link_target(self.tree.as_ref(), ino)
    }

    fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        Source::xattrs(self.tree.as_ref(), ino)
    }

    fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>> {
        Source::content(self.tree.as_ref(), ino)
    }
}

#[cfg(test)]
mod tests {
    use super::common;

    fn count(paths: &[&str]) -> usize {
        let names = |path: &&str| {
            let names = path.split('/').filter(|name| !name.is_empty());
            names.map(|name| name.as_bytes().to_vec()).collect()
        };
        common(&paths.iter().map(names).collect::<Vec<_>>())
    }

    #[test]
    fn names_in_an_archive_begin_where_the_paths_part() {
        assert_eq!(count(&["/files/etc"]), 1);
        assert_eq!(count(&["/files"]), 1);
        assert_eq!(count(&["/"]), 0);
        assert_eq!(count(&["/files/etc", "/files/srv"]), 1);
        assert_eq!(count(&["/files/srv/a", "/files/srv/b"]), 2);
        assert_eq!(count(&["/files/etc", "/volumes/vda/part/1/etc"]), 0);
    }
}
