//! The text format of LVM2's metadata: sections, and keys with numbers, strings and lists.
//!
//! # Invariants
//! Total: any bytes yield a tree or `Corrupt`; depth and number of nodes are bounded.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::error::{Error, ErrorKind, Result};
use crate::types::width::u64_from_usize;

/// LIMIT: nested sections and lists (LVM's own text has depth 4).
const DEPTH_MAX: u32 = 16;
/// LIMIT: keys, values and list items of one text (our limit; a volume has about 25).
const NODES_MAX: u32 = 1_000_000;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number; a fraction is truncated.
    Integer(i64),
    /// A string in quotes.
    Text(String),
    /// A list in brackets.
    List(Vec<Value>),
    /// A section in braces.
    Section(Section),
}

/// Keys in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section(Vec<(String, Value)>);

impl Section {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, v)| v)
    }

    /// The section of that name.
    pub(super) fn section(&self, key: &str) -> Option<&Self> {
        match self.get(key)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// All sections with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// The string of that name.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of that name, if it is not negative.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The list of that name; a single value is a list of one.
    pub(super) fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Value::List(list)) => list,
            Some(value @ (Value::Text(_) | Value::Integer(_))) => std::slice::from_ref(value),
            _ => &[],
        }
    }

    /// Whether the list of that name (`status`, `flags`) contains this string.
    pub(super) fn has(&self, key: &str, flag: &str) -> bool {
        self.list(key)
            .iter()
            .any(|value| matches!(value, Value::Text(text) if text == flag))
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: u32,
}

impl Parser<'_> {
    fn corrupt(&self, expected: &'static str) -> Error {
        let found = match self.bytes.get(self.at) {
            Some(byte) => byte.escape_ascii().to_string(),
            None => "the end".to_owned(),
        };
        Error::corrupt("the LVM metadata text", expected, found).at_offset(u64_from_usize(self.at))
    }

    fn count(&mut self) -> Result<()> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES_MAX {
            let what = format!("the LVM metadata has more than {NODES_MAX} values");
            return Err(Error::new(ErrorKind::LimitExceeded, what));
        }
        Ok(())
    }

    /// The next byte outside blanks and comments. The text may end with NUL.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            match byte {
                0 => return None,
                b'#' => self.skip_while(|b| b != b'\n'),
                _ if byte.is_ascii_whitespace() => self.skip_while(|b| b.is_ascii_whitespace()),
                _ => return Some(byte),
            }
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.at = self.at.saturating_add(length);
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        if is_next {
            self.at = self.at.saturating_add(1);
        }
        is_next
    }

    fn string(&mut self) -> Result<String> {
        let mut text = Vec::new();
        self.at = self.at.saturating_add(1);
        loop {
            let byte = *self
                .bytes
                .get(self.at)
                .ok_or_else(|| self.corrupt("a closing quote"))?;
            self.at = self.at.saturating_add(1);
            match byte {
                b'"' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    let escaped = *self
                        .bytes
                        .get(self.at)
                        .ok_or_else(|| self.corrupt("a character after \\"))?;
                    self.at = self.at.saturating_add(1);
                    text.push(escaped);
                }
                _ => text.push(byte),
            }
        }
    }

    fn key(&mut self) -> Result<String> {
        if self.peek() == Some(b'"') {
            return self.string();
        }
        let start = self.at;
        self.skip_while(|b| b.is_ascii_graphic() && !b"={}[],#\"".contains(&b));
        match self.bytes.get(start..self.at) {
            Some(key) if !key.is_empty() => Ok(String::from_utf8_lossy(key).into_owned()),
            _ => Err(self.corrupt("a name")),
        }
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        self.skip_while(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.'));
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        let whole = text.split(|b| *b == b'.').next().unwrap_or_default();
        std::str::from_utf8(whole)
            .ok()
            .and_then(|whole| whole.parse().ok())
            .map(Value::Integer)
            .ok_or_else(|| {
                self.at = start;
                self.corrupt("a value")
            })
    }

    fn value(&mut self, depth: u32) -> Result<Value> {
        self.count()?;
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') => {
                self.at = self.at.saturating_add(1);
                let deeper = self.deeper(depth)?;
                let mut list = Vec::new();
                while !self.take(b']') {
                    list.push(self.value(deeper)?);
                    if !self.take(b',') && self.peek() != Some(b']') {
                        return Err(self.corrupt("a comma or ]"));
                    }
                }
                Ok(Value::List(list))
            }
            _ => self.number(),
        }
    }

    fn deeper(&self, depth: u32) -> Result<u32> {
        depth
            .checked_sub(1)
            .ok_or_else(|| self.corrupt("fewer sections within each other"))
    }

    fn section(&mut self, depth: u32) -> Result<Section> {
        let mut section = Section::default();
        while let Some(byte) = self.peek() {
            if byte == b'}' {
                break;
            }
            self.count()?;
            let key = self.key()?;
            let value = if self.take(b'{') {
                let deeper = self.deeper(depth)?;
                let inner = self.section(deeper)?;
                if !self.take(b'}') {
                    return Err(self.corrupt("a closing brace"));
                }
                Value::Section(inner)
            } else if self.take(b'=') {
                self.value(depth)?
            } else {
                return Err(self.corrupt("= or {"));
            };
            section.0.push((key, value));
        }
        Ok(section)
    }
}

