//! PAX records: values that do not fit into a tar's header.
//!
//! # On-disk layout
//! POSIX.1-2001 pax, "Extended Header": each record is `LENGTH KEY=VALUE\n`, LENGTH in decimal and counting itself.

use std::io::Write;

use crate::guest::fs::Time;

/// Record that marks the following values as not UTF-8.
const BINARY: &[u8] = b"21 hdrcharset=BINARY\n";

/// The records of one entry.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// Adds a record. The value may contain any bytes; the key contains no `=` (see [`key`]).
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        // A space, `=` and a newline, and the digits of the total length.
        let bare = key.len() + value.len() + 3;
        let mut length = bare + 1;
        while length != bare + length.to_string().len() {
            length = bare + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Adds a path. When it is not UTF-8, a record before it marks the values as binary: GNU tar warns that
    /// it does not know that record and uses the bytes as they are; bsdtar would not accept them without it.
    pub(super) fn path(&mut self, key: &str, value: &[u8]) {
        if std::str::from_utf8(value).is_err() && !self.0.starts_with(BINARY) {
            self.0.splice(..0, BINARY.iter().copied());
        }
        self.add(key.as_bytes(), value);
    }

    /// Adds a number.
    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.add(key.as_bytes(), value.to_string().as_bytes());
    }

    /// Adds a time: seconds since 1970, with a sign and a fraction where needed.
    pub(super) fn time(&mut self, key: &str, time: Time) {
        self.add(key.as_bytes(), seconds(time).as_bytes());
    }

    /// The encoded records.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn seconds(time: Time) -> String {
    let nanoseconds = time.nanoseconds.min(999_999_999);
    if nanoseconds == 0 {
        return time.seconds.to_string();
    }
    // The fraction of a filesystem's time counts upwards; that of a decimal number counts away from zero.
    let (sign, whole, fraction) = if time.seconds < 0 {
        let whole = time.seconds.saturating_add(1).unsigned_abs();
        ("-", whole, 1_000_000_000 - nanoseconds)
    } else {
        ("", time.seconds.unsigned_abs(), nanoseconds)
    };
    format!("{sign}{whole}.{fraction:09}")
}

/// The key of an extended attribute: GNU tar writes `=` and `%` in names as `%3D` and `%25`.
pub(super) fn key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' | b'%' => {
                // Writing to a Vec never fails.
                let _ = write!(key, "%{byte:02X}");
            }
            _ => key.push(*byte),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::{Records, key, seconds};
    use crate::guest::fs::Time;

    #[test]
    fn lengths_count_themselves() {
        let mut records = Records::default();
        records.add(b"path", b"x");
        assert_eq!(records.bytes(), b"9 path=x\n");
        // 94 bytes and two digits are 96; 97 and two would be 99, 98 and two are 100, which has three.
        for length in [1, 2, 90, 91, 92, 93, 94, 990, 991, 992, 993, 9985, 9990] {
            let mut records = Records::default();
            records.add(b"k", &vec![b'v'; length]);
            let text = String::from_utf8_lossy(records.bytes()).into_owned();
            let (text, _) = text.split_once(' ').unwrap();
            assert_eq!(text.parse::<usize>().unwrap(), records.bytes().len());
        }
    }

    #[test]
    fn times_before_1970_and_between_seconds() {
        let text = |seconds_, nanoseconds| {
            seconds(Time {
                seconds: seconds_,
                nanoseconds,
            })
        };
        assert_eq!(text(0, 0), "0");
        assert_eq!(text(5, 1), "5.000000001");
        assert_eq!(text(-5, 0), "-5");
        assert_eq!(text(-6, 750_000_000), "-5.250000000");
        assert_eq!(text(-1, 750_000_000), "-0.250000000");
        assert_eq!(text(i64::MIN, 1), "-9223372036854775807.999999999");
        assert_eq!(text(i64::MAX, 999_999_999), "9223372036854775807.999999999");
    }

    #[test]
    fn paths_that_are_no_utf8_say_so_once() {
        let mut records = Records::default();
        records.number("x", 1);
        records.path("path", "ä".as_bytes());
        assert_eq!(records.bytes(), "6 x=1\n11 path=ä\n".as_bytes());
        records.path("path", b"\xff");
        records.path("linkpath", b"\xff");
        assert_eq!(
            records.bytes(),
            [
                b"21 hdrcharset=BINARY\n6 x=1\n11 path=".as_slice(),
                "ä".as_bytes(),
                b"\n9 path=\xff\n14 linkpath=\xff\n"
            ]
            .concat()
        );
    }

    #[test]
    fn keys_have_no_equals_sign() {
        assert_eq!(key(b"user.a=b%c"), b"SCHILY.xattr.user.a%3Db%25c");
    }
}
