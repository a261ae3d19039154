//! Callers that did not prove who they are.

use prometheus::{IntCounter, Registry};

use super::Family;
use super::family::Registered;
use super::label::labelled;

static FAILURES: Family = Family::counter(
    "restorefs_authentication_failures_total",
    &["door"],
    "Attempts to prove an identity that failed, by the door: a token or a login over HTTP, a certificate over NBD.",
);

pub(super) const FAMILIES: &[&Family] = &[&FAILURES];

labelled! {
    /// The door at which a caller failed.
    pub enum Door {
        /// HTTP: a token, a login, or a session's cookie.
        Http = "http",
        /// NBD over TLS: a certificate.
        Nbd = "nbd",
    }
}

pub(super) struct Series {
    failures: Vec<IntCounter>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            failures: FAILURES.counters(registry, Door::LABELS)?,
        })
    }
}

/// Counts an attempt that failed.
pub fn note_failure(door: Door) {
    let series = super::series();
    if let Some(counter) = series.and_then(|s| s.authentication.failures.get(door as usize)) {
        counter.inc();
    }
}
