//! Verifying: every layer that a VM needs is read and compared with its sums.

use axum::body::Body;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::body;
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::service::view::JobAnswer;
use crate::service::work::VerifyRequest;

/// What is verified of a VM.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct VerifyBody {
    /// A share of it: `10%`, or `1/7` for a seventh.
    subset: Option<String>,
    /// Only what was not verified for so many seconds.
    outdated_after_seconds: Option<u64>,
    /// Bytes that are read in a second at most.
    limit_bytes: Option<u64>,
}

/// Begins to verify a VM. The results are kept; damage ends the job as failed.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/verify", tag = "jobs", operation_id = "verifyVm",
    request_body = VerifyBody,
    responses((status = 202, description = "The job", body = JobAnswer)))]
pub(in crate::http) async fn verify(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: VerifyBody = body::json(&call.headers, body).await?;
    let job = call
        .work(move |call| {
            let view = call.view()?;
            let task = view.local().start_verify(&VerifyRequest {
                vm: call.vm()?,
                subset: request.subset,
                outdated_after_seconds: request.outdated_after_seconds,
                limit_bytes: request.limit_bytes,
                data: true,
            })?;
            Ok(view.of_task(&task))
        })
        .await?;
    reply::json(StatusCode::ACCEPTED, &job)
}
