//! Copies at other repositories.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind};
use crate::http::body;
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::service::view::{CopyAnswer, JobAnswer, Page, Slice, View};
use crate::service::work::{CopyAnswer as CopyBegun, CopyRequest};
use crate::types::{PointName, RepositoryName, VmName};

/// A restore point with its copies.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CopiedAnswer {
    /// The VM.
    vm: VmName,
    /// The point.
    point: PointName,
    /// Its copies.
    copies: Vec<CopyAnswer>,
}

fn of_vm(view: &View, vm: &VmName, slice: &Slice) -> crate::error::Result<Page<CopiedAnswer>> {
    let page = view.points(vm, slice)?;
    let items = page.items.into_iter().map(|point| CopiedAnswer {
        vm: vm.clone(),
        point: point.name,
        copies: point.copies,
    });
    Ok(Page {
        items: items.collect(),
        next: page.next,
    })
}

/// The copies of a VM's restore points, the newest point first.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/vms/{vm}/copies", tag = "copies", operation_id = "listVmCopies",
    params(("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of points with their copies", body = Page<CopiedAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    let slice = call.query(&["after", "limit"])?.slice()?;
    let page = call
        .work(move |call| of_vm(&call.view()?, &call.vm()?, &slice))
        .await?;
    reply::fresh(&call.headers, &page)
}

/// The copies of the newest restore point of each VM, by VM.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/copies", tag = "copies", operation_id = "listCopies",
    params(("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of points with their copies", body = Page<CopiedAnswer>)))]
pub(in crate::http) async fn all(call: Call) -> Answer {
    let slice = call.query(&["after", "limit"])?.slice()?;
    let page = call
        .work(move |call| {
            let view = call.view()?;
            let vms = view.vms(&slice)?;
            let newest = Slice {
                after: None,
                limit: 1,
            };
            let mut items = Vec::new();
            for vm in &vms.items {
                items.extend(of_vm(&view, &vm.name, &newest)?.items);
            }
            Ok(Page {
                items,
                next: vms.next,
            })
        })
        .await?;
    reply::fresh(&call.headers, &page)
}

/// A copy to begin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CopyBody {
    /// The repository that receives, by its name.
    to: RepositoryName,
    /// Its restore points; all of them where none is named.
    #[serde(default)]
    points: Vec<PointName>,
    /// The name of the VM there.
    #[serde(default)]
    as_name: Option<VmName>,
    /// Whether points that the other repository has forgotten are sent again.
    #[serde(default)]
    again: bool,
    /// Bytes that are sent in a second at most.
    #[serde(default)]
    limit_bytes: Option<u64>,
    /// Whether it is only told what would be sent.
    #[serde(default)]
    dry_run: bool,
}

/// Begins to copy a VM to another repository. With `dry_run` nothing is sent, and the answer is what would be.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/copies", tag = "copies", operation_id = "copyVm",
    request_body = CopyBody,
    responses(
        (status = 200, description = "What would be sent", body = Object),
        (status = 202, description = "The job", body = JobAnswer)))]
pub(in crate::http) async fn copy(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: CopyBody = body::json(&call.headers, body).await?;
    call.work(move |call| {
        let view = call.view()?;
        let answer = view.local().copy(&CopyRequest {
            vm: call.vm()?,
            to: request.to,
            points: request.points,
            as_name: request.as_name,
            again: request.again,
            limit_bytes: request.limit_bytes,
            dry_run: request.dry_run,
        })?;
        let encode = |e: serde_json::Error| {
            Error::new(ErrorKind::Io, "the answer cannot be encoded").caused_by(e)
        };
        Ok(match answer {
            CopyBegun::Begun(task) => (
                StatusCode::ACCEPTED,
                serde_json::to_value(view.of_task(&task)).map_err(encode)?,
            ),
            CopyBegun::Trial(report) => (
                StatusCode::OK,
                serde_json::to_value(report).map_err(encode)?,
            ),
        })
    })
    .await
    .and_then(|(status, value): (StatusCode, Value)| reply::json(status, &value))
    .map(IntoResponse::into_response)
}

/// Whether a VM was a copy.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AdoptAnswer {
    /// Whether it was a copy: it takes backups now, and no more copies.
    was_copy: bool,
}

/// Makes a VM that is a copy one of this repository.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/vms/{vm}/adopt", tag = "copies", operation_id = "adoptVm",
    responses((status = 200, description = "It takes backups here", body = AdoptAnswer)))]
pub(in crate::http) async fn adopt(call: Call) -> Answer {
    call.query(&[])?;
    let was_copy = call
        .work(|call| call.view()?.service().adopt(&call.vm()?))
        .await?;
    reply::json(StatusCode::OK, &AdoptAnswer { was_copy })
}
