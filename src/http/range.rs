//! Byte ranges (RFC 9110, section 14): one range a request.

use axum::http::HeaderMap;
use axum::http::header;

/// What a request wants of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// Bytes from the first number to before the second.
    Part(u64, u64),
    /// A range that it does not have.
    Nothing,
}

/// The wanted part of an object of this size and entity tag. What is no range of bytes, or is more than one, is ignored, as the standard
/// allows; so is a range for another version of the object (`If-Range`).
pub(super) fn wanted(headers: &HeaderMap, size_bytes: u64, tag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(header::RANGE) else {
        return Wanted::Whole;
    };
    if text(header::IF_RANGE).is_some_and(|version| version != tag) {
        return Wanted::Whole;
    }
    parse(range, size_bytes).unwrap_or(Wanted::Whole)
}

fn parse(range: &str, size_bytes: u64) -> Option<Wanted> {
    let (unit, spec) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| {
        let text = text.trim();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number beyond 64 bits is beyond every object.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.trim().is_empty() {
        let length = number(last)?.min(size_bytes);
        return Some(match length {
            0 => Wanted::Nothing,
            length => Wanted::Part(size_bytes - length, size_bytes),
        });
    }
    let first = number(first)?;
    let end = match last.trim() {
        "" => size_bytes,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(size_bytes)
        }
    };
    Some(match first < end {
        true => Wanted::Part(first, end),
        false => Wanted::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::{Wanted, wanted};
    use axum::http::{HeaderMap, HeaderValue, header};

    fn of(range: &str, if_range: Option<&str>) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(version) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(version).unwrap());
        }
        wanted(&headers, 100, "\"v1\"")
    }

    #[test]
    fn each_form_of_a_range() {
        for (range, expected) in [
            ("bytes=0-9", Wanted::Part(0, 10)),
            ("bytes=90-", Wanted::Part(90, 100)),
            ("bytes=-10", Wanted::Part(90, 100)),
            ("bytes=-1000", Wanted::Part(0, 100)),
            ("bytes=50-1000", Wanted::Part(50, 100)),
            ("bytes=99-99", Wanted::Part(99, 100)),
            ("Bytes = 1-1", Wanted::Part(1, 2)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=0-99999999999999999999999", Wanted::Part(0, 100)),
            ("bytes=9-1", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ] {
            assert_eq!(of(range, None), expected, "{range}");
        }
        assert_eq!(of("bytes=0-9", Some("\"v1\"")), Wanted::Part(0, 10));
        assert_eq!(of("bytes=0-9", Some("\"v0\"")), Wanted::Whole);
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within_the_object(range in "(bytes=)?[0-9]{0,20}-[0-9]{0,21}", size: u64) {
            if let Some(Wanted::Part(begin, end)) = super::parse(&range, size) {
                proptest::prop_assert!(begin < end && end <= size, "{begin} {end}");
            }
        }

        #[test]
        fn any_text_has_an_answer(text: String, size: u64) {
            let _ = super::parse(&text, size);
        }
    }
}
