//! Policies.

use axum::body::Body;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::body;
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::repo::policy::PolicyChange;
use crate::service::view::{Page, PolicyAnswer, PolicyTerms};
use crate::types::PolicyName;

/// The policies of a repository.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/policies", tag = "policies", operation_id = "listPolicies",
    responses((status = 200, description = "The policies", body = Page<PolicyAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    call.query(&[])?;
    let items = call.work(|call| call.view()?.policies()).await?;
    reply::fresh(&call.headers, &Page { items, next: None })
}

fn name(call: &Call) -> crate::error::Result<PolicyName> {
    PolicyName::new(call.param("policy"))
}

/// One policy.
#[utoipa::path(get, path = "/api/v1/repositories/{repository}/policies/{policy}", tag = "policies", operation_id = "showPolicy",
    responses((status = 200, description = "The policy", body = PolicyAnswer)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| call.view()?.policy(&name(call)?)).await?;
    reply::fresh(&call.headers, &answer)
}

/// Writes a policy. What it says of backups is when they are due: the command that makes them is set on the daemon's machine alone.
#[utoipa::path(put, path = "/api/v1/repositories/{repository}/policies/{policy}", tag = "policies", operation_id = "putPolicy",
    request_body = PolicyTerms,
    responses(
        (status = 200, description = "The policy was replaced", body = PolicyAnswer),
        (status = 201, description = "The policy is new", body = PolicyAnswer)))]
pub(in crate::http) async fn put(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let terms: PolicyTerms = body::json(&call.headers, body).await?;
    let (is_new, answer) = call
        .work(move |call| call.view()?.put_policy(&name(call)?, terms))
        .await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    reply::json(status, &answer)
}

/// The policy of one VM.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AssignBody {
    /// Its name; `null` leaves the VM to the policies whose patterns fit it.
    #[schema(required)]
    policy: Option<PolicyName>,
}

/// Gives a VM a policy of its own, or takes it away.
#[utoipa::path(put, path = "/api/v1/repositories/{repository}/vms/{vm}/policy", tag = "policies", operation_id = "assignPolicy",
    request_body = AssignBody,
    responses((status = 204, description = "It is assigned")))]
pub(in crate::http) async fn assign(call: Call, body: Body) -> Answer {
    call.query(&[])?;
    let request: AssignBody = body::json(&call.headers, body).await?;
    call.work(move |call| {
        let (vm, policy) = (call.vm()?, request.policy);
        call.view()?
            .service()
            .change_policy(&PolicyChange::Assign { vm, policy })
    })
    .await?;
    reply::nothing()
}

/// Removes a policy. What it has done stays.
#[utoipa::path(delete, path = "/api/v1/repositories/{repository}/policies/{policy}", tag = "policies", operation_id = "removePolicy",
    responses((status = 204, description = "It is removed")))]
pub(in crate::http) async fn remove(call: Call) -> Answer {
    call.query(&[])?;
    call.work(|call| {
        let name = name(call)?;
        call.view()?
            .service()
            .change_policy(&PolicyChange::Remove { name })
    })
    .await?;
    reply::nothing()
}
