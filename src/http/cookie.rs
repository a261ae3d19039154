//! The cookie of a login (RFC 6265).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};

use super::peer::Way;

/// Its name over TLS: the prefix keeps others from setting it.
const SECURE: &str = "__Host-restorefs";
/// Its name on plain loopback.
const PLAIN: &str = "restorefs";

const fn name(way: Way) -> &'static str {
    match way {
        Way::Tls => SECURE,
        Way::Plain | Way::Unix => PLAIN,
    }
}

/// The cookie's value in a request.
pub(super) fn read(headers: &HeaderMap, way: Way) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = named.find(|(name_, _)| *name_ == name(way))?;
    Some(value)
}

/// The header that sets it; an empty value with no time removes it.
pub(super) fn write(value: &str, lasts: Duration, way: Way) -> HeaderValue {
    let secure = match way {
        Way::Tls => "; Secure",
        Way::Plain | Way::Unix => "",
    };
    let text = format!(
        "{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        name(way),
        lasts.as_secs()
    );
    // The value is hexadecimal digits.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{HeaderMap, HeaderValue, header};

    use super::{read, write};
    use crate::http::peer::Way;

    #[test]
    fn a_cookie_comes_back_under_the_name_of_its_way() {
        let mut headers = HeaderMap::new();
        let line = "other=1; restorefs=abc; __Host-restorefs=def";
        headers.insert(header::COOKIE, HeaderValue::from_static(line));
        assert_eq!(read(&headers, Way::Plain), Some("abc"));
        assert_eq!(read(&headers, Way::Tls), Some("def"));
        assert_eq!(read(&HeaderMap::new(), Way::Tls), None);
        let set = write("abc", Duration::from_secs(9), Way::Tls);
        assert_eq!(
            set.to_str().unwrap(),
            "__Host-restorefs=abc; Path=/; Max-Age=9; HttpOnly; SameSite=Strict; Secure"
        );
    }
}
