//! Uses of restore points: a point cannot be forgotten while it is in use.
//!
//! # Invariants
//! A use ends with its holder: it is a value in the owner's memory, and nothing on disk. Uses of another
//! process end with its connection to the owner. The parent of an open session is in use without such a
//! value: the session's sidecar names it, also after a restart.
//! Until the sidecar is there, the begin of the session holds a use.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::PointId;
use crate::types::sync::Mutex;

/// Holders by point: a number and a description for each use.
type Holders = HashMap<PointId, Vec<(u64, String)>>;

/// The uses of all points of a repository.
#[derive(Debug, Default)]
pub(super) struct Uses {
    holders: Mutex<Holders>,
    next: AtomicU64,
}

/// A use of a restore point; dropping it ends the use.
#[derive(Debug)]
pub struct PointUse {
    uses: Arc<Uses>,
    point: PointId,
    number: u64,
}

impl Uses {
    /// Records a use. `holder` describes the user of the point for people ("a copy to offsite").
    pub(super) fn add(self: &Arc<Self>, point: PointId, holder: &str) -> PointUse {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut holders = self.holders.lock();
        let of_point = holders.entry(point).or_default();
        of_point.push((number, holder.to_owned()));
        PointUse {
            uses: Arc::clone(self),
            point,
            number,
        }
    }

    /// A holder of the point, if there is one.
    pub(super) fn holder(&self, point: PointId) -> Option<String> {
        let holders = self.holders.lock();
        holders
            .get(&point)?
            .first()
            .map(|(_, holder)| holder.clone())
    }
}

impl Drop for PointUse {
    fn drop(&mut self) {
        let mut holders = self.uses.holders.lock();
        if let Some(of_point) = holders.get_mut(&self.point) {
            of_point.retain(|(number, _)| *number != self.number);
            if of_point.is_empty() {
                holders.remove(&self.point);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Uses;
    use crate::types::PointId;

    #[test]
    fn a_point_is_used_until_the_last_holder_has_ended() {
        let uses = Arc::new(Uses::default());
        let point = PointId::random();
        let first = uses.add(point, "a copy");
        let second = uses.add(point, "a verification");
        assert_eq!(uses.holder(point).as_deref(), Some("a copy"));
        drop(first);
        assert_eq!(uses.holder(point).as_deref(), Some("a verification"));
        drop(second);
        assert_eq!(uses.holder(point), None);
        assert!(uses.holders.lock().is_empty());
    }
}
