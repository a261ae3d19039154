//! A slow disk: operations of the chosen kinds sleep first.

use std::sync::Arc;
use std::time::Duration;

use super::{Op, OpKind, filter};
use crate::error::Result;

/// A disk whose chosen operations sleep first.
#[derive(Debug)]
pub struct Delay<D: ?Sized> {
    kinds: Vec<OpKind>,
    delay: Duration,
    inner: Arc<D>,
}

impl<D: ?Sized> Delay<D> {
    /// Sleeps for `delay` before each operation of these kinds.
    pub fn new(inner: Arc<D>, kinds: &[OpKind], delay: Duration) -> Self {
        Self {
            kinds: kinds.to_vec(),
            delay,
            inner,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape that all filters share")]
    fn before(&self, op: &Op) -> Result<()> {
        if self.kinds.contains(&op.kind) {
            std::thread::sleep(self.delay);
        }
        Ok(())
    }
}

filter!(Delay);

#[cfg(test)]
mod tests {
    use super::Delay;
    use crate::block::conformance::check_write_at;
    use crate::block::filter::OpKind;
    use crate::block::{MemoryDisk, WriteAt};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn conforms_and_is_slow() {
        let make = |delay| Delay::new(Arc::new(MemoryDisk::new()), &[OpKind::Flush], delay);
        check_write_at(&|| Arc::new(make(Duration::ZERO)));
        let start = Instant::now();
        let disk = make(Duration::from_millis(20));
        disk.write_at(0, b"x").unwrap();
        disk.flush().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
