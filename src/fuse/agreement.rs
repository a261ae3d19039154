//! What a mount agrees on with the kernel when it begins; both adapters ask in the same way.

use fuser::{InitFlags, KernelConfig};

use super::reply::BACKGROUND;

/// Asks for those of the wanted capabilities that the kernel offers, and returns them; asks for as much in flight, and as much
/// read ahead, as is allowed.
pub(super) fn agree(config: &mut KernelConfig, wanted: InitFlags) -> InitFlags {
    let granted = wanted & config.capabilities();
    if let Err(missing) = config.add_capabilities(granted) {
        tracing::warn!(?missing, "the kernel takes back what it has offered");
    }
    if let Err(nearest) = config.set_max_background(BACKGROUND) {
        tracing::debug!(nearest, "another number of requests in flight");
    }
    if let Err(nearest) = config.set_max_readahead(u32::MAX) {
        // The error contains the highest value that is allowed.
        if config.set_max_readahead(nearest).is_err() {
            tracing::debug!(nearest, "the kernel's own readahead is used");
        }
    }
    granted
}
