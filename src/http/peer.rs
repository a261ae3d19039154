//! Where a connection comes from.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::Caller;

/// The way by which a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A Unix socket, whose peer the kernel names.
    Unix,
    /// Plain TCP on a loopback address.
    Plain,
    /// TLS.
    Tls,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) way: Way,
    /// Its address; none on a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// Who it is by the connection alone: the user of a Unix socket, the names of a certificate.
    pub(super) caller: Option<Caller>,
}

impl Peer {
    pub(super) fn on_unix(caller: Caller) -> Self {
        Self {
            way: Way::Unix,
            address: None,
            caller: Some(caller),
        }
    }

    pub(super) const fn plain(address: IpAddr) -> Self {
        Self {
            way: Way::Plain,
            address: Some(address),
            caller: None,
        }
    }

    pub(super) fn with_tls(address: IpAddr, names: Vec<String>) -> Self {
        let names: Arc<[String]> = names.into();
        Self {
            way: Way::Tls,
            address: Some(address),
            caller: (!names.is_empty()).then_some(Caller::Certified(names)),
        }
    }
}
