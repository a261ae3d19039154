//! Store and workspace of a repository, in one place or in two: tests that know no paths run over each.

use std::sync::Arc;

use restorefs::store::fault::{FaultStage, FaultStore, Faults};
use restorefs::store::{LocalStore, MemoryStore, Stage, Store, Workspace};

/// Where the two sides lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    /// Both in one store in memory.
    One,
    /// In two stores in memory.
    TwoMemories,
    /// In two directories.
    #[allow(dead_code, reason = "not every test program runs over them")]
    TwoDirectories,
}

/// What is behind both sides.
#[derive(Clone)]
pub(crate) enum Kept {
    Memory(MemoryStore),
    Memories(MemoryStore, MemoryStore),
    Directories(Arc<[tempfile::TempDir; 2]>),
}

/// Both sides. Clones are the same places.
#[derive(Clone)]
pub(crate) struct Pair {
    /// Committed objects.
    pub(crate) store: Arc<dyn Store>,
    /// The workspace's files, with nothing that publishes them elsewhere.
    files: Arc<dyn Stage>,
    pub(crate) kept: Kept,
}

impl Pair {
    /// Two sides with nothing in them.
    pub(crate) fn new(places: Places) -> Self {
        Self::of(match places {
            Places::One => Kept::Memory(MemoryStore::new()),
            Places::TwoMemories => Kept::Memories(MemoryStore::new(), MemoryStore::new()),
            Places::TwoDirectories => {
                let make = || tempfile::tempdir().unwrap();
                Kept::Directories(Arc::new([make(), make()]))
            }
        })
    }

    /// Sides that are there already.
    pub(crate) fn of(kept: Kept) -> Self {
        let (store, files): (Arc<dyn Store>, Arc<dyn Stage>) = match &kept {
            Kept::Memory(both) => (Arc::new(both.clone()), Arc::new(both.clone())),
            Kept::Memories(store, files) => (Arc::new(store.clone()), Arc::new(files.clone())),
            Kept::Directories(dirs) => (
                Arc::new(LocalStore::open(dirs[0].path()).unwrap()),
                Arc::new(LocalStore::open(dirs[1].path()).unwrap()),
            ),
        };
        Self { store, files, kept }
    }

    fn publishing(&self, store: &Arc<dyn Store>, files: Arc<dyn Stage>) -> Arc<dyn Stage> {
        match self.kept {
            Kept::Memory(_) => files,
            _ => Arc::new(Workspace::new(files, Arc::clone(store))),
        }
    }

    /// The workspace.
    pub(crate) fn stage(&self) -> Arc<dyn Stage> {
        self.publishing(&self.store, Arc::clone(&self.files))
    }

    /// Both sides, for a process that opens the repository.
    pub(crate) fn sides(&self) -> (Arc<dyn Store>, Arc<dyn Stage>) {
        (Arc::clone(&self.store), self.stage())
    }

    /// Both sides, whose changes are counted and failed.
    pub(crate) fn faulty(&self, faults: &Arc<Faults>) -> (Arc<dyn Store>, Arc<dyn Stage>) {
        let store: Arc<dyn Store> = Arc::new(FaultStore::new(Arc::clone(&self.store), faults));
        let files = Arc::new(FaultStage::new(Arc::clone(&self.files), faults));
        let stage = self.publishing(&store, files);
        (store, stage)
    }

    /// The same store with an empty workspace; only for stores in memory.
    #[allow(dead_code, reason = "not every test program needs it")]
    pub(crate) fn with_new_workspace(&self) -> Self {
        match &self.kept {
            Kept::Memories(store, _) => Self::of(Kept::Memories(store.clone(), MemoryStore::new())),
            _ => panic!("the workspace is not apart, or not in memory"),
        }
    }

    /// Other places with the same content.
    pub(crate) fn snapshot(&self) -> Self {
        Self::of(match &self.kept {
            Kept::Memory(both) => Kept::Memory(both.snapshot()),
            Kept::Memories(store, files) => Kept::Memories(store.snapshot(), files.snapshot()),
            Kept::Directories(dirs) => Kept::Directories(Arc::new([0, 1].map(|side| {
                let copy = tempfile::tempdir().unwrap();
                let done = std::process::Command::new("cp")
                    .arg("-a")
                    .arg(dirs[side].path().join("."))
                    .arg(copy.path())
                    .status();
                assert!(done.unwrap().success());
                copy
            }))),
        })
    }
}

/// Makes tests of functions that take a [`Places`]: one for each of the places in memory.
macro_rules! over_memories {
    ($($name:ident),* $(,)?) => {
        mod in_one_place {
            $(#[test] fn $name() { super::$name(crate::pair::Places::One); })*
        }
        mod in_two_memories {
            $(#[test] fn $name() { super::$name(crate::pair::Places::TwoMemories); })*
        }
    };
}

/// Makes tests of functions that take a [`Places`]: one over two directories.
#[allow(unused_macros, reason = "not every test program runs over directories")]
macro_rules! over_directories {
    ($($name:ident),* $(,)?) => {
        mod in_two_directories {
            $(#[test] fn $name() { super::$name(crate::pair::Places::TwoDirectories); })*
        }
    };
}

/// Makes tests of functions that take a [`Places`]: one for each.
#[allow(unused_macros, reason = "not every test program runs over directories")]
macro_rules! over_places {
    ($($name:ident),* $(,)?) => {
        over_memories!($($name),*);
        over_directories!($($name),*);
    };
}
