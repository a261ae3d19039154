//! Filters: disks that wrap another and change one thing about it. They stack.
//!
//! [`Count`] counts operations and bytes, [`Delay`] is slow, [`Fault`] fails on demand, [`Volatile`] loses
//! unflushed data when its power is cut. All work over `dyn ReadAt` and `dyn WriteAt` as well as over a
//! concrete disk.

pub mod count;
pub mod delay;
pub mod fault;
pub mod volatile;

pub use count::Count;
pub use delay::Delay;
pub use fault::Fault;
pub use volatile::{Power, Volatile};

/// Kind of an operation on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// `read_at`
    Read,
    /// `extent_at`
    Extent,
    /// `write_at`
    Write,
    /// `flush`
    Flush,
    /// `set_size`
    SetSize,
    /// `punch`
    Punch,
}

/// One operation on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Kind.
    pub kind: OpKind,
    /// Offset; the new size for `SetSize`, 0 for `Flush`.
    pub offset: u64,
    /// Length in bytes; 0 for `SetSize` and `Flush`.
    pub length_bytes: u64,
}

impl Op {
    const fn new(kind: OpKind, offset: u64, length_bytes: u64) -> Self {
        Self {
            kind,
            offset,
            length_bytes,
        }
    }
}

/// Implements both traits: each method calls `before(&Op)` first and then the inner disk.
macro_rules! filter {
    ($name:ident) => {
        impl<D: $crate::block::ReadAt + ?Sized> $crate::block::ReadAt for $name<D> {
            fn size_bytes(&self) -> u64 {
                self.inner.size_bytes()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> $crate::error::Result<()> {
                let length = $crate::types::width::u64_from_usize(buf.len());
                self.before(&super::Op::new(super::OpKind::Read, offset, length))?;
                self.inner.read_at(offset, buf)
            }
            fn extent_at(
                &self,
                offset: u64,
                length_max: u64,
            ) -> $crate::error::Result<$crate::block::Extent> {
                self.before(&super::Op::new(super::OpKind::Extent, offset, length_max))?;
                self.inner.extent_at(offset, length_max)
            }
        }
        impl<D: $crate::block::WriteAt + ?Sized> $crate::block::WriteAt for $name<D> {
            fn write_at(&self, offset: u64, buf: &[u8]) -> $crate::error::Result<()> {
                let length = $crate::types::width::u64_from_usize(buf.len());
                self.before(&super::Op::new(super::OpKind::Write, offset, length))?;
                self.inner.write_at(offset, buf)
            }
            fn flush(&self) -> $crate::error::Result<()> {
                self.before(&super::Op::new(super::OpKind::Flush, 0, 0))?;
                self.inner.flush()
            }
            fn set_size(&self, size_bytes: u64) -> $crate::error::Result<()> {
                self.before(&super::Op::new(super::OpKind::SetSize, size_bytes, 0))?;
                self.inner.set_size(size_bytes)
            }
            fn punch(&self, offset: u64, length_bytes: u64) -> $crate::error::Result<()> {
                self.before(&super::Op::new(super::OpKind::Punch, offset, length_bytes))?;
                self.inner.punch(offset, length_bytes)
            }
        }
    };
}
use filter;
