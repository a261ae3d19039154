//! Bodies of requests.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::fault::Fault;
use crate::error::{Error, ErrorKind};
use crate::types::width::u64_from_usize;

/// LIMIT: bytes of a body of JSON.
pub(super) const JSON_BYTES_MAX: usize = 1 << 20;
/// LIMIT: bytes of a refused request's body that are taken.
const DISCARDED_BYTES_MAX: usize = 64 << 10;
/// LIMIT: how long they may take.
const DISCARD_PATIENCE: Duration = Duration::from_secs(2);
/// LIMIT: how long a body may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// 413 for a longer one, before it is read where the client states its length; 408 for one that does not come; 400.
pub(super) async fn read(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Fault> {
    let too_large = || {
        Fault::from(Error::new(
            ErrorKind::TooLarge,
            format!("the body has more than {most} bytes"),
        ))
    };
    let stated = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|length| length > u64_from_usize(most)) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, most).collect()).await;
    match collected {
        Err(_) => Err(Fault::of_status(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", PATIENCE.as_secs()),
        )),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(Fault::of_status(
            StatusCode::BAD_REQUEST,
            "the body broke off",
        )),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
    }
}

/// Takes the body of a request that is refused, where it is short and comes at once. A client over HTTP/2 whose stream is closed while it
/// still sends may report that instead of the answer.
pub(super) async fn discard(headers: &HeaderMap, body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let taken = Limited::new(body, DISCARDED_BYTES_MAX).collect();
    // Whatever comes of it, the request is refused.
    let _ = tokio::time::timeout(DISCARD_PATIENCE, taken).await;
}

/// Reads a body of JSON. An empty body is an empty object where `T` takes one.
///
/// # Errors
/// 415 for another media type; as [`read`]; 400 naming what is wrong and where.
pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Fault> {
    let bytes = read(headers, body, JSON_BYTES_MAX).await?;
    if bytes.is_empty() {
        return parse(b"{}");
    }
    // `curl -d` states a form, whatever it sends. The guard has refused what another site's page sent.
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|media| media.to_str().ok())
        .map(|media| {
            media
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        });
    match media.as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => parse(&bytes),
        Some(media) if media.ends_with("+json") => parse(&bytes),
        Some(_) => Err(Fault::of_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is JSON: Content-Type: application/json",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes)
        .map_err(|e| Fault::from(Error::invalid(format!("the body cannot be used: {e}"))))
}
