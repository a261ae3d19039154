//! The description of the API (OpenAPI 3.1), made of the types that the handlers use.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{OpenApi as _, PartialSchema, ToSchema};

use super::api::Document;
use super::fault::ProblemBody;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{DiskName, JobId, PointName, PolicyName, RepositoryName, VmName};

/// The schema of a path's parameter, with what it is.
fn of_path(name: &str) -> Option<(RefOr<Schema>, &'static str)> {
    Some(match name {
        "repository" => (
            RepositoryName::schema(),
            "The name by which the repository is served",
        ),
        "vm" => (VmName::schema(), "The VM"),
        "point" => (
            selector(),
            "The restore point: its name, `latest`, or `latest~2`",
        ),
        "disk" => (DiskName::schema(), "The disk"),
        "session" => (
            PointName::schema(),
            "The session: a name that the client chooses",
        ),
        "policy" => (PolicyName::schema(), "The policy"),
        "job" => (JobId::schema(), "The job"),
        "name" => (any_name(), "The name of the attached file"),
        _ => return None,
    })
}

/// A point's name, or its place from the newest one back.
fn selector() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(128))
        .pattern(Some(
            "^(latest~[0-9]{1,4}|[A-Za-z0-9][A-Za-z0-9_-]*([.][A-Za-z0-9_-]+)*)$",
        ))
        .into()
}

fn any_name() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(255))
        .into()
}

/// What a query's or header's parameter is.
const fn about(name: &str) -> &'static str {
    match name.as_bytes() {
        b"after" => "The `next` of the page before; absent for the first page",
        b"limit" => "Items of a page, from 1 to 1,000; by default 100",
        b"path" => {
            "A path below the restore point, as in the tree: `/files/etc`. It is bytes, percent-encoded; a plus is a plus"
        }
        b"format" => "`zip` (the default), `tar` or `tar.zst`",
        b"Range" => "One range of bytes: `bytes=0-1048575`",
        b"Last-Event-ID" => "The id of the last event that the client has",
        b"repository" => "Only of this repository",
        b"vm" => "Only of this VM",
        b"kind" => "Only of this kind",
        b"state" => "Only in this state",
        b"failure" => "Why the backup failed; at most 4 KiB",
        b"dry_run" => "Whether nothing is changed",
        _ => "",
    }
}

/// Failures that every operation can have, by status (DESIGN.md, 9).
const FAILURES: [(&str, &str); 19] = [
    ("400", "The request is wrong"),
    ("401", "Nobody is logged in"),
    ("403", "The caller may not do this, or nobody may"),
    ("404", "It does not exist, or not for this caller"),
    ("405", "The method is not one of this address"),
    ("408", "The body did not come in time"),
    ("409", "It is there already, or in use"),
    ("410", "It was replaced meanwhile"),
    ("412", "It is another version than the client expects"),
    ("413", "The body is too large"),
    ("415", "The body is no JSON"),
    ("416", "The object has no such bytes"),
    ("421", "The server has another name"),
    ("422", "A policy is not met"),
    ("429", "A limit is reached: try again later"),
    ("500", "It is damaged, or cannot be read"),
    ("501", "It uses what is not supported"),
    ("504", "It took too long"),
    ("507", "There is no room"),
];

fn complete(operation: &mut Operation, path: &str) {
    let mut parameters: Vec<Parameter> = Vec::new();
    for part in path.split('/') {
        let name = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        if let Some((name, (schema, what))) = name.and_then(|name| Some((name, of_path(name)?))) {
            parameters.push(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .description(Some(what))
                    .schema(Some(schema))
                    .build(),
            );
        }
    }
    for parameter in operation.parameters.take().unwrap_or_default() {
        let RefOr::T(mut parameter) = parameter else {
            continue;
        };
        if parameter.description.is_none() {
            parameter.description = Some(about(&parameter.name).to_owned());
        }
        if parameter.name == "limit" {
            let limit = ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::Integer))
                .minimum(Some(1))
                .maximum(Some(1_000));
            parameter.schema = Some(limit.into());
        }
        if parameter.name == "format" {
            let formats = ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::String))
                .enum_values(Some(["zip", "tar", "tar.zst"]));
            parameter.schema = Some(formats.into());
        }
        parameters.push(parameter);
    }
    let parameters: Vec<RefOr<Parameter>> = parameters.into_iter().map(RefOr::T).collect();
    operation.parameters = (!parameters.is_empty()).then_some(parameters);
    for (status, _) in FAILURES {
        let response = Ref::from_response_name(failure_name(status));
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert(RefOr::Ref(response));
    }
}

fn failure_name(status: &str) -> String {
    format!("Failure{status}")
}

/// The failure of a status.
fn failure(what: &str) -> utoipa::openapi::Response {
    let body = ContentBuilder::new()
        .schema(Some(RefOr::Ref(Ref::from_schema_name("Problem"))))
        .build();
    ResponseBuilder::new()
        .description(what)
        .content("application/problem+json", body)
        .build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

/// The description of the API.
fn document() -> OpenApi {
    let mut document = Document::openapi();
    document.info.version = "1".to_owned();
    for (path, item) in &mut document.paths.paths {
        operations(item).for_each(|operation| complete(operation, path));
    }
    let components = document.components.get_or_insert_with(Components::new);
    let mut more = vec![(ProblemBody::name().into_owned(), ProblemBody::schema())];
    ProblemBody::schemas(&mut more);
    components.schemas.extend(more);
    for (status, what) in FAILURES {
        components
            .responses
            .insert(failure_name(status), RefOr::T(failure(what)));
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token: restorefs token add"))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        "token",
        [],
    )]);
    document
}

/// The description as text: what is served, printed and committed.
///
/// # Errors
/// `Io` when it cannot be encoded, which a test excludes.
pub fn text() -> Result<String> {
    let text = serde_json::to_string_pretty(&document())
        .map_err(|e| Error::new(ErrorKind::Io, "the description cannot be encoded").caused_by(e))?;
    Ok(text + "\n")
}

/// The same text, committed for those who write clients without a daemon at hand; a test compares the two.
const COMMITTED: &str = include_str!("openapi.json");

/// `GET /api/v1/openapi.json`.
pub(super) async fn serve() -> Response {
    let media = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, media)], COMMITTED).into_response()
}

#[cfg(test)]
mod tests {
    use super::COMMITTED;

    #[test]
    fn the_committed_description_is_that_of_the_code() {
        let text = super::text().unwrap();
        assert!(
            text == COMMITTED,
            "src/http/openapi.json has drifted: restorefs openapi > src/http/openapi.json"
        );
    }

    #[test]
    fn every_parameter_of_a_path_and_of_a_query_is_explained() {
        let document = super::document();
        for (path, item) in &document.paths.paths {
            let operations = [&item.get, &item.put, &item.post, &item.delete, &item.patch];
            for operation in operations.into_iter().flatten() {
                let parameters = operation.parameters.iter().flatten();
                let mut named = Vec::new();
                for parameter in parameters {
                    let utoipa::openapi::RefOr::T(parameter) = parameter else {
                        panic!("{path}: a parameter by reference");
                    };
                    let about = parameter.description.as_deref().unwrap_or_default();
                    assert!(!about.is_empty(), "{path}: {}", parameter.name);
                    named.push(parameter.name.clone());
                }
                for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                    let name = part.trim_end_matches('}');
                    assert!(named.iter().any(|one| one == name), "{path}: {name}");
                }
                assert!(
                    operation.summary.is_some() || operation.description.is_some(),
                    "{path}"
                );
            }
        }
    }
}
