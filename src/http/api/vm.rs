//! VMs.

use axum::body::Body;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::body;
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::service::view::{Page, VmAnswer};
use crate::types::VmName;

/// The VMs of a repository, by name.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms", tag = "vms", operation_id = "listVms",
    params(("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of VMs", body = Page<VmAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    let slice = call.query(&["after", "limit"])?.slice()?;
    let page = call.work(move |call| call.view()?.vms(&slice)).await?;
    reply::fresh(&call.headers, &page)
}

/// One VM.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}", tag = "vms", operation_id = "showVm",
    responses((status = 200, description = "The VM", body = VmAnswer)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| call.view()?.vm(&call.vm()?)).await?;
    reply::fresh(&call.headers, &answer)
}

/// Removes a VM without restore points.
#[utoipa::path(delete, path = "/api/v1/repositories/{repository}/vms/{vm}", tag = "vms", operation_id = "removeVm",
    responses((status = 204, description = "It is removed")))]
pub(in crate::http) async fn remove(call: Call) -> Answer {
    call.query(&[])?;
    call.work(|call| call.view()?.service().remove_vm(&call.vm()?))
        .await?;
    reply::nothing()
}

/// A new name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RenameBody {
    /// The new name.
    to: VmName,
}

/// The names of a VM that was renamed.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RenameAnswer {
    /// The former name.
    former: VmName,
    /// The name now.
    name: VmName,
}

/// Gives a VM another name.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/rename", tag = "vms", operation_id = "renameVm",
    request_body = RenameBody,
    responses((status = 200, description = "Its names", body = RenameAnswer)))]
pub(in crate::http) async fn rename(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: RenameBody = body::json(&call.headers, body).await?;
    let answer = call
        .work(move |call| {
            let former = call.view()?.service().rename_vm(&call.vm()?, &request.to)?;
            Ok(RenameAnswer {
                former,
                name: request.to,
            })
        })
        .await?;
    reply::json(StatusCode::OK, &answer)
}
