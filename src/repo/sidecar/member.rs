//! Checks the members of a sidecar's objects before they are decoded.
//!
//! # Why
//! A release keeps the members that it does not know when it rewrites a file. A decoder keeps the last of two
//! members with one name, so that the other would be lost. It also reserves some names to pass numbers within
//! the program, and would take such members for numbers. A file with either is refused.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::{Error, Result};

/// LIMIT: greatest depth that is checked; the decoder (`serde_json`) refuses deeper input.
const DEPTH_MAX: usize = 128;
/// Objects with at most this many names are compared one by one.
const FEW: usize = 32;
/// Prefix of the names that the decoder reserves.
const PRIVATE: &[u8] = b"$serde_json::private::";

/// The names of one object so far; empty for an array.
#[derive(Default)]
struct Names<'b> {
    few: Vec<Cow<'b, [u8]>>,
    many: HashSet<Cow<'b, [u8]>>,
}

impl<'b> Names<'b> {
    /// Adds a name; returns whether it is new.
    fn insert(&mut self, name: Cow<'b, [u8]>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// Splits the bytes behind an opening quotation mark into the string and the rest.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut is_escaped = false;
    let end = bytes.iter().position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    })?;
    Some((bytes.get(..end)?, bytes.get(end.checked_add(1)?..)?))
}

/// A name with its escapes resolved; `None` when the decoder will refuse it.
fn resolved(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !name.contains(&b'\\') {
        return Some(Cow::Borrowed(name));
    }
    let quoted = [b"\"", name, b"\""].concat();
    let text: String = serde_json::from_slice(&quoted).ok()?;
    Some(Cow::Owned(text.into_bytes()))
}

fn refuse(what: &str, expected: &str, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name).escape_debug().to_string();
    Error::corrupt(format!("the {what} cannot be read"), expected, name)
}

/// Refuses an object in which a name occurs twice or is reserved by the decoder. Bytes that are not JSON
/// pass.
///
/// # Errors
/// `Corrupt` naming the member.
pub(super) fn check(bytes: &[u8], what: &str) -> Result<()> {
    let mut open: Vec<Names<'_>> = Vec::new();
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'{' | b'[' => {
                if open.len() >= DEPTH_MAX {
                    return Ok(());
                }
                open.push(Names::default());
            }
            b'}' | b']' => {
                open.pop();
            }
            b'"' => {
                let Some((text, behind)) = string(rest) else {
                    return Ok(());
                };
                rest = behind;
                if !behind.trim_ascii_start().starts_with(b":") {
                    continue;
                }
                let (Some(name), Some(names)) = (resolved(text), open.last_mut()) else {
                    return Ok(());
                };
                if name.starts_with(PRIVATE) {
                    return Err(refuse(what, "names of members that files have", &name));
                }
                if !names.insert(name) {
                    return Err(refuse(what, "each member once", text));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::error::ErrorKind;

    #[test]
    fn each_name_stands_once_in_its_object() {
        for good in [
            r#"{"a":1,"b":{"a":1,"b":[{"a":1},{"a":"a"}]},"c":"a","d":"\"a\":"}"#,
            r#"{"tags":{"blake3":"x"},"A":1,"a":2}"#,
            "",
            "[",
            "\"",
            r#"{"\ud800":1}"#,
        ] {
            check(good.as_bytes(), "file").unwrap();
        }
        let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":0")).collect();
        check(format!("{{{}}}", many.join(",")).as_bytes(), "file").unwrap();
        for bad in [
            r#"{"a":1,"a":2}"#.to_owned(),
            r#"{"a":1,"b":{"c":1,"c" : 2}}"#.to_owned(),
            r#"{"a":1,"\u0061":2}"#.to_owned(),
            r#"{"a":[{"x":{},"y":[],"x":1}]}"#.to_owned(),
            format!("{{{},\"k7\":1}}", many.join(",")),
            format!("{{{},\"k99\":1}}", many.join(",")),
            r#"{"x":{"$serde_json::private::Number":"1"}}"#.to_owned(),
            r#"{"x":{"\u0024serde_json::private::RawValue":"1"}}"#.to_owned(),
        ] {
            let error = check(bad.as_bytes(), "file").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
        }
    }
}
