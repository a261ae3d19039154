//! The control socket: how commands reach the process that owns the repository.
//!
//! Each message is one JSON object on a line: `{"command":"begin",...}` is answered by `{"ok":...}`
//! or `{"error":{"kind":"busy","what":"...","advice":"..."}}`. A connection may carry several
//! requests; after `follow` it carries events to the client and no more requests. The first
//! (`hello`) names the repository, and no other request is executed before it.
//! A `mount` request comes with the descriptor of the device that the sender has mounted; the bytes
//! of the file follow an `attach` request.
//!
//! The server executes requests by a [`LocalService`](crate::service::LocalService) with the peer
//! as the caller. [`Client`] is the same [`Service`](crate::service::Service) for other processes.
//! Both sides must be of the same release.

mod client;
mod events;
mod hello;
mod limits;
mod line;
mod request;
pub mod server;
mod socket_path;

pub use client::{Client, SHORT_PATIENCE};
pub use events::Events;
pub use hello::{Hello, Welcome};
pub use request::Request;
pub use socket_path::{control_socket, nbd_socket};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Problem, Result};

/// LIMIT: longest request in bytes, without the bytes that follow it; a backup of 256 disks has
/// about 100 KB.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// LIMIT: longest answer in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(Problem),
}

/// Parses a request from a line.
///
/// # Errors
/// `InvalidInput` when the line is not a request.
pub fn parse_request(line: &[u8]) -> Result<Request> {
    serde_json::from_slice(line).map_err(|e| Error::invalid("not a request").caused_by(e))
}

/// Parses the daemon's answer from a line.
///
/// # Errors
/// The daemon's error; `Disconnected` when the line is not an answer to the request.
pub fn parse_answer<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    let broken = |e| {
        Error::new(
            ErrorKind::Disconnected,
            "the daemon answered something else",
        )
        .caused_by(e)
    };
    match serde_json::from_slice(line).map_err(broken)? {
        Answer::Ok(value) => serde_json::from_value(value).map_err(broken),
        Answer::Error(error) => Err(error.into()),
    }
}
