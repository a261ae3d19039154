//! The signals that a process handles.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// Starts to watch for a signal. The caller must be within a tokio runtime.
///
/// # Errors
/// `Io`.
pub(super) fn watch_for(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::io("cannot watch for signals", e))
}

/// The signals to stop: SIGINT and SIGTERM.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Starts to watch for both signals. The caller must be within a tokio runtime.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn watch() -> Result<Self> {
        Ok(Self {
            interrupt: watch_for(SignalKind::interrupt())?,
            terminate: watch_for(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal; returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
