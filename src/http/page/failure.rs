//! Failures as pages, for browsers.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use maud::html;

use super::frame::{Frame, Place};
use super::spelling;
use crate::http::fault::Told;

/// Whether a client would rather read a page than JSON.
pub(in crate::http) fn wants_page(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter();
    let mut kinds = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    kinds.any(|kind| kind.trim().starts_with("text/html"))
}

/// The page of a failure, with the headers that the failure had.
pub(in crate::http) fn page(failed: &Response, told: &Told, who: Option<String>) -> Response {
    let status = failed.status();
    let title = title(status);
    let frame = Frame {
        title: title.to_owned(),
        place: Place::Elsewhere,
        who,
    };
    let content = html! {
        h1 { (title) }
        p.lead { (spelling::text(&told.detail)) }
        @if let Some(advice) = &told.advice {
            p { (spelling::text(advice)) }
        }
        @if status == StatusCode::TOO_MANY_REQUESTS {
            p { "Nothing is lost. Go back, and try again in a while." }
        }
        p.quiet { "Status " (status.as_u16()) }
        p { a href="/" { "To the overview" } }
    };
    let mut page = frame.answer(status, &content);
    for (name, value) in failed.headers() {
        if *name != header::CONTENT_TYPE
            && *name != header::CONTENT_LENGTH
            && !page.headers().contains_key(name)
        {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}

const fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "The request cannot be used",
        401 => "Not logged in",
        403 => "Not allowed",
        404 => "Not found",
        409 => "Not possible now",
        410 => "It is gone",
        421 => "Another name is needed",
        429 => "Too much at once",
        507 => "No room",
        501 => "Not supported",
        _ => "The request failed",
    }
}

#[cfg(test)]
mod tests {
    use super::wants_page;
    use axum::http::{HeaderMap, HeaderValue, header};

    #[test]
    fn only_a_browser_gets_a_page() {
        let of = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_page(&headers)
        };
        assert!(of("text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!of("*/*"));
        assert!(!of("application/json"));
        assert!(!wants_page(&HeaderMap::new()));
    }
}
