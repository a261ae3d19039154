//! Knowledge about a range of bytes without reading it.

/// Kind of an extent; the names are those of the NBD `base:allocation` context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Allocated, content unknown until read.
    Data,
    /// Allocated or written as zero: reads as zero (NBD_STATE_ZERO).
    Zero,
    /// Never written: reads as zero (NBD_STATE_HOLE | NBD_STATE_ZERO).
    Hole,
}

impl ExtentKind {
    /// Whether the bytes are known to be zero.
    #[must_use]
    pub const fn reads_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Hole)
    }
}

/// A range of one kind; it begins at the requested offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The kind.
    pub kind: ExtentKind,
    /// Length in bytes, at least 1.
    pub length_bytes: u64,
}
