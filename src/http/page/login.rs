//! Logging in and out.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::address;
use super::frame::{Frame, Place};
use crate::http::fault::Fault;
use crate::http::peer::Peer;
use crate::http::query::Query;
use crate::http::reply::Answer;
use crate::http::site::Site;
use crate::http::{body, cookie, credential};

/// LIMIT: bytes of the form: a token, and the address of a page with a path of 4,096 bytes, each encoded twice.
const FORM_BYTES_MAX: usize = 64 << 10;
/// What is told of a code or token that is none.
const REFUSED: &str =
    "This is no code and no token that can be used. A code works once, for five minutes.";

/// The page with the form.
fn page(status: StatusCode, next: &str, refused: Option<&str>) -> Response {
    let frame = Frame {
        title: "Log in".to_owned(),
        place: Place::Elsewhere,
        who: None,
    };
    let content = html! {
        h1 { "Log in" }
        @if let Some(refused) = refused {
            div.notice.bad role="alert" { p { (refused) } }
        }
        form.login method="post" action="/login" data-login {
            label for="secret" { "Code or token" }
            input #secret name="secret" type="password" autocomplete="off" autocapitalize="off" spellcheck="false"
                required maxlength="512" aria-describedby="help" autofocus;
            input type="hidden" name="next" value=(next);
            button.main type="submit" { "Log in" }
        }
        p #help.quiet {
            "The daemon prints an address with a code when it starts; "
            code { "restorefs token add" } " makes a token."
        }
        @if next != "/" {
            p { "Logged in already? " a href=(next) { "Go on to the page" } }
        }
    };
    frame.answer(status, &content)
}

/// The login. A GET uses no code up.
pub(super) async fn show(RawQuery(query): RawQuery) -> Answer {
    let next = Query::parse_form(query.as_deref())?.text("next")?;
    let next = address::own(next.as_deref().unwrap_or("/")).to_owned();
    Ok(page(StatusCode::OK, &next, None))
}

/// Begins a session for a code or a token.
pub(super) async fn enter(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    credential::check(&site, &peer)?;
    let bytes = body::read(&headers, body, FORM_BYTES_MAX).await?;
    let form = std::str::from_utf8(&bytes)
        .map_err(|_| Fault::of_status(StatusCode::BAD_REQUEST, "the form is not UTF-8"))?;
    let form = Query::parse_form(Some(form))?;
    let secret = form.text("secret")?.unwrap_or_default();
    let next = form.text("next")?.unwrap_or_default();
    let next = address::own(&next);
    let caller = match site.logins.take_code(&secret) {
        Some(caller) => Some(caller),
        None => credential::authenticate(&site, &peer, secret.trim()),
    };
    let Some(caller) = caller else {
        return Ok(page(StatusCode::UNAUTHORIZED, next, Some(REFUSED)));
    };
    site.note_login(&peer, &caller, None);
    let begun = site.begin_login(caller, peer.way)?;
    let set = cookie::write(&begun.secret, begun.lasts, peer.way);
    Ok(away(next, set))
}

/// Ends the session.
pub(super) async fn leave(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Some(secret) = cookie::read(&headers, peer.way) {
        site.logins.end(secret);
    }
    away("/login", cookie::write("", Duration::ZERO, peer.way))
}

fn away(to: &str, cookie: HeaderValue) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    let headers = [(header::LOCATION, to), (header::SET_COOKIE, cookie)];
    (StatusCode::SEE_OTHER, headers).into_response()
}
