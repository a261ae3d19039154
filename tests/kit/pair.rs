//! Store and workspace of a repository, in one place or in two. Tests that use no paths run over
//! each arrangement.

use std::sync::Arc;

use restorefs::store::fault::{FaultStage, FaultStore, Faults};
use restorefs::store::{LocalStore, MemoryStore, Stage, Store, Workspace};

/// The arrangement of the two sides.
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

/// The storage behind both sides.
#[derive(Clone)]
pub(crate) enum Kept {
    Memory(MemoryStore),
    Memories(MemoryStore, MemoryStore),
    Directories(Arc<[tempfile::TempDir; 2]>),
}

/// Both sides. Clones share the storage.
#[derive(Clone)]
pub(crate) struct Pair {
    /// Committed objects.
    pub(crate) store: Arc<dyn Store>,
    /// The workspace's files, without the layer that publishes them to another store.
    files: Arc<dyn Stage>,
    pub(crate) kept: Kept,
}

impl Pair {
    /// Creates two empty sides.
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

    /// Two sides over existing storage.
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

    /// Both sides with fault injection: changes are counted, and fail on request.
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

    /// A copy of the storage with the same content.
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

/// Makes a test for each in-memory arrangement from functions that take a [`Places`].
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

/// Makes a test over two directories from functions that take a [`Places`].
#[allow(unused_macros, reason = "not every test program runs over directories")]
macro_rules! over_directories {
    ($($name:ident),* $(,)?) => {
        mod in_two_directories {
            $(#[test] fn $name() { super::$name(crate::pair::Places::TwoDirectories); })*
        }
    };
}

/// Makes a test for each arrangement from functions that take a [`Places`].
#[allow(unused_macros, reason = "not every test program runs over directories")]
macro_rules! over_places {
    ($($name:ident),* $(,)?) => {
        over_memories!($($name),*);
        over_directories!($($name),*);
    };
}
