//! Meta contexts beside `base:allocation`: further facts about ranges of an export.

use std::sync::Arc;

use crate::error::Result;

/// The status of a range in a meta context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextExtent {
    /// Length of the range in bytes, at least 1.
    pub length_bytes: u64,
    /// Status flags, as the context defines them.
    pub flags: u32,
}

/// A meta context of one export. Methods run on blocking threads.
pub trait ContextSource: Send + Sync {
    /// The status of the bytes from `offset` on, for at most `length_max` of them.
    ///
    /// # Errors
    /// Errors of determining the status.
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<ContextExtent>;
}

/// Finds the meta contexts of an export. Methods run on blocking threads.
pub trait MetaContexts: Send + Sync {
    /// Names to list for clients; bounded.
    fn names(&self) -> Vec<String>;

    /// The context of that name; `None` when the export has none.
    ///
    /// # Errors
    /// Errors of opening it.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn ContextSource>>>;
}
