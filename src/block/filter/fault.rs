//! A disk that fails on demand: the nth operation of a kind, or every operation that a predicate picks. A
//! failed operation has no effect.

use std::sync::Arc;

use super::{Op, OpKind, filter};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

type Predicate = Box<dyn FnMut(&Op) -> Option<ErrorKind> + Send>;

/// A disk whose chosen operations fail.
pub struct Fault<D: ?Sized> {
    rules: Mutex<Vec<Predicate>>,
    inner: Arc<D>,
}

impl<D: ?Sized> Fault<D> {
    /// A disk that fails nothing yet.
    pub fn new(inner: Arc<D>) -> Self {
        Self {
            rules: Mutex::new(Vec::new()),
            inner,
        }
    }

    /// Fails every operation for which `rule` returns a kind of error. Rules apply in the order in which they
    /// were added; the first match wins.
    pub fn fail_when(&self, rule: impl FnMut(&Op) -> Option<ErrorKind> + Send + 'static) {
        self.rules().push(Box::new(rule));
    }

    /// Fails one operation of this kind: the one after `n` more.
    pub fn fail_nth(&self, kind: OpKind, n: u64, error: ErrorKind) {
        let mut left = Some(n);
        self.fail_when(move |op| {
            if op.kind != kind {
                return None;
            }
            match left {
                Some(0) => {
                    left = None;
                    Some(error)
                }
                Some(n) => {
                    left = Some(n - 1);
                    None
                }
                None => None,
            }
        });
    }

    /// Fails operations of this kind that touch any byte of `[offset, offset + length_bytes)`: a bad sector.
    pub fn fail_range(&self, kind: OpKind, offset: u64, length_bytes: u64, error: ErrorKind) {
        let end = offset.saturating_add(length_bytes);
        self.fail_when(move |op| {
            let touches = op.offset < end && offset < op.offset.saturating_add(op.length_bytes);
            (op.kind == kind && touches).then_some(error)
        });
    }

    /// Removes all rules.
    pub fn heal(&self) {
        self.rules().clear();
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Predicate>> {
        self.rules.lock()
    }

    fn before(&self, op: &Op) -> Result<()> {
        match self.rules().iter_mut().find_map(|rule| rule(op)) {
            Some(kind) => Err(Error::new(kind, "an injected fault").at_offset(op.offset)),
            None => Ok(()),
        }
    }
}

impl<D: ?Sized> std::fmt::Debug for Fault<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fault({} rules)", self.rules().len())
    }
}

filter!(Fault);

#[cfg(test)]
mod tests {
    use super::Fault;
    use crate::block::conformance::check_write_at;
    use crate::block::filter::OpKind;
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use std::sync::Arc;

    #[test]
    fn conforms_while_nothing_fails() {
        check_write_at(&|| Arc::new(Fault::new(Arc::new(MemoryDisk::new()))));
    }

    #[test]
    fn fails_the_nth_and_bad_sectors_and_does_nothing_then() {
        let memory = Arc::new(MemoryDisk::sparse(1000));
        let disk = Fault::new(Arc::clone(&memory));
        disk.fail_nth(OpKind::Write, 1, ErrorKind::NoSpace);
        disk.fail_range(OpKind::Read, 500, 10, ErrorKind::Io);
        disk.write_at(0, b"a").unwrap();
        let error = disk.write_at(1, b"b").unwrap_err();
        assert_eq!(
            (error.kind(), memory.to_bytes()[1]),
            (ErrorKind::NoSpace, 0)
        );
        disk.write_at(1, b"b").unwrap();
        assert!(disk.read_at(0, &mut [0; 500]).is_ok());
        assert!(disk.read_at(0, &mut [0; 501]).is_err());
        assert!(disk.read_at(510, &mut [0; 5]).is_ok());
        disk.heal();
        assert!(disk.read_at(0, &mut [0; 501]).is_ok());
    }
}
