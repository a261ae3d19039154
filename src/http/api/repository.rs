//! Repositories, how they stand, and their room.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::call::Call;
use crate::http::fault::Fault;
use crate::http::reply::{self, Answer};
use crate::repo::Trashed;
use crate::service::TrashAnswer;
use crate::service::view::{CapacityAnswer, Page, RepositoryAnswer, StatusAnswer, View};

type Reply = Result<Response, Fault>;

/// All repositories that exist for the caller.
#[utoipa::path(get, path = "/api/v1/repositories", tag = "repositories", operation_id = "listRepositories",
    responses((status = 200, description = "The repositories", body = Page<RepositoryAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Reply {
    call.query(&[])?;
    let items = call
        .work(|call| call.views().iter().map(View::describe).collect())
        .await?;
    let page: Page<RepositoryAnswer> = Page { items, next: None };
    reply::fresh(&call.headers, &page)
}

/// One repository.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}", tag = "repositories", operation_id = "showRepository",
    responses((status = 200, description = "The repository", body = RepositoryAnswer)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| call.view()?.describe()).await?;
    reply::fresh(&call.headers, &answer)
}

/// How all repositories stand.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", operation_id = "showStatus",
    responses((status = 200, description = "One verdict for each repository", body = Page<StatusAnswer>)))]
pub(in crate::http) async fn status(call: Call) -> Answer {
    call.query(&[])?;
    let items = call
        .work(|call| call.views().iter().map(View::status).collect())
        .await?;
    let page: Page<StatusAnswer> = Page { items, next: None };
    reply::fresh(&call.headers, &page)
}

/// How one repository stands.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/status", tag = "status", operation_id = "showRepositoryStatus",
    responses((status = 200, description = "The verdict", body = StatusAnswer)))]
pub(in crate::http) async fn status_of(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| call.view()?.status()).await?;
    reply::fresh(&call.headers, &answer)
}

/// Room in a repository.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/capacity", tag = "status", operation_id = "showCapacity",
    responses((status = 200, description = "Room, and how soon it is used up", body = CapacityAnswer)))]
pub(in crate::http) async fn capacity(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| call.view()?.capacity()).await?;
    reply::fresh(&call.headers, &answer)
}

/// What was removed and is not deleted yet.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/trash", tag = "repositories", operation_id = "listTrash",
    responses((status = 200, description = "The entries", body = Page<Trashed>)))]
pub(in crate::http) async fn trash(call: Call) -> Answer {
    call.query(&[])?;
    let items = call.work(|call| call.view()?.trash()).await?;
    reply::fresh(&call.headers, &Page { items, next: None })
}

/// How many VMs a catalog has.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CatalogAnswer {
    /// VMs.
    vms: usize,
}

/// Rebuilds the catalog from the sidecars. Commits wait meanwhile.
#[utoipa::path(post, path = "/api/v1/repositories/{repository}/rebuild-catalog", tag = "repositories", operation_id = "rebuildCatalog",
    responses((status = 200, description = "It is rebuilt", body = CatalogAnswer)))]
pub(in crate::http) async fn rebuild_catalog(call: Call) -> Answer {
    call.query(&[])?;
    let vms = call
        .work(|call| call.view()?.service().rebuild_catalog())
        .await?;
    reply::json(StatusCode::OK, &CatalogAnswer { vms })
}

/// Deletes all that is in the trash.
#[utoipa::path(delete, path = "/api/v1/repositories/{repository}/trash", tag = "repositories", operation_id = "emptyTrash",
    responses((status = 200, description = "What was deleted", body = TrashAnswer)))]
pub(in crate::http) async fn empty_trash(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call
        .work(|call| call.view()?.service().empty_trash())
        .await?;
    reply::json(StatusCode::OK, &answer)
}