/// Parses a whole text.
///
/// # Errors
/// `Corrupt` with the place; `LimitExceeded`.
pub(super) fn parse(bytes: &[u8]) -> Result<Section> {
    let mut parser = Parser {
        bytes,
        at: 0,
        nodes: 0,
    };
    let section = parser.section(DEPTH_MAX)?;
    match parser.peek() {
        None => Ok(section),
        Some(_) => Err(parser.corrupt("the end")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, parse};
    use crate::error::ErrorKind;

    #[test]
    fn sections_keys_and_values() {
        let text =
            b"vg0 {\n# comment }\nid = \"a\\\"b\\\\\"\nseqno=3 # x\nfraction = 1.5\nminus = -4\n\
            status = [\"READ\", \"WRITE\"]\nempty = []\none = \"RESIZEABLE\"\n\
            lv { segment1 { stripes = [\n\"pv0\", 7\n] } } }\nversion = 1\0\0rest {{";
        let root = parse(text).unwrap();
        let vg = root.section("vg0").unwrap();
        assert_eq!(vg.text("id"), Some("a\"b\\"));
        assert_eq!(vg.number("seqno"), Some(3));
        assert_eq!(vg.number("fraction"), Some(1));
        assert_eq!(vg.number("minus"), None);
        assert!(vg.has("status", "WRITE") && !vg.has("status", "X") && !vg.has("none", "X"));
        assert!(vg.has("one", "RESIZEABLE"));
        assert!(vg.list("empty").is_empty());
        let segment = vg.section("lv").and_then(|lv| lv.section("segment1"));
        assert_eq!(
            segment.unwrap().list("stripes"),
            [Value::Text("pv0".to_owned()), Value::Integer(7)]
        );
        assert_eq!(root.number("version"), Some(1));
        assert_eq!(vg.sections().count(), 1);
    }

    #[test]
    fn what_is_no_text_is_corrupt() {
        for text in [
            &b"a"[..],
            b"a =",
            b"a = \"",
            b"a = \"\\",
            b"a {",
            b"a = [1",
            b"a = [1 2]",
            b"}",
            b"a = b",
            b"= 1",
            b"a = 99999999999999999999",
            b"a { b = 1 ",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", text.escape_ascii());
        }
        assert!(parse(&b"a{".repeat(100_000)).is_err());
        assert!(parse(&[&b"a="[..], &b"[".repeat(100_000)].concat()).is_err());
        let many = parse(&b"a=1 ".repeat(600_000)).unwrap_err();
        assert_eq!(many.kind(), ErrorKind::LimitExceeded);
    }
}
