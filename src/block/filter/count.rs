//! Counts the operations on a disk, for tests that promise "one read per run".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Op, OpKind, filter};
use crate::error::Result;

#[derive(Debug, Default)]
struct Tally {
    ops: AtomicU64,
    bytes: AtomicU64,
}

/// A disk that counts the operations on the one below.
#[derive(Debug)]
pub struct Count<D: ?Sized> {
    tallies: [Tally; 6],
    inner: Arc<D>,
}

const fn index(kind: OpKind) -> usize {
    match kind {
        OpKind::Read => 0,
        OpKind::Extent => 1,
        OpKind::Write => 2,
        OpKind::Flush => 3,
        OpKind::SetSize => 4,
        OpKind::Punch => 5,
    }
}

impl<D: ?Sized> Count<D> {
    /// A counter that begins at zero.
    pub fn new(inner: Arc<D>) -> Self {
        Self {
            tallies: Default::default(),
            inner,
        }
    }

    /// Operations of a kind so far, including failed ones.
    pub fn ops(&self, kind: OpKind) -> u64 {
        self.tallies[index(kind)].ops.load(Ordering::Relaxed)
    }

    /// Bytes requested by operations of a kind.
    pub fn bytes(&self, kind: OpKind) -> u64 {
        self.tallies[index(kind)].bytes.load(Ordering::Relaxed)
    }

    /// Resets the counters to zero.
    pub fn reset(&self) {
        for tally in &self.tallies {
            tally.ops.store(0, Ordering::Relaxed);
            tally.bytes.store(0, Ordering::Relaxed);
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape that all filters share")]
    fn before(&self, op: &Op) -> Result<()> {
        let tally = &self.tallies[index(op.kind)];
        tally.ops.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(op.length_bytes, Ordering::Relaxed);
        Ok(())
    }
}

filter!(Count);

#[cfg(test)]
mod tests {
    use super::Count;
    use crate::block::conformance::check_write_at;
    use crate::block::filter::OpKind;
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use std::sync::Arc;

    #[test]
    fn conforms_and_counts() {
        check_write_at(&|| Arc::new(Count::new(Arc::new(MemoryDisk::new()) as Arc<dyn WriteAt>)));
        let disk = Count::new(Arc::new(MemoryDisk::sparse(100)));
        disk.read_at(0, &mut [0; 7]).unwrap();
        disk.read_at(0, &mut [0; 3]).unwrap();
        assert!(disk.read_at(99, &mut [0; 3]).is_err());
        assert_eq!((disk.ops(OpKind::Read), disk.bytes(OpKind::Read)), (3, 13));
        disk.reset();
        assert_eq!(disk.ops(OpKind::Read), 0);
    }
}
