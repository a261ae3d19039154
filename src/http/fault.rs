//! Failures as answers: problem+json (RFC 9457).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind, Problem};

/// A failure of a request.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    kind: String,
    detail: String,
    problem: Option<Box<Problem>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What failed, for a page: an extension of the answer.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) detail: String,
    pub(super) advice: Option<String>,
}

/// The body of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// `urn:restorefs:error:<kind>`.
    #[serde(rename = "type")]
    type_: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What failed.
    detail: String,
    /// What the caller can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// File, export or object.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Byte offset within `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// The status of an error's kind.
pub(super) const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists
        | ErrorKind::Busy
        | ErrorKind::Locked
        | ErrorKind::NotEmpty
        | ErrorKind::Cancelled => StatusCode::CONFLICT,
        ErrorKind::InvalidInput | ErrorKind::NameTooLong => StatusCode::BAD_REQUEST,
        ErrorKind::PermissionDenied | ErrorKind::NotPermitted => StatusCode::FORBIDDEN,
        ErrorKind::Stale => StatusCode::GONE,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::PolicyNotMet => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Disconnected => StatusCode::BAD_GATEWAY,
        ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::Corrupt
        | ErrorKind::Io
        | ErrorKind::NoRepository
        | ErrorKind::ReadOnly
        | ErrorKind::NoData => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Fault {
    /// A failure of HTTP itself, named by its status.
    pub(super) fn of_status(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("error");
        Self {
            status,
            kind: title.to_ascii_lowercase().replace(' ', "-"),
            detail: detail.into(),
            problem: None,
            headers: Vec::new(),
        }
    }

    /// The same with a header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Nobody is logged in.
    pub(super) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::of_status(StatusCode::UNAUTHORIZED, detail).with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"restorefs\""),
        )
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let problem = Problem::from(&error);
        let detail = match &problem.cause {
            Some(cause) => format!("{}: {cause}", problem.what),
            None => problem.what.clone(),
        };
        Self {
            status: status_of(error.kind()),
            kind: problem.kind.clone(),
            detail,
            problem: Some(Box::new(problem)),
            headers: Vec::new(),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let problem = self.problem.as_ref();
        let told = Told {
            detail: self.detail.clone(),
            advice: problem.and_then(|problem| problem.advice.clone()),
        };
        let body = ProblemBody {
            type_: format!("urn:restorefs:error:{}", self.kind),
            title: title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            advice: problem.and_then(|problem| problem.advice.clone()),
            path: problem.and_then(|problem| problem.path.clone()),
            offset: problem.and_then(|problem| problem.offset),
        };
        // Encoding text and numbers never fails.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, bytes).into_response();
        response.extensions_mut().insert(told);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::status_of;
    use crate::error::ErrorKind;

    /// DESIGN.md, 9, in its words.
    #[test]
    fn each_kind_has_the_status_of_the_contract() {
        for kind in ErrorKind::ALL {
            let expected = match kind {
                ErrorKind::NotFound => 404,
                ErrorKind::AlreadyExists
                | ErrorKind::Busy
                | ErrorKind::Locked
                | ErrorKind::NotEmpty
                | ErrorKind::Cancelled => 409,
                ErrorKind::InvalidInput | ErrorKind::NameTooLong => 400,
                ErrorKind::PermissionDenied | ErrorKind::NotPermitted => 403,
                ErrorKind::Stale => 410,
                ErrorKind::TooLarge => 413,
                ErrorKind::PolicyNotMet => 422,
                ErrorKind::LimitExceeded => 429,
                ErrorKind::Unsupported => 501,
                ErrorKind::Disconnected => 502,
                ErrorKind::TimedOut => 504,
                ErrorKind::NoSpace => 507,
                _ => 500,
            };
            assert_eq!(status_of(kind).as_u16(), expected, "{}", kind.name());
        }
    }
}
