//! An entry of an archive, and the interface of a writer of one format.

use super::map::Map;
use super::note::Notes;
use crate::error::Result;
use crate::guest::fs::Xattr;
use crate::tree::Attributes;

/// An entry.
pub(super) struct Entry<'a> {
    /// Path in the archive: no component is `..`, and there is no slash at either end.
    pub(super) path: &'a [u8],
    pub(super) attributes: &'a Attributes,
    pub(super) xattrs: &'a [Xattr],
    pub(super) kind: Kind<'a>,
}

/// Properties of each type.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Directory,
    File(&'a Map),
    /// Symlink with its target.
    Symlink(&'a [u8]),
    /// A further name of a file, with the path of the first one.
    HardLink(&'a [u8]),
    /// Character device with major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A writer of one format.
pub(super) trait Pen {
    /// Begins an entry; `false` when the entry was noted as left out and nothing was written. The data of a
    /// file follow.
    ///
    /// # Errors
    /// Errors of the stream, which is then unusable.
    fn begin(&mut self, entry: &Entry<'_>, notes: &Notes) -> Result<bool>;

    /// Writes bytes of a segment of the file, in order; gaps between segments are not passed.
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
