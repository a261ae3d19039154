//! The changes of a disk, as an NBD server reports them by a dirty bitmap (`qemu:dirty-bitmap:NAME`, `docs/interop/nbd.rst` of QEMU).

use super::reopen::{Again, Reopened};
use crate::block::piece::Changes;
use crate::error::Result;
use crate::nbd::client::Bitmap;

/// The changed ranges of an export.
pub struct DirtyBitmap<A: Again<Source = Bitmap>>(Reopened<A>);

impl<A: Again<Source = Bitmap>> DirtyBitmap<A> {
    /// Connects.
    ///
    /// # Errors
    /// As [`Bitmap::connect`].
    pub fn new(again: A) -> Result<Self> {
        Reopened::new(again).map(Self)
    }
}

impl<A: Again<Source = Bitmap>> Changes for DirtyBitmap<A> {
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        self.0.ask(|bitmap| bitmap.dirty_at(offset, length_max))
    }
}
