//! `GET /metrics`: what a Prometheus server reads.

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;

use super::call::Call;
use super::reply::Answer;
use crate::access::Right;
use crate::error::{Error, ErrorKind};
use crate::metrics;
use crate::service::exposition::{Scraped, expose};

/// Metrics of the process and of the repositories; VMs are named for who has the right `metrics` on them.
pub(super) async fn metrics(call: Call) -> Answer {
    let text = call
        .work(|call| {
            let mut views = call.views();
            views.retain(|view| view.may_some(Right::Metrics));
            if views.is_empty() {
                return Err(Error::new(
                    ErrorKind::PermissionDenied,
                    "the right \"metrics\" is missing",
                ));
            }
            let scraped: Vec<Scraped<'_>> = views
                .iter()
                .map(|view| Scraped {
                    name: view.name(),
                    served: view.served(),
                })
                .collect();
            expose(&scraped, &|repository, vm| {
                let mut views = views.iter();
                let view = views.find(|view| view.name() == repository);
                view.is_some_and(|view| view.may(Right::Metrics, vm))
            })
        })
        .await?;
    let media = HeaderValue::from_static(metrics::CONTENT_TYPE);
    Ok(([(header::CONTENT_TYPE, media)], text).into_response())
}
