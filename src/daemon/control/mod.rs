//! The control socket: how commands reach the process that owns the repository.
//!
//! One JSON object a line each way: `{"command":"begin",...}` is answered by `{"ok":...}` or
//! `{"error":{"kind":"busy","message":"...","advice":"..."}}`. A connection may carry several; the first says which repository is meant,
//! and nothing else is done before (`hello`). With a `mount` comes the descriptor of
//! the device that somebody has mounted.

mod client;
mod crowd;
mod hello;
mod kind;
mod line;
mod request;
pub(super) mod server;

pub use client::Client;
pub use hello::{Hello, Welcome};
pub use request::{
    BeginAnswer, BeginArguments, CommitAnswer, CommitArguments, DiskArguments, DiskResult,
    MountAnswer, MountArguments, Request, SessionAnswer, Status,
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// LIMIT: longest line in bytes.
const LINE_BYTES_MAX: usize = 32 << 20;

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(WireError),
}

/// The request that a command has sent as a line.
///
/// # Errors
/// `InvalidInput` when it is none.
pub fn parse_request(line: &[u8]) -> Result<Request> {
    serde_json::from_slice(line).map_err(|e| Error::invalid("not a request").caused_by(e))
}

/// The answer that the daemon has sent as a line.
///
/// # Errors
/// What the daemon answers; `Disconnected` when it is no answer to what was asked.
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

/// An error on its way to another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireError {
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        Self {
            kind: kind::name(error.kind()).to_owned(),
            message: error.report_without_advice(),
            advice: error.context().advice.as_ref().map(ToString::to_string),
        }
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Self {
        let error = Self::new(kind::parse(&wire.kind), wire.message);
        match wire.advice {
            Some(advice) => error.advise(advice),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::WireError;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn errors_keep_kind_message_and_advice() {
        let error = Error::new(ErrorKind::Busy, "it is busy")
            .at_path("/x")
            .advise("wait");
        let wire = WireError::from(&error);
        let text = serde_json::to_string(&wire).unwrap();
        let back = Error::from(serde_json::from_str::<WireError>(&text).unwrap());
        assert_eq!(back.kind(), ErrorKind::Busy);
        assert_eq!(back.report(), "it is busy (/x); wait");
    }
}
