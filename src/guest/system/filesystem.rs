//! The filesystems of a point, opened for a plan.
//!
//! # Why
//! An open filesystem may be a process: only a few are held at the same time, however many volumes there are.
//! The reason why one cannot be opened is kept.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::{Obstacle, Open, VolumeFacts};
use crate::error::{Error, Result};
use crate::guest::fs::GuestFs;

/// LIMIT: filesystems held open by a plan.
const HELD: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Opened filesystems of a point's volumes, for a plan.
pub(super) struct Filesystems<'a> {
    /// The volumes; facts from opened filesystems have completed those from the magic numbers.
    pub(super) volumes: Vec<VolumeFacts>,
    open: Open<'a>,
    held: RefCell<LruCache<usize, Arc<dyn GuestFs>>>,
    failed: RefCell<BTreeMap<usize, String>>,
}

impl<'a> Filesystems<'a> {
    /// The filesystems of these volumes; none is opened yet.
    pub(super) fn new(volumes: &[VolumeFacts], open: Open<'a>) -> Self {
        Self {
            volumes: volumes.to_vec(),
            open,
            held: RefCell::new(LruCache::new(HELD)),
            failed: RefCell::default(),
        }
    }

    /// Adds a filesystem's own label and UUID, which are not cheap to find in every format.
    pub(super) fn complete(&mut self, volume: usize, fs: &dyn GuestFs) {
        if let Some(facts) = self.volumes.get_mut(volume) {
            let info = fs.info();
            facts.label = info.label.clone().or(facts.label.take());
            facts.uuid = info.uuid.clone().or(facts.uuid.take());
        }
    }

    /// Whether the volume may have a filesystem to open.
    pub(super) fn may_open(&self, volume: usize) -> bool {
        self.volumes.get(volume).is_some_and(|facts| facts.may_open)
    }

    /// Why the volume has no filesystem to open.
    pub(super) fn obstacle(&self, volume: usize) -> Option<&Obstacle> {
        self.volumes.get(volume)?.obstacle.as_ref()
    }

    /// The filesystem on a volume.
    ///
    /// # Errors
    /// `Unsupported` with the report of the error from opening it.
    pub(super) fn get(&self, volume: usize) -> Result<Arc<dyn GuestFs>> {
        if let Some(fs) = self.held.borrow_mut().get(&volume) {
            return Ok(Arc::clone(fs));
        }
        if let Some(why) = self.failed.borrow().get(&volume) {
            return Err(Error::unsupported(why.clone()));
        }
        let obstacle = self.obstacle(volume).map(|why| why.reason().to_owned());
        let opened = if self.may_open(volume) {
            (self.open)(volume).map_err(|error| error.report())
        } else {
            Err(obstacle.unwrap_or_else(|| "it has no filesystem that can be read".to_owned()))
        };
        match opened {
            Ok(fs) => {
                self.held.borrow_mut().put(volume, Arc::clone(&fs));
                Ok(fs)
            }
            Err(why) => {
                self.failed.borrow_mut().insert(volume, why.clone());
                Err(Error::unsupported(why))
            }
        }
    }
}
