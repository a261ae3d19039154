//! Forgetting restore points, and bringing them back.

use axum::body::Body;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind};
use crate::http::body;
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::service::view::PointAnswer;
use crate::service::work::{ForgetPlan, ForgetRequest};
use crate::types::PointName;

/// Forgets restore points of a VM: those that are named, those that no rule keeps, or all. With `dry_run` nothing is changed, and the
/// answer is the plan. Layers are not merged: `restorefs forget --compact`, or a policy, merges them.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/forget", tag = "points", operation_id = "forgetPoints",
    request_body = ForgetRequest,
    responses((status = 200, description = "What stays and why, and what was forgotten", body = ForgetPlan)))]
pub(in crate::http) async fn forget(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: ForgetRequest = body::json(&call.headers, body).await?;
    let plan = call
        .work(move |call| call.view()?.local().forget_by(&call.vm()?, &request))
        .await?;
    reply::json(StatusCode::OK, &plan)
}

/// Forgets one restore point. Its data stays in the trash for an hour.
#[utoipa::path(delete, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}", tag = "points", operation_id = "forgetPoint",
    responses((status = 204, description = "It is forgotten")))]
pub(in crate::http) async fn one(call: Call) -> Answer {
    call.query(&[])?;
    call.work(|call| {
        let (view, vm) = (call.view()?, call.vm()?);
        let point = view.point(&vm, &call.which()?)?.name;
        let answer = view
            .service()
            .forget(&vm, std::slice::from_ref(&point), false)?;
        match answer.kept.into_iter().next() {
            Some(kept) => Err(Error::from(kept.problem)),
            None if answer.forgotten.is_empty() => Err(Error::new(
                ErrorKind::Io,
                "the restore point was not forgotten",
            )),
            None => Ok(()),
        }
    })
    .await?;
    reply::nothing()
}

/// A point in the trash.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UndeleteBody {
    /// Its name.
    point: PointName,
}

/// Brings a forgotten restore point back from the trash.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/undelete", tag = "points", operation_id = "undeletePoint",
    request_body = UndeleteBody,
    responses((status = 200, description = "The point", body = PointAnswer)))]
pub(in crate::http) async fn undelete(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: UndeleteBody = body::json(&call.headers, body).await?;
    let point = call
        .work(move |call| {
            let (view, vm) = (call.view()?, call.vm()?);
            let entry = view.service().undelete(&vm, &request.point)?;
            view.answer(&entry, &vm)
        })
        .await?;
    reply::json(StatusCode::OK, &point)
}
