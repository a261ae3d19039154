//! Who asks.

use std::sync::Arc;

/// Who a connection is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this machine whom the Unix socket let in.
    Local,
    /// Somebody on this machine, over its loopback address and without TLS: nobody knows who.
    Loopback,
    /// The holder of a certificate, with the names in it.
    Certified(Arc<[String]>),
}
