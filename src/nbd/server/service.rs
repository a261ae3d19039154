//! State that all connections share: the exports, the limits, and memory.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::export::Exports;
use super::limit::ServerLimits;
use crate::block::BufferPool;
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::usize_from_u32;

/// LIMIT: lists of exports that are made at the same time; each may have 65,536 names.
const LISTS_MAX: usize = 2;

/// LIMIT: bytes of free buffers for reads.
const FREE_BYTES_MAX: usize = 64 << 20;

/// The service behind any number of listeners.
pub struct Service {
    pub(super) exports: Arc<dyn Exports>,
    limits: RwLock<ServerLimits>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) workers: Arc<Semaphore>,
    pub(super) lists: Semaphore,
    pub(super) pool: Arc<BufferPool>,
    pub(super) counts: Arc<ConnectionCounts>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service of these exports within these limits.
    #[must_use]
    pub fn new(exports: Arc<dyn Exports>, limits: ServerLimits) -> Arc<Self> {
        let limits = limits.usable();
        Arc::new(Self {
            exports,
            limits: RwLock::new(limits),
            bytes: Arc::new(Semaphore::new(usize_from_u32(limits.bytes))),
            workers: Arc::new(Semaphore::new(usize_from_u32(limits.workers))),
            lists: Semaphore::new(LISTS_MAX),
            pool: BufferPool::new(FREE_BYTES_MAX),
            counts: Arc::default(),
        })
    }

    /// The limits for new connections.
    #[must_use]
    pub fn limits(&self) -> ServerLimits {
        *self.limits.read()
    }

    /// Sets other limits for new connections; existing ones keep theirs. The limits of workers, and of bytes
    /// in flight on all connections, stay as at the start.
    pub fn set_limits(&self, limits: ServerLimits) {
        let mut own = self.limits.write();
        *own = ServerLimits {
            bytes: own.bytes,
            workers: own.workers,
            ..limits.usable()
        };
    }
}

/// Number of connections of each export.
#[derive(Debug, Default)]
pub(super) struct ConnectionCounts(Mutex<HashMap<String, u32>>);

/// A place at an export; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    counts: Arc<ConnectionCounts>,
    name: String,
}

impl ConnectionCounts {
    /// Takes a place at the export, if one of `most` is free.
    pub(super) fn seat(self: &Arc<Self>, name: &str, most: u32) -> Option<Seat> {
        // Names of VMs, points and disks never differ by case alone.
        let name = name.to_ascii_lowercase();
        let mut all = self.0.lock();
        let count = all.entry(name.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Seat {
            counts: Arc::clone(self),
            name,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.counts.0.lock();
        if let Some(count) = all.get_mut(&self.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::ConnectionCounts;

    #[test]
    fn places_are_counted_for_each_export_and_come_back() {
        let counts = Arc::<ConnectionCounts>::default();
        let first = counts.seat("web01/p/vda", 2).unwrap();
        let _second = counts.seat("WEB01/p/vda", 2).unwrap();
        assert!(counts.seat("web01/p/vda", 2).is_none());
        let _other = counts.seat("web01/p/vdb", 2).unwrap();
        drop(first);
        drop(counts.seat("web01/p/vda", 2).unwrap());
        drop((_second, _other));
        assert!(counts.0.lock().is_empty());
    }
}
