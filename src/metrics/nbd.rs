//! Connections to the NBD server, and their requests.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::family::Registered;
use super::label::labelled;
use super::{Family, REQUEST_SECONDS};

static CONNECTIONS: Family = Family::gauge(
    "restorefs_nbd_connections",
    &[],
    "Connections of NBD clients that are open, those in their handshake included.",
);
static SECONDS: Family = Family::histogram(
    "restorefs_nbd_request_duration_seconds",
    &["command"],
    "Time of an NBD request, from its header until its reply is ready to be sent; a write includes the arrival of its bytes.",
);
static ERRORS: Family = Family::counter(
    "restorefs_nbd_request_errors_total",
    &["command"],
    "NBD requests that were answered with an error.",
);

pub(super) const FAMILIES: &[&Family] = &[&CONNECTIONS, &SECONDS, &ERRORS];

labelled! {
    /// The command of a request.
    pub enum Command {
        /// Read bytes.
        Read = "read",
        /// Write bytes.
        Write = "write",
        /// Make durable.
        Flush = "flush",
        /// Discard.
        Trim = "trim",
        /// Read ahead.
        Cache = "cache",
        /// Write zeroes.
        WriteZeroes = "write_zeroes",
        /// Report extents.
        BlockStatus = "block_status",
        /// A command that is not known.
        Other = "other",
    }
}

pub(super) struct Series {
    connections: IntGauge,
    seconds: Vec<Histogram>,
    errors: Vec<IntCounter>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            connections: CONNECTIONS.single_gauge(registry)?,
            seconds: SECONDS.histograms(registry, Command::LABELS, &REQUEST_SECONDS)?,
            errors: ERRORS.counters(registry, Command::LABELS)?,
        })
    }
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub struct Open(());

impl Open {
    /// Counts a connection.
    #[must_use]
    pub fn begin() -> Self {
        if let Some(series) = super::series() {
            series.nbd.connections.inc();
        }
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(series) = super::series() {
            series.nbd.connections.dec();
        }
    }
}

/// Counts a request that began at `began` and is answered now.
pub fn note_answer(command: Command, began: Instant, is_error: bool) {
    let Some(series) = super::series() else {
        return;
    };
    if let Some(seconds) = series.nbd.seconds.get(command as usize) {
        seconds.observe(began.elapsed().as_secs_f64());
    }
    if is_error && let Some(errors) = series.nbd.errors.get(command as usize) {
        errors.inc();
    }
}
