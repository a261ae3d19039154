//! The process itself: its version, and when it began.

use jiff::Timestamp;
use prometheus::{IntGauge, Registry};

use super::Family;
use super::family::Registered;

static BUILD: Family = Family::gauge(
    "restorefs_build_info",
    &["version"],
    "1; the label has the version of the program.",
);
static STARTED: Family = Family::gauge(
    "restorefs_process_start_time_seconds",
    &[],
    "Unix time at which the process began to serve.",
);

pub(super) const FAMILIES: &[&Family] = &[&BUILD, &STARTED];

pub(super) struct Series {
    started: IntGauge,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        let version: &[&str] = &[env!("CARGO_PKG_VERSION")];
        for build in BUILD.gauges(registry, &[version])? {
            build.set(1);
        }
        Ok(Self {
            started: STARTED.single_gauge(registry)?,
        })
    }
}

/// Records when the process began to serve; the first call counts.
pub fn note_start(now: Timestamp) {
    if let Some(series) = super::series()
        && series.process.started.get() == 0
    {
        series.process.started.set(now.as_second());
    }
}
