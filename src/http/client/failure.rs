//! What went wrong with a request: no answer, an answer of something else, or a refusal.

use serde::Deserialize;
use ureq::http::StatusCode;

use crate::error::{Error, ErrorKind};

/// Beginning of the types of our errors.
const TYPE: &str = "urn:restorefs:error:";

/// LIMIT: characters of a server's text that are shown.
const TEXT_MAX: usize = 2_000;

/// The body of a refusal.
#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(rename = "type")]
    type_: String,
    detail: String,
    advice: Option<String>,
    path: Option<String>,
    offset: Option<u64>,
}

/// A server's text as a terminal may show it.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(TEXT_MAX).map(plain).collect()
}

/// An answer that no restorefs gives.
pub(super) fn stranger(what: impl std::fmt::Display) -> Error {
    Error::unsupported(format!(
        "what answers there is no restorefs, or another release of it: {what}"
    ))
    .advise("name the address at which its daemon serves HTTP (restorefs status, there)")
}

/// A redirect.
pub(super) fn redirect(status: StatusCode, place: Option<&str>) -> Error {
    let place = place.map_or_else(String::new, |place| format!(" to {}", shown(place)));
    Error::unsupported(format!(
        "the server redirects{place} ({}), which is not followed",
        status.as_u16()
    ))
    .advise("name the address at which the daemon itself serves HTTP")
}

/// The error of an answer that is no success. `is_named` is whether the request had a token.
pub(super) fn refused(status: StatusCode, body: &[u8], is_named: bool) -> Error {
    let refusal = serde_json::from_slice::<Refusal>(body).ok();
    let kind = refusal
        .as_ref()
        .and_then(|refusal| refusal.type_.strip_prefix(TYPE))
        .map(ErrorKind::of_name);
    match (status, refusal, kind) {
        (StatusCode::UNAUTHORIZED, Some(_), Some(None)) if is_named => Error::new(
            ErrorKind::PermissionDenied,
            "the server does not know the token: it has another one, or the token has expired or was revoked",
        )
        .advise("make one on the server: restorefs token add NAME --rights read,ingest --vms PATTERN"),
        (StatusCode::UNAUTHORIZED, Some(_), Some(None)) => Error::new(
            ErrorKind::PermissionDenied,
            "the server does not know who asks",
        )
        .advise("name a token (--token-file FILE), or a directory with a client's certificate (--tls-dir DIR)"),
        (status, Some(refusal), Some(kind)) => {
            let kind = kind.unwrap_or_else(|| of_status(status));
            let mut error = Error::new(kind, shown(&refusal.detail));
            if let Some(path) = &refusal.path {
                error = error.at_path(shown(path));
            }
            if let Some(offset) = refusal.offset {
                error = error.at_offset(offset);
            }
            if let Some(advice) = &refusal.advice {
                error = error.advise(shown(advice));
            }
            error
        }
        // A proxy before a daemon that is being restarted.
        (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT, ..) => Error::new(
            ErrorKind::Disconnected,
            format!("a proxy before the server answers {status}"),
        ),
        _ => stranger(format_args!("it answers {status}")),
    }
}

/// The kind of HTTP's own failures.
fn of_status(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => ErrorKind::LimitExceeded,
        StatusCode::REQUEST_TIMEOUT => ErrorKind::Disconnected,
        status if status.is_client_error() => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    }
}

/// An error of TLS.
fn untrusted(error: &rustls::Error) -> Error {
    let (what, advice) = match error {
        rustls::Error::AlertReceived(_) => (
            "the server ends TLS, probably because it does not accept the client's certificate",
            "client-cert.pem and client-key.pem in --tls-dir must be of the authority in the server's ca-cert.pem",
        ),
        rustls::Error::InvalidCertificate(_) => (
            "the server's certificate is not accepted",
            "ca-cert.pem in --tls-dir must be the authority of the server's certificate, and the address a name in it",
        ),
        _ => (
            "TLS with the server failed",
            "is it the port of HTTP with TLS? (restorefs status, on the server)",
        ),
    };
    Error::new(ErrorKind::PermissionDenied, format!("{what}: {error}")).advise(advice)
}

