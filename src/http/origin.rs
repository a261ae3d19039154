//! Whether a request that changes something was sent by one of our own pages (cross-site request forgery).

use axum::http::{HeaderMap, header};

/// The header in which a browser states where a request comes from (Fetch Metadata).
const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a browser states that one of our own pages sent the request. Other programs state nothing: they bring a token.
pub(super) fn is_same(headers: &HeaderMap, scheme: &str, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(origin) = text(header::ORIGIN.as_str()) {
        let own = format!("{scheme}://{host}");
        return origin.eq_ignore_ascii_case(&own)
            && text(FETCH_SITE).is_none_or(|site| site == "same-origin");
    }
    text(FETCH_SITE) == Some("same-origin")
}

#[cfg(test)]
mod tests {
    use super::is_same;
    use axum::http::{HeaderMap, HeaderValue};

    fn of(origin: Option<&'static str>, site: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert("origin", HeaderValue::from_static(origin));
        }
        if let Some(site) = site {
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
        }
        is_same(&headers, "http", "localhost:8420")
    }

    #[test]
    fn only_our_own_pages_change_something() {
        assert!(of(Some("http://localhost:8420"), Some("same-origin")));
        assert!(of(Some("http://localhost:8420"), None));
        assert!(of(None, Some("same-origin")));
        assert!(!of(None, None));
        assert!(!of(Some("null"), None));
        assert!(!of(Some("http://evil.example"), Some("same-origin")));
        assert!(!of(Some("https://localhost:8420"), None));
        assert!(!of(Some("http://localhost:1"), None));
        assert!(!of(Some("http://localhost:8420"), Some("cross-site")));
        assert!(!of(None, Some("same-site")));
        assert!(!of(None, Some("none")));
    }
}
