//! Paths of volumes: unique, also against the names that the tree derives from them (`<path>.raw`,
//! directories above).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Directory,
    Leaf,
}

/// The paths that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Role>);

/// All directories above a path, the nearest first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/').map(|(dir, _)| dir), |path| {
        path.rsplit_once('/').map(|(dir, _)| dir)
    })
}

impl Names {
    fn is_free(&self, path: &str) -> bool {
        let raw = format!("{path}.raw");
        !self.0.contains_key(path)
            && !self.0.contains_key(&raw)
            && above(path).all(|dir| self.0.get(dir) != Some(&Role::Leaf))
    }

    /// The first of `path`, `path@2`, `path@3`, ... for which `wanted` holds.
    fn first(path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut name = path.to_owned();
        // The loop ends, because finitely many names are taken.
        for n in 2u64.. {
            if wanted(&name) {
                break;
            }
            name = format!("{path}@{n}");
        }
        name
    }

    /// Takes a path for a volume; a number is appended when the path is taken.
    pub(super) fn volume(&mut self, path: &str) -> String {
        let path = Self::first(path, |path| self.is_free(path));
        for dir in above(&path) {
            self.0.insert(dir.to_owned(), Role::Directory);
        }
        self.0.insert(format!("{path}.raw"), Role::Leaf);
        self.0.insert(path.clone(), Role::Leaf);
        path
    }

    /// Takes a path for a directory of volumes.
    pub(super) fn directory(&mut self, path: &str) -> String {
        let is_free = |path: &str| {
            std::iter::once(path)
                .chain(above(path))
                .all(|dir| self.0.get(dir) != Some(&Role::Leaf))
        };
        let path = Self::first(path, is_free);
        self.0.insert(path.clone(), Role::Directory);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn what_is_taken_gets_a_number() {
        let mut names = Names::default();
        assert_eq!(names.volume("lvm/vg/a"), "lvm/vg/a");
        assert_eq!(names.volume("lvm/vg/a"), "lvm/vg/a@2");
        assert_eq!(names.volume("lvm/vg/a.raw"), "lvm/vg/a.raw@2");
        assert_eq!(names.volume("lvm/vg"), "lvm/vg@2");
        assert_eq!(names.volume("lvm/vg/b.raw"), "lvm/vg/b.raw");
        assert_eq!(names.volume("lvm/vg/b"), "lvm/vg/b@2");
        assert_eq!(names.volume("lvm/vg/c.part"), "lvm/vg/c.part");
        assert_eq!(names.directory("lvm/vg/c.part"), "lvm/vg/c.part@2");
        assert_eq!(names.directory("lvm/vg/d.part"), "lvm/vg/d.part");
        assert_eq!(names.volume("lvm/vg/d.part"), "lvm/vg/d.part@2");
        assert_eq!(names.directory("lvm/vg"), "lvm/vg");
    }
}
