//! Bytes of guests as answers: whatever they are, a browser saves them and runs nothing of them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::call::Call;
use super::fault::Fault;
use super::name;
use super::range::{Wanted, wanted};
use super::reply::{self, Answer};

/// The policy for bytes of guests (DESIGN).
pub(super) const SANDBOX: &str = "sandbox; default-src 'none'";

/// Answers a GET of an object of this size, by what the client has and wants of it.
pub(super) fn ranged(
    call: &Call,
    size: u64,
    tag: &str,
    file: &[u8],
    body: impl FnOnce(u64, u64) -> Result<Body, Fault>,
) -> Answer {
    reply::check_match(&call.headers, tag)?;
    let unusable = |_| {
        Fault::of_status(
            StatusCode::INTERNAL_SERVER_ERROR,
            "an entity tag is no text",
        )
    };
    let etag = HeaderValue::from_str(tag).map_err(unusable)?;
    if reply::is_known(&call.headers, tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let (status, begin, end) = match wanted(&call.headers, size, tag) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part(begin, end) => (StatusCode::PARTIAL_CONTENT, begin, end),
        Wanted::Nothing => {
            let size = HeaderValue::from_str(&format!("bytes */{size}")).map_err(unusable)?;
            return Err(Fault::of_status(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "the object has no such bytes",
            )
            .with(header::CONTENT_RANGE, size));
        }
    };
    let mut response = Response::new(body(begin, end)?);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let number = |text: String| HeaderValue::from_str(&text).map_err(unusable);
    headers.insert(header::CONTENT_LENGTH, number((end - begin).to_string())?);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {begin}-{}/{size}", end - 1);
        headers.insert(header::CONTENT_RANGE, number(range)?);
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::CONTENT_SECURITY_POLICY, SANDBOX),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, etag);
    headers.insert(header::CONTENT_DISPOSITION, name::attachment(file));
    Ok(response)
}
