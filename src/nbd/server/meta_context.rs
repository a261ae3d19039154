//! Meta contexts beside `base:allocation`: what else can be asked of an export's ranges.

use std::sync::Arc;

use crate::error::Result;

/// What a meta context says of the bytes from some offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextExtent {
    /// For how many bytes it holds, at least 1.
    pub length_bytes: u64,
    /// What is said, as the context defines it.
    pub flags: u32,
}

/// A meta context of one export. Methods run on blocking threads.
pub trait ContextSource: Send + Sync {
    /// What is said of the bytes from `offset` on, for at most `length_max` of them.
    ///
    /// # Errors
    /// What finding out returns.
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<ContextExtent>;
}

/// Who knows an export's meta contexts. Methods run on blocking threads.
pub trait MetaContexts: Send + Sync {
    /// Names of those that are told to who asks for a list; bounded.
    fn names(&self) -> Vec<String>;

    /// The context of that name; `None` when the export has none.
    ///
    /// # Errors
    /// What opening it returns.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn ContextSource>>>;
}
