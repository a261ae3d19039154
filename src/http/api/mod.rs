//! The routes of the API: each reads its request, calls one operation, and writes the answer.

pub(super) mod archive;
mod copy;
pub(super) mod disk;
mod event;
pub(super) mod file;
mod forget;
pub(super) mod job;
pub(super) mod point;
mod policy;
mod repository;
pub(super) mod session;
mod verify;
mod vm;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};

use super::site::Site;

/// Path of a VM.
macro_rules! vm {
    ($rest:literal) => {
        concat!("/api/v1/repositories/{repository}/vms/{vm}", $rest)
    };
}
/// Path of a restore point.
macro_rules! point {
    ($rest:literal) => {
        concat!(
            "/api/v1/repositories/{repository}/vms/{vm}/points/{point}",
            $rest
        )
    };
}
/// Path of a session.
macro_rules! session {
    ($rest:literal) => {
        concat!(
            "/api/v1/repositories/{repository}/vms/{vm}/sessions/{session}",
            $rest
        )
    };
}

/// The routes of the API.
pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/api/v1/status", get(repository::status))
        .route("/api/v1/repositories", get(repository::list))
        .route("/api/v1/repositories/{repository}", get(repository::show))
        .route(
            "/api/v1/repositories/{repository}/status",
            get(repository::status_of),
        )
        .route(
            "/api/v1/repositories/{repository}/capacity",
            get(repository::capacity),
        )
        .route(
            "/api/v1/repositories/{repository}/trash",
            get(repository::trash).delete(repository::empty_trash),
        )
        .route(
            "/api/v1/repositories/{repository}/rebuild-catalog",
            post(repository::rebuild_catalog),
        )
        .route(vm!("/policy"), put(policy::assign))
        .route("/api/v1/repositories/{repository}/vms", get(vm::list))
        .route(vm!(""), get(vm::show).delete(vm::remove))
        .route(vm!("/rename"), post(vm::rename))
        .route(vm!("/adopt"), post(copy::adopt))
        .route(vm!("/undelete"), post(forget::undelete))
        .route(vm!("/forget"), post(forget::forget))
        .route(vm!("/verify"), post(verify::verify))
        .route(vm!("/copies"), get(copy::list).post(copy::copy))
        .route("/api/v1/repositories/{repository}/copies", get(copy::all))
        .route(vm!("/points"), get(point::list))
        .route(
            point!(""),
            get(point::show).patch(point::label).delete(forget::one),
        )
        .route(point!("/info"), get(point::info))
        .route(point!("/volumes"), get(point::volumes))
        .route(point!("/chain"), get(point::chain))
        .route(point!("/damage"), get(point::damage))
        .route(point!("/attached/{name}"), get(point::attached))
        .route(point!("/disks"), get(disk::list))
        .route(point!("/disks/{disk}"), get(disk::read))
        .route(point!("/files"), get(file::list))
        .route(point!("/content"), get(file::read))
        .route(point!("/archive"), get(archive::read))
        .route(vm!("/sessions"), get(session::list))
        .route(
            session!(""),
            get(session::show)
                .put(session::begin)
                .delete(session::abort),
        )
        .route(session!("/commit"), post(session::commit))
        .route(session!("/renew"), post(session::renew))
        .route(session!("/attached/{name}"), put(session::attach))
        .route(
            "/api/v1/repositories/{repository}/policies",
            get(policy::list),
        )
        .route(
            "/api/v1/repositories/{repository}/policies/{policy}",
            get(policy::show).put(policy::put).delete(policy::remove),
        )
        .route("/api/v1/jobs", get(job::list))
        .route("/api/v1/jobs/{job}", get(job::show))
        .route("/api/v1/jobs/{job}/cancel", post(job::cancel))
        .route("/api/v1/events", get(event::follow))
}

pub(super) use document::Document;

mod document;
