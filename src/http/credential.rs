//! Who sends a request.

use axum::http::{HeaderMap, header};

use super::cookie;
use super::peer::Peer;
use super::site::Site;
use crate::access::Caller;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::authentication;

/// Whom a request comes from.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) caller: Caller,
    pub(super) proof: Proof,
}

/// How the caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The kernel names the peer of a Unix socket.
    Socket,
    /// A certificate of the connection.
    Certificate,
    /// A token in the request.
    Token,
    /// A cookie of a login.
    Cookie,
}

/// The caller of a request; `None` when nobody is named.
///
/// # Errors
/// `LimitExceeded` for an address that has failed too often, whatever it sends now.
pub(super) fn identify(site: &Site, peer: &Peer, headers: &HeaderMap) -> Result<Option<Identity>> {
    if let Some(secret) = bearer(headers) {
        check(site, peer)?;
        let caller = authenticate(site, peer, secret);
        return Ok(caller.map(|caller| Identity {
            caller,
            proof: Proof::Token,
        }));
    }
    if let Some(secret) = cookie::read(headers, peer.way)
        && let Some(caller) = site.caller_of(secret)
    {
        return Ok(Some(Identity {
            caller,
            proof: Proof::Cookie,
        }));
    }
    Ok(peer.caller.clone().map(|caller| Identity {
        proof: match caller {
            Caller::Certified(_) => Proof::Certificate,
            _ => Proof::Socket,
        },
        caller,
    }))
}

/// Refuses an address that has failed too often.
///
/// # Errors
/// `LimitExceeded`.
pub(super) fn check(site: &Site, peer: &Peer) -> Result<()> {
    match peer.address {
        Some(address) => site.throttle.check(address, site.monotonic()),
        None => Ok(()),
    }
}

/// Notes that somebody at this address has named a token or code that is none.
pub(super) fn note_failure(site: &Site, peer: &Peer, what: &str) {
    if let Some(address) = peer.address {
        site.throttle.note_failure(address, site.monotonic());
    }
    authentication::note_failure(authentication::Door::Http);
    let error = Error::new(ErrorKind::PermissionDenied, what.to_owned());
    site.note_login(peer, &Caller::Unknown, Some(&error));
}

/// Whose token this is; a failure is noted.
pub(super) fn authenticate(site: &Site, peer: &Peer, secret: &str) -> Option<Caller> {
    let caller = site.access.fresh().authenticate(secret, site.now());
    if caller.is_none() {
        note_failure(site, peer, "a token that is unknown or has expired");
    }
    caller
}

/// The token of a request (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}
