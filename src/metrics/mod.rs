//! What this process counts and measures, and the text in which Prometheus reads it.
//!
//! # Invariants
//! - What is counted where bytes flow is one or two atomic additions: no lock, no allocation, no text. The series of a
//!   family are made when the process counts for the first time, and are then found by their position.
//! - LIMIT: a label of these families has only values that an `enum` or a list of this module names (Prometheus keeps a
//!   time series for each: <https://prometheus.io/docs/practices/naming/#labels>). No name of a VM, a point, a file or
//!   a caller is a label here.
//!
//! # Why
//! The crate `prometheus` rather than `prometheus-client`: the latter writes OpenMetrics (`# EOF`, `# UNIT`, the name of a
//! counter's family without `_total`), which scrapers of the classic text format refuse.

pub mod authentication;
pub mod cache;
mod family;
pub mod flat;
pub mod fuse;
pub mod ingest;
pub mod job;
mod label;
pub mod nbd;
pub mod process;
pub mod reader;
mod sheet;

use std::sync::LazyLock;

use prometheus::Registry;

pub use family::{Family, Kind};
pub use sheet::{CONTENT_TYPE, Sheet};

/// Upper bounds in seconds of what takes microseconds in memory and seconds on a bad day.
const REQUEST_SECONDS: [f64; 13] = [
    0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
];

/// All series of the process.
struct Series {
    registry: Registry,
    authentication: authentication::Series,
    cache: cache::Series,
    flat: flat::Series,
    fuse: fuse::Series,
    ingest: ingest::Series,
    job: job::Series,
    nbd: nbd::Series,
    process: process::Series,
    reader: reader::Series,
}

impl Series {
    fn register() -> family::Registered<Self> {
        let registry = Registry::new();
        Ok(Self {
            authentication: authentication::Series::register(&registry)?,
            cache: cache::Series::register(&registry)?,
            flat: flat::Series::register(&registry)?,
            fuse: fuse::Series::register(&registry)?,
            ingest: ingest::Series::register(&registry)?,
            job: job::Series::register(&registry)?,
            nbd: nbd::Series::register(&registry)?,
            process: process::Series::register(&registry)?,
            reader: reader::Series::register(&registry)?,
            registry,
        })
    }
}

/// The series of the process. They can be registered: a test proves it. Otherwise nothing is counted.
fn series() -> Option<&'static Series> {
    static SERIES: LazyLock<Option<Series>> = LazyLock::new(|| {
        Series::register()
            .inspect_err(|error| tracing::error!(%error, "the process has no metrics"))
            .ok()
    });
    SERIES.as_ref()
}

/// The families that every process has.
#[must_use]
pub fn families() -> Vec<&'static Family> {
    [
        authentication::FAMILIES,
        cache::FAMILIES,
        flat::FAMILIES,
        fuse::FAMILIES,
        ingest::FAMILIES,
        job::FAMILIES,
        nbd::FAMILIES,
        process::FAMILIES,
        reader::FAMILIES,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::{Series, families};
    use std::collections::BTreeSet;

    #[test]
    fn what_is_registered_is_what_the_list_of_families_names() {
        let registered = Series::register().unwrap().registry.gather();
        let registered: BTreeSet<(String, String, String)> = registered
            .iter()
            .map(|family| {
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                (family.name().to_owned(), kind, family.help().to_owned())
            })
            .collect();
        let listed: BTreeSet<(String, String, String)> = families()
            .iter()
            .map(|family| {
                let kind = family.kind.as_str().to_owned();
                (family.name.to_owned(), kind, family.help.to_owned())
            })
            .collect();
        assert_eq!(registered, listed);
    }
}
