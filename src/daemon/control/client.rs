//! The side of the commands.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::{Answer, LINE_BYTES_MAX, Request};
use crate::daemon::runtime_dir;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::RepositoryId;
use crate::types::width::u64_from_usize;

/// A connection to the daemon of a repository.
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the daemon that owns the repository; `None` when there is none.
    ///
    /// # Errors
    /// `PermissionDenied` when there is one that we may not reach.
    pub fn connect(repository: RepositoryId) -> Result<Option<Self>> {
        for dir in runtime_dir::candidates() {
            let path = runtime_dir::control_socket(&dir, repository);
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    return Ok(Some(Self {
                        stream: BufReader::new(stream),
                        path,
                    }));
                }
                // A dead daemon's socket refuses; that is as good as none.
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                    ) => {}
                Err(e) if e.raw_os_error() == Some(20) => {}
                Err(e) => return Err(Error::io("cannot reach the daemon", e).at_path(&path)),
            }
        }
        Ok(None)
    }

    /// Connects, or says that there must be a daemon.
    ///
    /// # Errors
    /// `NotFound` with advice.
    pub fn require(repository: RepositoryId) -> Result<Self> {
        Self::connect(repository)?.ok_or_else(|| {
            Error::not_found("no daemon serves this repository")
                .advise("start one: restorefs serve --nbd SOCKET")
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the daemon answers; `Disconnected` when it goes away.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let mut line = serde_json::to_vec(request)
            .map_err(|e| Error::invalid("the request cannot be encoded").caused_by(e))?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .or_io("cannot ask the daemon")
            .at_path(&self.path)?;
        let mut answer = Vec::new();
        let mut limited = (&mut self.stream).take(u64_from_usize(LINE_BYTES_MAX));
        limited
            .read_until(b'\n', &mut answer)
            .or_io("cannot hear the daemon")
            .at_path(&self.path)?;
        if !answer.ends_with(b"\n") {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the daemon went away before it answered",
            )
            .at_path(&self.path)
            .advise("look at its log; what was committed is kept"));
        }
        let broken = |e| {
            Error::new(
                ErrorKind::Disconnected,
                "the daemon answered something else",
            )
            .caused_by(e)
        };
        match serde_json::from_slice(&answer).map_err(broken)? {
            Answer::Ok(value) => serde_json::from_value(value).map_err(broken),
            Answer::Error(error) => Err(error.into()),
        }
    }
}