/// The error of a request without a whole answer. `Disconnected` is what may be better with the next try.
pub(super) fn unanswered(error: ureq::Error) -> Error {
    let lost = |what: &'static str| Error::new(ErrorKind::Disconnected, what);
    match error {
        ureq::Error::Io(e) => {
            let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            match (inner, e.kind()) {
                (Some(inner), _) => untrusted(inner),
                (None, std::io::ErrorKind::InvalidData) => stranger(e),
                (None, _) => lost(
                    "the server cannot be reached, or closed the connection before it answered",
                )
                .caused_by(e),
            }
        }
        ureq::Error::Timeout(at) => Error::new(
            ErrorKind::Disconnected,
            format!("the server does not answer in time ({at})"),
        ),
        ureq::Error::HostNotFound => lost("no such host is known"),
        ureq::Error::ConnectionFailed => lost("the server cannot be reached"),
        ureq::Error::BodyExceedsLimit(most) => {
            stranger(format_args!("its answer has more than {most} bytes"))
        }
        ureq::Error::LargeResponseHeader(..) => stranger("the head of its answer does not end"),
        ureq::Error::Other(inner) => match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => lost("the request failed").caused_by(other),
        },
        other => stranger(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{TEXT_MAX, refused, unanswered};
    use crate::error::{Error, ErrorKind};
    use crate::http::fault::Fault;
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;
    use ureq::http::StatusCode;

    /// What the client makes of what the server answers.
    fn there_and_back(error: Error) -> Error {
        let response = Fault::from(error).into_response();
        let status = response.status();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap();
        refused(status, &body.to_bytes(), true)
    }

    #[test]
    fn an_error_of_the_service_comes_back_as_it_is() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "it failed")
                .at_path("/x")
                .at_offset(512)
                .advise("wait");
            let back = there_and_back(error);
            assert_eq!(back.kind(), kind);
            assert_eq!(back.report(), "it failed (/x, offset 512); wait");
        }
        let caused = Error::new(ErrorKind::Io, "it failed").caused_by("a fire");
        assert_eq!(there_and_back(caused).report(), "it failed: a fire");
    }

    #[test]
    fn answers_of_something_else_are_told_from_refusals() {
        let of = |status: u16, body: &str| {
            refused(StatusCode::from_u16(status).unwrap(), body.as_bytes(), true)
        };
        for (status, body, kind) in [
            (404, "<html>", ErrorKind::Unsupported),
            (401, "<html>", ErrorKind::Unsupported),
            (500, "", ErrorKind::Unsupported),
            (
                404,
                "{\"type\": \"about:blank\", \"detail\": \"x\"}",
                ErrorKind::Unsupported,
            ),
            (502, "<html>", ErrorKind::Disconnected),
            (503, "", ErrorKind::Disconnected),
            (
                401,
                "{\"type\": \"urn:restorefs:error:unauthorized\", \"detail\": \"x\"}",
                ErrorKind::PermissionDenied,
            ),
            (
                421,
                "{\"type\": \"urn:restorefs:error:misdirected-request\", \"detail\": \"x\"}",
                ErrorKind::InvalidInput,
            ),
            (
                500,
                "{\"type\": \"urn:restorefs:error:of-later\", \"detail\": \"x\"}",
                ErrorKind::Io,
            ),
        ] {
            assert_eq!(of(status, body).kind(), kind, "{status} {body}");
        }
        let long = format!(
            "{{\"type\": \"urn:restorefs:error:io\", \"detail\": \"\\u001b[2J{}\"}}",
            "x".repeat(TEXT_MAX * 2)
        );
        let text = of(500, &long).report();
        assert!(text.len() <= TEXT_MAX && !text.contains('\u{1b}'));
    }

    #[test]
    fn only_a_lost_connection_may_be_better_next_time() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let issuer = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let foreign = std::io::Error::new(std::io::ErrorKind::InvalidData, issuer);
        for (error, kind) in [
            (ureq::Error::Io(refused), ErrorKind::Disconnected),
            (ureq::Error::Io(cut), ErrorKind::Disconnected),
            (ureq::Error::Io(foreign), ErrorKind::PermissionDenied),
            (ureq::Error::BodyExceedsLimit(1), ErrorKind::Unsupported),
            (ureq::Error::TooManyRedirects, ErrorKind::Unsupported),
        ] {
            assert_eq!(unanswered(error).kind(), kind);
        }
    }
}
