//! The base of a layer draft: the content that it is compared with.

use std::sync::Arc;

use crate::error::Result;
use crate::repo::content::{PAGE_BYTES, Region};
use crate::repo::leaves::Leaves;
use crate::types::sync::Mutex;

/// The content that a layer's clusters are compared with.
pub struct Base {
    leaves: Leaves,
    data_bytes: u64,
    /// The leaves of the last requested region: writers usually proceed region by region.
    page: Mutex<Option<(Region, Arc<[u8]>)>>,
}

impl Base {
    /// Creates a base with these leaves, `data_bytes` of which are data.
    #[must_use]
    pub fn new(leaves: Leaves, data_bytes: u64) -> Self {
        Self {
            leaves,
            data_bytes,
            page: Mutex::default(),
        }
    }

    /// The base's leaves.
    #[must_use]
    pub const fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    /// Bytes of the base that are not zero, in whole clusters.
    #[must_use]
    pub const fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The leaves of a region.
    pub(super) fn page(&self, region: Region) -> Result<Arc<[u8]>> {
        let kept = self.page.lock().clone();
        if let Some((of, page)) = kept
            && of == region
        {
            return Ok(page);
        }
        let mut page = vec![0; PAGE_BYTES];
        self.leaves.load_page(region, &mut page)?;
        let page: Arc<[u8]> = page.into();
        *self.page.lock() = Some((region, Arc::clone(&page)));
        Ok(page)
    }
}
