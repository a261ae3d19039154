//! An entry of an archive, and what each format makes of it.

use super::map::Map;
use super::note::Notes;
use crate::error::Result;
use crate::guest::fs::Xattr;
use crate::tree::Attributes;

/// An entry.
pub(super) struct Entry<'a> {
    /// Path in the archive; components that are no `..`, without a slash at either end.
    pub(super) path: &'a [u8],
    pub(super) attributes: &'a Attributes,
    pub(super) xattrs: &'a [Xattr],
    pub(super) kind: Kind<'a>,
}

/// What is special for each type.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Directory,
    File(&'a Map),
    /// With its target.
    Symlink(&'a [u8]),
    /// A further name, with the path of the first.
    HardLink(&'a [u8]),
    /// With major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A writer of one format.
pub(super) trait Pen {
    /// Begins an entry; `false` when it was noted as left out, and nothing was written. After a file come its bytes.
    ///
    /// # Errors
    /// Those of the stream, after which it is of no use.
    fn begin(&mut self, entry: &Entry<'_>, notes: &Notes) -> Result<bool>;

    /// Bytes of a segment of the file, in order; what lies between segments is not given.
    ///
    /// # Errors
    /// As [`Pen::begin`].
    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<()>;

    /// Ends an entry.
    ///
    /// # Errors
    /// As [`Pen::begin`].
    fn end(&mut self) -> Result<()>;

    /// Ends the archive.
    ///
    /// # Errors
    /// As [`Pen::begin`].
    fn finish(self: Box<Self>) -> Result<()>;
}
