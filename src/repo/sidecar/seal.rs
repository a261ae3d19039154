//! The hash that a sidecar carries of itself: it reveals any flipped bit, and shows which of two files that
//! disagree is damaged.
//!
//! # On-disk layout
//! The last member of the object is `blake3`. The file ends with `,`, LF, two spaces, `"blake3": "`, 64 lower-case hexadecimal digits, `"`,
//! LF, `}`, LF. The digits are the BLAKE3 of all bytes before them, the opening quotation mark included.
//!
//! # Invariants
//! A file without the hash (of an older release, or edited by hand with the line removed) is accepted. A file
//! with a part of it is damaged.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::types::Digest;

/// Bytes between the other members and the digits.
const OPEN: &[u8] = b",\n  \"blake3\": \"";
/// Bytes after the digits.
const CLOSE: &[u8] = b"\"\n}\n";
/// The member's name at the beginning of its line.
const NAME: &[u8] = b"\n  \"blake3\"";
const DIGITS: usize = 64;
/// Bytes at the end of a file that are searched for a damaged hash.
const TAIL: usize = 2 * (OPEN.len() + DIGITS + CLOSE.len());

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The hashed bytes, and the digits; `None` when the file does not end like a sealed one.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let before = bytes.strip_suffix(CLOSE)?;
    let (hashed, digits) = before.split_at_checked(before.len().checked_sub(DIGITS)?)?;
    hashed.ends_with(OPEN).then_some((hashed, digits))
}

/// Whether a file that does not end like a sealed one was sealed once.
fn was_sealed(bytes: &[u8]) -> bool {
    let from = |length: usize| bytes.get(bytes.len().saturating_sub(length)..);
    let tail = from(TAIL).unwrap_or_default().trim_ascii_end();
    let has_name = tail.windows(NAME.len()).any(|part| part == NAME);
    let digits = bytes
        .strip_suffix(CLOSE)
        .and_then(|before| before.get(before.len().checked_sub(DIGITS)?..));
    has_name || digits.is_some_and(|digits| digits.iter().copied().all(is_digit))
}

/// Whether a file carries its hash.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    split(bytes).is_some()
}

/// Adds the hash to an encoded object, which ends with LF and `}`.
#[must_use]
pub(super) fn seal(mut object: Vec<u8>) -> Vec<u8> {
    if object.ends_with(b"\n}") {
        object.truncate(object.len() - 2);
        object.extend_from_slice(OPEN);
        let digits = Digest::of(&object).to_string();
        object.extend_from_slice(digits.as_bytes());
        object.extend_from_slice(CLOSE);
    }
    object
}

/// Proves a file against the hash that it carries, if any, and returns the object without it.
///
/// # Errors
/// `Corrupt` when the hash does not match.
pub(super) fn open<'b>(bytes: &'b [u8], what: &str) -> Result<Cow<'b, [u8]>> {
    let (found, stated) = match split(bytes) {
        Some((hashed, digits)) => (
            Digest::of(hashed).to_string(),
            String::from_utf8_lossy(digits).into_owned(),
        ),
        None if was_sealed(bytes) => ("none at its end".to_owned(), "a hash of itself".to_owned()),
        None => return Ok(Cow::Borrowed(bytes)),
    };
    if found != stated {
        return Err(Error::corrupt(
            format!("the {what} does not match the hash that it carries"),
            stated,
            found,
        )
        .advise("restore the file from a copy of the repository; after a change by hand, remove its line \"blake3\""));
    }
    let length = bytes.len() - (OPEN.len() + DIGITS + CLOSE.len());
    let mut object = bytes.get(..length).unwrap_or_default().to_vec();
    object.extend_from_slice(b"\n}\n");
    Ok(Cow::Owned(object))
}

#[cfg(test)]
mod tests {
    use super::{is_sealed, open, seal};
    use crate::error::ErrorKind;

    const OBJECT: &[u8] = b"{\n  \"schema\": 1,\n  \"list\": [\n    \"a\"\n  ]\n}";

    #[test]
    fn every_byte_that_changes_or_is_cut_is_found() {
        let good = seal(OBJECT.to_vec());
        assert!(is_sealed(&good) && good.ends_with(b"\"\n}\n"));
        assert_eq!(
            open(&good, "file").unwrap().strip_suffix(b"\n").unwrap(),
            OBJECT
        );
        for at in 0..good.len() {
            for byte in 0..=255_u8 {
                let mut bytes = good.clone();
                if std::mem::replace(&mut bytes[at], byte) == byte {
                    continue;
                }
                let error = open(&bytes, "file").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at} is {byte}");
            }
        }
        for more in [&b" "[..], b"\n", b"\n\n\n"] {
            let longer = [good.as_slice(), more].concat();
            assert!(open(&longer, "file").is_err());
        }
    }

    #[test]
    fn a_file_without_a_hash_is_accepted_as_it_is() {
        for text in [
            OBJECT,
            b"{}",
            b"",
            b"{\n  \"files\": [\n    {\n      \"blake3\": \"00\"\n    }\n  ]\n}\n",
        ] {
            assert_eq!(&*open(text, "file").unwrap(), text);
            assert!(!is_sealed(text));
        }
    }

    #[test]
    fn the_hash_is_that_of_all_bytes_before_it() {
        let good = String::from_utf8(seal(OBJECT.to_vec())).unwrap();
        let at = good.rfind(": \"").unwrap() + 3;
        let digits = blake3::hash(&good.as_bytes()[..at]).to_hex();
        assert_eq!(&good[at..at + 64], digits.as_str());
        assert_eq!(&good[at + 64..], "\"\n}\n");
    }
}
