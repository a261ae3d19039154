//! The query of a URI, as bytes. A form decoder would take `+` for a space and lose bytes that are not UTF-8.

use percent_encoding::percent_decode;

use crate::error::{Error, ErrorKind, Result};
use crate::service::view::{LIMIT_DEFAULT, LIMIT_MAX, Slice};
use crate::types::likeness;

/// LIMIT: bytes of a query; 1,000 paths of an archive have about 100 KB, and hyper takes no longer head.
const QUERY_BYTES_MAX: usize = 256 << 10;

/// The parameters of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not UTF-8, a broken percent sign, or a query that is too long.
    pub(super) fn parse(raw: Option<&str>) -> Result<Self> {
        Self::parse_with(raw, decode)
    }

    /// Parses what a browser made of a form, in which a space is a `+`.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub(super) fn parse_form(raw: Option<&str>) -> Result<Self> {
        Self::parse_with(raw, |text| decode(&text.replace('+', "%20")))
    }

    fn parse_with(raw: Option<&str>, decode: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Self> {
        let raw = raw.unwrap_or_default();
        if raw.len() > QUERY_BYTES_MAX {
            return Err(Error::invalid("the query is too long"));
        }
        let mut all = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8(decode(name)?)
                .map_err(|_| Error::invalid("a parameter's name is not UTF-8"))?;
            all.push((name, decode(value)?));
        }
        Ok(Self(all))
    }

    /// Refuses parameters that are not among `known`.
    ///
    /// # Errors
    /// `InvalidInput`, with the name that may have been meant.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        let mut names = self.0.iter().map(|(name, _)| name.as_str());
        match names.find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(unknown) => {
                let shown: String = unknown.escape_debug().take(40).collect();
                let error = Error::invalid(format!("there is no parameter \"{shown}\" here"));
                Err(match likeness::nearest(known.iter().copied(), unknown) {
                    Some(near) => error.advise(format!("did you mean {near}?")),
                    None => error.advise(match known {
                        [] => "this request takes none".to_owned(),
                        known => format!("known here: {}", known.join(", ")),
                    }),
                })
            }
        }
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> Vec<Vec<u8>> {
        let those = self.0.iter().filter(|(known, _)| known == name);
        those.map(|(_, value)| value.clone()).collect()
    }

    /// The value of a parameter that is there at most once, as bytes.
    ///
    /// # Errors
    /// `InvalidInput` when it is there twice.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut all = self.all(name);
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(Error::invalid(format!("\"{name}\" is there twice"))),
        }
    }

    /// The same as text.
    ///
    /// # Errors
    /// `InvalidInput` when it is there twice, or is not UTF-8.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let text = |bytes| {
            String::from_utf8(bytes).map_err(|_| Error::invalid(format!("\"{name}\" is not UTF-8")))
        };
        self.bytes(name)?.map(text).transpose()
    }

    /// The wanted part of a list.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn slice(&self) -> Result<Slice> {
        let limit = match self.text("limit")? {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| {
                    Error::invalid(format!("\"limit\" is a number from 1 to {LIMIT_MAX}"))
                })?,
        };
        Ok(Slice {
            after: self.text("after")?,
            limit,
        })
    }
}

/// Decodes percent signs.
///
/// # Errors
/// `InvalidInput` for one without two digits after it.
pub(super) fn decode(text: &str) -> Result<Vec<u8>> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'%' && !(is_hex(at + 1) && is_hex(at + 2)) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a percent sign in the address has no two digits after it",
            )
            .advise("write the sign itself as %25"));
        }
    }
    Ok(percent_decode(bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn values_are_bytes_and_a_plus_is_a_plus() {
        let query = Query::parse(Some("path=/a%20b+c&path=%ff%00&limit=7")).unwrap();
        assert_eq!(query.all("path"), [b"/a b+c".to_vec(), vec![0xff, 0]]);
        assert_eq!(query.slice().unwrap().limit, 7);
        assert!(query.bytes("path").is_err());
        query.only(&["path", "limit"]).unwrap();
        let form = Query::parse_form(Some("x=a+b%2Bc")).unwrap();
        assert_eq!(form.all("x"), [b"a b+c".to_vec()]);
        let error = query.only(&["pathe", "limit"]).unwrap_err();
        assert!(error.report().contains("did you mean pathe"), "{error}");
    }

    #[test]
    fn what_is_broken_is_refused() {
        for bad in ["a=%", "a=%1", "a=%zz", "%ff=1"] {
            assert!(Query::parse(Some(bad)).is_err(), "{bad}");
        }
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=1&limit=2",
            "limit=",
        ] {
            assert!(Query::parse(Some(bad)).unwrap().slice().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_through_percent_signs(bytes: Vec<u8>) {
            let encoded = percent_encoding::percent_encode(&bytes, percent_encoding::NON_ALPHANUMERIC);
            let query = Query::parse(Some(&format!("path={encoded}"))).unwrap();
            proptest::prop_assert_eq!(query.all("path"), [bytes]);
        }

        #[test]
        fn no_text_is_worse_than_refused(text: String) {
            let _ = Query::parse(Some(&text)).map(|query| query.slice());
        }
    }
}
