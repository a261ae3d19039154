//! Store and workspace on one machine whose power can be cut, in one place or in two.

use std::sync::Arc;

use restorefs::block::filter::Power;
use restorefs::clock::{Clock, ManualClock};
use restorefs::repo::Repository;
use restorefs::store::{MemoryStore, Stage, Store, VolatileStore, Workspace};

use crate::pair::{Kept, Pair, Places};

/// A new repository.
pub(crate) fn fresh(places: Places) -> Pair {
    let pair = Pair::new(places);
    let (store, stage) = pair.sides();
    Repository::init_store(store, stage, ManualClock::at(1_795_226_400).now()).unwrap();
    pair
}

/// Both sides, in stores that lose what is not durable.
pub(crate) struct VolatilePair {
    store: Arc<VolatileStore>,
    files: Option<Arc<VolatileStore>>,
}

impl VolatilePair {
    /// What is in `pair`, which lies in memory, durably.
    pub(crate) fn new(power: &Arc<Power>, pair: &Pair) -> Self {
        let volatile = |base: &MemoryStore| Arc::new(VolatileStore::new(power, base));
        let (store, files) = match &pair.kept {
            Kept::Memory(both) => (both, None),
            Kept::Memories(store, files) => (store, Some(files)),
            Kept::Directories(_) => panic!("directories lose nothing"),
        };
        Self {
            store: volatile(store),
            files: files.map(volatile),
        }
    }

    /// Both sides, for a process that opens the repository.
    pub(crate) fn sides(&self) -> (Arc<dyn Store>, Arc<dyn Stage>) {
        let store: Arc<dyn Store> = self.store.clone();
        let stage: Arc<dyn Stage> = match &self.files {
            None => self.store.clone(),
            Some(files) => Arc::new(Workspace::new(files.clone(), Arc::clone(&store))),
        };
        (store, stage)
    }

    /// What the next boot finds; see [`VolatileStore::after_power_loss`].
    pub(crate) fn after_power_loss(&self, seed: u64) -> Pair {
        // Each side loses what it does; seeds 0 and 1 mean all and nothing.
        let other = if seed < 2 { seed } else { seed ^ 0x5eed };
        let store = self.store.after_power_loss(seed);
        Pair::of(match &self.files {
            None => Kept::Memory(store),
            Some(files) => Kept::Memories(store, files.after_power_loss(other)),
        })
    }
}
