//! Readahead of directories: a caller that lists siblings one after another gets the next ones with each
//! question.
//!
//! # Why
//! A walk of a whole tree requests each directory by itself, and each question to a reader in another process
//! costs more than its answer. A caller that reads single directories rarely requests two with the same
//! parent, and so pays nothing.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::fs::GuestIno;
use crate::types::sync::Mutex;

/// LIMIT: directories whose parent is remembered, and parents whose subdirectories are.
const CHILDREN_KEPT: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();
const PARENTS_KEPT: NonZeroUsize = NonZeroUsize::new(1 << 10).unwrap();
/// LIMIT: remembered subdirectories of one parent.
const SIBLINGS_MAX: usize = 1 << 14;
/// LIMIT: directories read ahead at once.
const AHEAD_MAX: usize = 64;

/// The subdirectories of a directory.
struct Siblings {
    dirs: Arc<[GuestIno]>,
    /// Number of directories to read ahead at the next question.
    window: usize,
}

struct Seen {
    /// The parent, and the position in it.
    parents: LruCache<GuestIno, (GuestIno, usize)>,
    siblings: LruCache<GuestIno, Siblings>,
}

/// The questions that one filesystem has had.
pub(super) struct Walk(Mutex<Seen>);

impl Walk {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Seen {
            parents: LruCache::new(CHILDREN_KEPT),
            siblings: LruCache::new(PARENTS_KEPT),
        }))
    }

    /// Records the subdirectories in the listing of `dir`.
    pub(super) fn note(&self, dir: GuestIno, mut children: Vec<GuestIno>) {
        // A single subdirectory has no siblings to read ahead.
        if children.len() < 2 {
            return;
        }
        children.truncate(SIBLINGS_MAX);
        let mut seen = self.0.lock();
        for (at, child) in children.iter().enumerate() {
            seen.parents.put(*child, (dir, at));
        }
        let siblings = Siblings {
            dirs: children.into(),
            window: 0,
        };
        seen.siblings.put(dir, siblings);
    }

    /// The siblings that are likely to be requested after `dir`, without those for which `is_known` is true.
    pub(super) fn ahead(
        &self,
        dir: GuestIno,
        is_known: impl Fn(GuestIno) -> bool,
    ) -> Vec<GuestIno> {
        let mut seen = self.0.lock();
        let Some((parent, at)) = seen.parents.get(&dir).copied() else {
            return Vec::new();
        };
        let Some(siblings) = seen.siblings.get_mut(&parent) else {
            return Vec::new();
        };
        let window = siblings.window;
        siblings.window = (window * 4).clamp(2, AHEAD_MAX);
        let dirs = Arc::clone(&siblings.dirs);
        drop(seen);
        // From this position on, and then from the beginning: some callers sort the names of a listing.
        let (before, after) = dirs.split_at(at.min(dirs.len()));
        let rest = after.iter().skip(1).chain(before).copied();
        rest.filter(|sibling| !is_known(*sibling))
            .take(window)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD_MAX, Walk};
    use crate::guest::fs::GuestIno;

    #[test]
    fn the_second_sibling_brings_the_next_ones() {
        let walk = Walk::new();
        walk.note(GuestIno(1), (10..200).map(GuestIno).collect());
        let none = |_| false;
        assert!(walk.ahead(GuestIno(10), none).is_empty());
        assert_eq!(walk.ahead(GuestIno(11), none), [GuestIno(12), GuestIno(13)]);
        assert_eq!(walk.ahead(GuestIno(14), none).len(), 8);
        let last = walk.ahead(GuestIno(199), |ino| ino.0 < 15);
        assert_eq!((last.len(), last[0]), (32, GuestIno(15)));
        assert_eq!(walk.ahead(GuestIno(60), none).len(), AHEAD_MAX);
        // The parent is not a sibling of any directory.
        assert!(walk.ahead(GuestIno(1), none).is_empty());
    }
}
