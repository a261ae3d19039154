//! Web pages for people, rendered here: they can be read and used without a script.
//!
//! # Invariants
//! - A page shows what the API answers, for the same caller: it calls the same operations.
//! - Text of guests is escaped, and what cannot be seen in it is spelled (`spelling`). Names of guests are bytes, in addresses
//!   percent-encoded; in fields of forms, which are text, encoded once more (`at`).
//! - The only script and the only stylesheet are files of ours: the content security policy allows nothing else.
//! - A failure is a page when a browser asks (`failure`).

mod address;
mod asset;
mod calendar;
mod chain;
mod command;
mod directory;
pub(super) mod failure;
mod frame;
mod gauge;
mod job;
mod listing;
mod login;
mod overview;
mod point;
mod preview;
mod quantity;
mod selection;
mod spelling;
mod switcher;
mod vm;
mod volume;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::api;
use super::site::Site;

/// Path of a restore point's pages.
macro_rules! point {
    ($rest:literal) => {
        concat!("/r/{repository}/vms/{vm}/points/{point}", $rest)
    };
}

/// The routes of the pages.
pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/", get(overview::show))
        .route("/login", get(login::show).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/static/{name}", get(asset::serve))
        .route("/r/{repository}/vms/{vm}", get(vm::show))
        .route("/r/{repository}/vms/{vm}/switch", get(switcher::switch))
        .route(point!(""), get(point::show))
        .route(point!("/files"), get(directory::show))
        .route(point!("/preview"), get(preview::serve))
        .route(point!("/archive"), get(selection::archive))
        // The same as in the API; a failure is a page here.
        .route(point!("/download"), get(api::file::read))
        .route(point!("/disks/{disk}"), get(api::disk::read))
        .route(point!("/attached/{name}"), get(api::point::attached))
        .route("/jobs", get(job::list))
        .route("/jobs/{job}", get(job::show))
        .route("/jobs/{job}/cancel", post(job::cancel))
}
