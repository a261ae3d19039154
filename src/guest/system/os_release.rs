//! `/etc/os-release`: the name of a guest's system (os-release(5)).
//!
//! # Invariants
//! Total: any bytes yield the readable values; values are bounded.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

/// LIMIT: characters kept of a value (our limit).
const VALUE_MAX: usize = 200;

/// The values used of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: Option<String>,
    /// For programs: `debian`.
    pub id: Option<String>,
    /// `12`.
    pub version_id: Option<String>,
}

/// A value as a shell reads it: without quotes, backslashes decoded, control characters removed.
fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let inner = match quote {
        Some(quote) => text.strip_prefix(quote)?.strip_suffix(quote)?,
        None => text,
    };
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' if quote != Some('\'') => chars.next()?,
            other => other,
        };
        if !c.is_control() {
            out.push(c);
        }
    }
    (!out.is_empty()).then(|| out.chars().take(VALUE_MAX).collect())
}

/// Parses a whole file; of several lines with one name the last counts.
#[must_use]
pub fn parse(text: &[u8]) -> OsRelease {
    let mut release = OsRelease::default();
    for line in String::from_utf8_lossy(text).lines() {
        let Some((name, text)) = line.trim_start().split_once('=') else {
            continue;
        };
        let field = match name {
            "PRETTY_NAME" => &mut release.pretty_name,
            "ID" => &mut release.id,
            "VERSION_ID" => &mut release.version_id,
            _ => continue,
        };
        *field = value(text);
    }
    release
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_those_of_a_shell() {
        let release = parse(
            b"PRETTY_NAME=\"Debian \\\"GNU\\\"/Linux 12\"\nID=debian\n#ID=x\nVERSION_ID='12'\nNAME=y\n",
        );
        assert_eq!(
            release.pretty_name.as_deref(),
            Some("Debian \"GNU\"/Linux 12")
        );
        assert_eq!(release.id.as_deref(), Some("debian"));
        assert_eq!(release.version_id.as_deref(), Some("12"));
        let odd = parse(b"ID=\"open\nVERSION_ID=\nPRETTY_NAME=a\x1b[31mb\xff\n=\n");
        assert_eq!((odd.id, odd.version_id), (None, None));
        assert_eq!(odd.pretty_name.as_deref(), Some("a[31mb\u{fffd}"));
        assert_eq!(parse(&[b'='; 10_000]), super::OsRelease::default());
    }
}
