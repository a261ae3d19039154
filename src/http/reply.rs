//! Answers.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::fault::Fault;
use crate::error::{Error, ErrorKind};

/// Bytes of a body's hash that its entity tag has.
const TAG_BYTES: usize = 16;

/// A handler's result.
pub(super) type Answer = Result<Response, Fault>;

/// An answer of JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let bytes = encode(value)?;
    let media = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, media)], bytes).into_response())
}

/// An answer to a GET: with an entity tag, and without a body when the client has it already.
pub(super) fn fresh(headers: &HeaderMap, value: &impl Serialize) -> Answer {
    let bytes = encode(value)?;
    let hash = blake3::hash(&bytes);
    let hash = hash.to_hex();
    let tag = format!("\"{}\"", hash.get(..TAG_BYTES * 2).unwrap_or_default());
    let value = HeaderValue::from_str(&tag).map_err(unusable)?;
    if is_known(headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, value)]).into_response());
    }
    let media = HeaderValue::from_static("application/json");
    let cache = HeaderValue::from_static("private, no-cache");
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::ETAG, value),
        (header::CACHE_CONTROL, cache),
    ];
    Ok((headers, bytes).into_response())
}

/// An answer without a body.
pub(super) fn nothing() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether the client states that it has this version (`If-None-Match`).
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|one| one.trim().trim_start_matches("W/"));
    tags.any(|one| one == tag || one == "*")
}

/// Refuses a request for another version (`If-Match`).
///
/// # Errors
/// 412.
pub(super) fn check_match(headers: &HeaderMap, tag: &str) -> Result<(), Fault> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    let lines = headers.get_all(header::IF_MATCH).iter();
    let mut wanted = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim);
    match wanted.any(|one| one == tag || one == "*") {
        true => Ok(()),
        false => Err(Fault::of_status(
            StatusCode::PRECONDITION_FAILED,
            "this is another version than the one that If-Match names",
        )),
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(unusable)
}

fn unusable(cause: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::from(Error::new(ErrorKind::Io, "the answer cannot be encoded").caused_by(cause))
}
