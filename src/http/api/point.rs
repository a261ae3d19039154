//! Restore points.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::http::{body, content, name};
use crate::repo::LabelChange;
use crate::service::view::{ChainLayer, Page, PointAnswer};

/// The restore points of a VM, the newest first.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points", tag = "points", operation_id = "listPoints",
    params(("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of restore points", body = Page<PointAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    let slice = call.query(&["after", "limit"])?.slice()?;
    let page = call
        .work(move |call| call.view()?.points(&call.vm()?, &slice))
        .await?;
    reply::fresh(&call.headers, &page)
}

/// One restore point, by its name or as `latest`, `latest~2`.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}", tag = "points", operation_id = "showPoint",
    responses((status = 200, description = "The restore point", body = PointAnswer)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call
        .work(|call| call.view()?.point(&call.vm()?, &call.which()?))
        .await?;
    reply::fresh(&call.headers, &answer)
}

/// `info.json` of a restore point, as the tree has it.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/info", tag = "points", operation_id = "showPointInfo",
    responses((status = 200, description = "The document", body = Object)))]
pub(in crate::http) async fn info(call: Call) -> Answer {
    document(call, "info.json").await
}

/// `volumes.json` of a restore point: what was found on its disks.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/volumes", tag = "points", operation_id = "listVolumes",
    responses((status = 200, description = "The document", body = Object)))]
pub(in crate::http) async fn volumes(call: Call) -> Answer {
    document(call, "volumes.json").await
}

async fn document(call: Call, file: &'static str) -> Answer {
    call.query(&[])?;
    let document: Value = call
        .work(move |call| call.view()?.document(&call.vm()?, &call.which()?, file))
        .await?;
    reply::fresh(&call.headers, &document)
}

/// The layers that a restore point needs: of each disk from its own layer down to the full one.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/chain", tag = "points", operation_id = "showChain",
    responses((status = 200, description = "The layers", body = Page<ChainLayer>)))]
pub(in crate::http) async fn chain(call: Call) -> Answer {
    call.query(&[])?;
    let items = call
        .work(|call| call.view()?.chain(&call.vm()?, &call.which()?))
        .await?;
    reply::fresh(&call.headers, &Page { items, next: None })
}

/// Damage of the files that a restore point needs.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DamageAnswer {
    /// One text each; none when all is there.
    damage: Vec<String>,
}

/// Whether the files that a restore point needs are there; their content is not read.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/damage", tag = "points", operation_id = "checkPoint",
    responses((status = 200, description = "What was found", body = DamageAnswer)))]
pub(in crate::http) async fn damage(call: Call) -> Answer {
    call.query(&[])?;
    let damage = call
        .work(|call| call.view()?.damage(&call.vm()?, &call.which()?))
        .await?;
    reply::fresh(&call.headers, &DamageAnswer { damage })
}

/// An attached file of a restore point.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}/attached/{name}", tag = "points", operation_id = "readAttached",
    responses((status = 200, description = "Its bytes", content_type = "application/octet-stream")))]
pub(in crate::http) async fn attached(call: Call) -> Answer {
    call.query(&[])?;
    let file = call.param("name").to_owned();
    let bytes = call
        .work(move |call| {
            let _place = call.site.downloads.enter(&call.caller.to_string())?;
            call.view()?.attached(&call.vm()?, &call.which()?, &file)
        })
        .await?;
    let attachment = name::attachment(call.param("name").as_bytes());
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, attachment),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(content::SANDBOX),
        ),
    ];
    Ok((headers, bytes).into_response())
}

/// A change of a point's labels.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct LabelBody {
    /// Tags to set: name and value.
    set: BTreeMap<String, String>,
    /// Tags to remove.
    remove: BTreeSet<String>,
    /// Whether the point is kept by hand; absent: as it was.
    keep: Option<bool>,
}

/// Changes the labels of a restore point.
#[utoipa::path(patch, path = "/api/v1/repositories/{repository}/vms/{vm}/points/{point}", tag = "points", operation_id = "labelPoint",
    request_body = LabelBody,
    responses((status = 200, description = "The point as it is now", body = PointAnswer)))]
pub(in crate::http) async fn label(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: LabelBody = body::json(&call.headers, body).await?;
    let answer = call
        .work(move |call| {
            let (view, vm) = (call.view()?, call.vm()?);
            let change = LabelChange {
                set: request.set,
                remove: request.remove,
                kept: request.keep,
            };
            let entry = view.service().label(&vm, &call.which()?, &change)?;
            view.answer(&entry, &vm)
        })
        .await?;
    reply::json(StatusCode::OK, &answer)
}
