//! Names of files in headers (RFC 6266, RFC 8187).

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What is written as itself in `filename*` (RFC 8187, `attr-char`), of what we need.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// LIMIT: bytes of a name that a header has; names of guests have at most 255.
const NAME_BYTES_MAX: usize = 1_024;

/// `attachment` with a name for every browser. Every byte that could mean something to a header is escaped.
pub(super) fn attachment(name: &[u8]) -> HeaderValue {
    let name = name
        .get(..NAME_BYTES_MAX.min(name.len()))
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(name);
    // Programs that know no filename* get the letters and digits.
    let ascii: String = shown
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
            _ => '_',
        })
        .collect();
    let encoded = percent_encode(shown.as_bytes(), PLAIN);
    let text = format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}");
    // The text is printable ASCII.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::attachment;

    #[test]
    fn no_name_leaves_its_header() {
        for (name, expected) in [
            (
                &b"a\"\r\nSet-Cookie:b"[..],
                "attachment; filename=\"a___Set-Cookie_b\"; filename*=UTF-8''a%22%0D%0ASet-Cookie%3Ab",
            ),
            (
                b"x.svg",
                "attachment; filename=\"x.svg\"; filename*=UTF-8''x.svg",
            ),
            (
                "\u{202e}gpj.exe".as_bytes(),
                "attachment; filename=\"_gpj.exe\"; filename*=UTF-8''%E2%80%AEgpj.exe",
            ),
            (
                b"\xff",
                "attachment; filename=\"_\"; filename*=UTF-8''%EF%BF%BD",
            ),
        ] {
            assert_eq!(attachment(name).to_str().unwrap(), expected);
        }
    }
}
