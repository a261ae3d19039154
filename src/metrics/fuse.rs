//! Requests of the kernel to the mounted tree.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, Registry};

use super::family::Registered;
use super::label::labelled;
use super::{Family, REQUEST_SECONDS};

static REQUESTS: Family = Family::counter(
    "restorefs_fuse_requests_total",
    &["kind"],
    "Requests of the kernel to the mounted trees, by their kind.",
);
static ERRORS: Family = Family::counter(
    "restorefs_fuse_request_errors_total",
    &["kind"],
    "Requests that were answered with an error; that there is no such file, attribute or data is an answer.",
);
static READ_SECONDS: Family = Family::histogram(
    "restorefs_fuse_read_duration_seconds",
    &[],
    "Time to read the bytes of a read request of the kernel.",
);

pub(super) const FAMILIES: &[&Family] = &[&REQUESTS, &ERRORS, &READ_SECONDS];

labelled! {
    /// The kind of a request.
    #[expect(missing_docs, reason = "they are the names of FUSE's requests")]
    pub enum Request {
        Lookup = "lookup",
        Getattr = "getattr",
        Readlink = "readlink",
        Read = "read",
        Readdir = "readdir",
        Readdirplus = "readdirplus",
        Statfs = "statfs",
        Getxattr = "getxattr",
        Listxattr = "listxattr",
        Lseek = "lseek",
        Fsync = "fsync",
        Setattr = "setattr",
        Mknod = "mknod",
        Mkdir = "mkdir",
        Unlink = "unlink",
        Rmdir = "rmdir",
        Symlink = "symlink",
        Rename = "rename",
        Link = "link",
        Write = "write",
        Fallocate = "fallocate",
        Setxattr = "setxattr",
        Removexattr = "removexattr",
    }
}

pub(super) struct Series {
    requests: Vec<IntCounter>,
    errors: Vec<IntCounter>,
    read_seconds: Histogram,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            requests: REQUESTS.counters(registry, Request::LABELS)?,
            errors: ERRORS.counters(registry, Request::LABELS)?,
            read_seconds: READ_SECONDS.single_histogram(registry, &REQUEST_SECONDS)?,
        })
    }
}

/// Counts a request.
pub fn note_request(request: Request) {
    let series = super::series();
    if let Some(counter) = series.and_then(|s| s.fuse.requests.get(request as usize)) {
        counter.inc();
    }
}

/// Counts a request that is answered with an error.
pub fn note_error(request: Request) {
    let series = super::series();
    if let Some(counter) = series.and_then(|s| s.fuse.errors.get(request as usize)) {
        counter.inc();
    }
}

/// Measures a read that began at `began` and has its bytes now.
pub fn note_read(began: Instant) {
    if let Some(series) = super::series() {
        series
            .fuse
            .read_seconds
            .observe(began.elapsed().as_secs_f64());
    }
}
