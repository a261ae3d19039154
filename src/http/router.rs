//! The routes.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

use super::fault::Fault;
use super::guard::guard;
use super::site::Site;
use super::{api, metric, openapi, page};

/// All that is answered.
pub(super) fn router(site: &Arc<Site>) -> Router {
    Router::new()
        .merge(api::routes())
        .merge(page::routes())
        .route("/metrics", get(metric::metrics))
        .route("/api/v1/openapi.json", get(openapi::serve))
        .fallback(|| async {
            Fault::of_status(StatusCode::NOT_FOUND, "there is nothing at this address")
        })
        .method_not_allowed_fallback(|| async {
            Fault::of_status(
                StatusCode::METHOD_NOT_ALLOWED,
                "what is at this address does not take this method",
            )
        })
        .layer(from_fn_with_state(Arc::clone(site), guard))
        .with_state(Arc::clone(site))
}
