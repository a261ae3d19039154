//! Requests to one server, and their answers.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use ureq::config::Config;
use ureq::http::{Request, Response, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body};

use super::address::Address;
use super::failure;
use super::secret::Secret;
use super::secure::Secure;
use super::unix::{Nowhere, ToSocket};
use crate::error::{Error, Result};
use crate::tls::ClientTls;

/// LIMIT: how long it may take to be connected.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// LIMIT: how long a request may take to be sent.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
/// LIMIT: how long a server may work on a request: a commit writes to disk what is in memory.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// LIMIT: how long the body of an answer may take.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// LIMIT: bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What a part of a path has as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A part of a path, or the value of a query's parameter.
pub(super) fn part(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// What a request sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    /// Nothing.
    Nothing,
    /// A document.
    Json(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// The way to a server.
#[derive(Debug)]
pub(super) struct Wire {
    agent: Agent,
    address: Address,
    secret: Option<Secret>,
}

fn config() -> Config {
    Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("restorefs/", env!("CARGO_PKG_VERSION")))
        // A connection that was kept may belong to a daemon that is gone.
        .max_idle_connections(0)
        .timeout_resolve(Some(CONNECT_PATIENCE))
        .timeout_connect(Some(CONNECT_PATIENCE))
        .timeout_send_request(Some(SEND_PATIENCE))
        .timeout_send_body(Some(SEND_PATIENCE))
        .timeout_recv_response(Some(ANSWER_PATIENCE))
        .timeout_recv_body(Some(BODY_PATIENCE))
        .build()
}

impl Wire {
    /// The way to a server. `certificates` is the directory with what TLS needs. Connects with the first request.
    ///
    /// # Errors
    /// As [`ClientTls::load`], where the address has TLS.
    pub(super) fn new(
        address: Address,
        secret: Option<Secret>,
        certificates: &Path,
    ) -> Result<Self> {
        let config = config();
        let agent = match &address {
            Address::Secure(_) => {
                let tls = Secure(ClientTls::load(certificates, true)?);
                let connector = ().chain(TcpConnector::default()).chain(tls);
                Agent::with_parts(config, connector, DefaultResolver::default())
            }
            Address::Plain(_) => {
                let connector = ().chain(TcpConnector::default());
                Agent::with_parts(config, connector, DefaultResolver::default())
            }
            Address::Unix(path) => Agent::with_parts(config, ToSocket(path.clone()), Nowhere),
        };
        Ok(Self {
            agent,
            address,
            secret,
        })
    }

    pub(super) const fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a request; returns the body of its answer.
    ///
    /// # Errors
    /// `Disconnected` when no whole answer came, which the next try may change; `PermissionDenied` for an unknown token, and for
    /// certificates that one of both sides does not accept; `Unsupported` for what is no restorefs; those of the operation.
    pub(super) fn send(&self, method: &str, path: &str, content: Content<'_>) -> Result<Vec<u8>> {
        let done = self.answered(method, path, content);
        done.map_err(|e| e.at_path(self.address.to_string()))
    }

    fn answered(&self, method: &str, path: &str, content: Content<'_>) -> Result<Vec<u8>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.base()))
            .header(header::ACCEPT, "application/json");
        match (&self.secret, &self.address) {
            (Some(secret), _) => {
                request = request.header(header::AUTHORIZATION, secret.header());
            }
            // A certificate alone could be that of a browser, which another page has sent.
            (None, Address::Secure(_)) => {
                request = request.header(header::ORIGIN, self.address.base());
            }
            (None, _) => {}
        }
        let unusable =
            |e: ureq::http::Error| Error::invalid("the request cannot be made").caused_by(e);
        let answer = match content {
            Content::Nothing => self.agent.run(request.body(()).map_err(unusable)?),
            Content::Json(bytes) => {
                let request = request.header(header::CONTENT_TYPE, "application/json");
                self.agent.run(request.body(bytes).map_err(unusable)?)
            }
            Content::Bytes(bytes) => {
                let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
                self.agent.run(request.body(bytes).map_err(unusable)?)
            }
        };
        self.taken(answer.map_err(failure::unanswered)?)
    }

    fn taken(&self, answer: Response<Body>) -> Result<Vec<u8>> {
        let (head, mut body) = answer.into_parts();
        if head.status.is_redirection() {
            let place = head.headers.get(header::LOCATION);
            let place = place.and_then(|place| place.to_str().ok());
            return Err(failure::redirect(head.status, place));
        }
        let bytes = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = bytes.map_err(failure::unanswered)?;
        match head.status.is_success() {
            true => Ok(bytes),
            false => Err(failure::refused(head.status, &bytes, self.secret.is_some())),
        }
    }

    /// Sends a request whose answer is a document.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        content: Content<'_>,
    ) -> Result<T> {
        let bytes = self.send(method, path, content)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| failure::stranger(e).at_path(self.address.to_string()))
    }
}
