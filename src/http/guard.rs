//! What every request passes before it is executed.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::body;
use super::credential::{self, Identity, Proof};
use super::fault::{Fault, Told};
use super::host::Hosts;
use super::origin;
use super::page::failure;
use super::peer::{Peer, Way};
use super::site::Site;

/// Content security policy of everything that is ours (DESIGN).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What may be asked for without a caller: the login, what its page needs, and the description of the API, which is no secret.
fn is_public(path: &str) -> bool {
    path == "/login" || path.starts_with("/static/") || path == "/api/v1/openapi.json"
}

/// Lets a request in, or refuses it.
pub(super) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let is_page = !is_api(parts.uri.path());
    let wants_page = is_page && failure::wants_page(&parts.headers);
    let mut who = None;
    let (parts, admitted) = match admitted(site, parts).await {
        Ok(asked) => asked,
        Err(fault) => return fault.into_response(),
    };
    let mut response = match admitted {
        Ok(()) => {
            let identity = parts.extensions.get::<Identity>();
            who = identity.map(|identity| identity.caller.to_string());
            next.run(Request::from_parts(parts, body)).await
        }
        Err(fault) => {
            body::discard(&parts.headers, body).await;
            match is_page && fault.status() == StatusCode::UNAUTHORIZED {
                true => login_page(&parts),
                false => fault.into_response(),
            }
        }
    };
    if wants_page && let Some(told) = response.extensions_mut().remove::<Told>() {
        response = failure::page(&response, &told, who);
    }
    let headers = response.headers_mut();
    let policy = HeaderValue::from_static(POLICY);
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(policy);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn is_api(path: &str) -> bool {
    path.starts_with("/api/") || path == "/metrics"
}

/// Sends a browser to the login; a page that was asked for comes after it.
fn login_page(request: &Parts) -> Response {
    if request.method != Method::GET {
        return Fault::unauthenticated("log in first").into_response();
    }
    let wanted = request
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let next = percent_encoding::utf8_percent_encode(wanted, percent_encoding::NON_ALPHANUMERIC);
    let to = match wanted {
        "/" => "/login".to_owned(),
        _ => format!("/login?next={next}"),
    };
    match HeaderValue::from_str(&to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => Fault::unauthenticated("log in first").into_response(),
    }
}

/// Whether a request is let in. That is found out on a thread for it: a table that has changed is read, and a server may be asked for the
/// names of its users; a refusal is written to the audit log.
///
/// # Errors
/// 500 for a failure inside this server.
async fn admitted(site: Arc<Site>, mut parts: Parts) -> Result<(Parts, Result<(), Fault>), Fault> {
    let asked = tokio::task::spawn_blocking(move || {
        let admitted = admit(&site, &mut parts);
        (parts, admitted)
    });
    asked.await.map_err(|e| {
        tracing::error!(error = %e, "a request failed before it was let in");
        Fault::of_status(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request failed inside the daemon",
        )
    })
}

fn admit(site: &Site, request: &mut Parts) -> Result<(), Fault> {
    let missing = || {
        Fault::of_status(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the connection has no peer",
        )
    };
    let peer = request
        .extensions
        .get::<Peer>()
        .cloned()
        .ok_or_else(missing)?;
    let host = host_of(request);
    if peer.way != Way::Unix {
        let hosts = request.extensions.get::<Arc<Hosts>>().cloned();
        let is_ours = hosts
            .zip(host.as_deref())
            .is_some_and(|(hosts, host)| hosts.has(host));
        if !is_ours {
            return Err(Fault::of_status(
                StatusCode::MISDIRECTED_REQUEST,
                "this server has another name; names of its own are set by http.hosts or --http-host",
            ));
        }
    }
    let identity = credential::identify(site, &peer, &request.headers)?;
    if identity.is_none() && !is_public(request.uri.path()) {
        return Err(Fault::unauthenticated(
            "this needs a token: Authorization: Bearer TOKEN (restorefs token add)",
        ));
    }
    let is_safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    // A browser sends neither a token nor a socket's peer by itself.
    let is_proved = identity
        .as_ref()
        .is_some_and(|identity| matches!(identity.proof, Proof::Token | Proof::Socket));
    if !is_safe && !is_proved {
        let scheme = if peer.way == Way::Tls {
            "https"
        } else {
            "http"
        };
        let host = host.as_deref().unwrap_or_default();
        if !origin::is_same(&request.headers, scheme, host) {
            return Err(Fault::of_status(
                StatusCode::FORBIDDEN,
                "a request that changes something comes from a page of this server, or brings a token",
            ));
        }
    }
    if let Some(identity) = identity {
        request.extensions.insert::<Identity>(identity);
    }
    Ok(())
}

/// The name by which the request calls this server.
fn host_of(request: &Parts) -> Option<String> {
    // HTTP/2 has it in the request's target.
    let authority = request.uri.authority().map(|host| host.as_str().to_owned());
    let mut lines = request.headers.get_all(header::HOST).iter();
    let line = lines.next().and_then(|host| host.to_str().ok());
    match (authority, line, lines.next()) {
        (_, _, Some(_)) => None,
        (Some(authority), Some(line), None) if authority != line => None,
        (Some(authority), ..) => Some(authority),
        (None, Some(line), None) => Some(line.to_owned()),
        (None, None, None) => None,
    }
}
