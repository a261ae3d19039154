//! The names of a certificate's holder.
//!
//! # On-disk layout
//! A subject is DER (X.690), as specified in RFC 5280, 4.1.2.4: a sequence of sets (0x31) of
//! sequences (0x30), each an object identifier (0x06) and a string. The common name is 2.5.4.3.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// LIMIT: names of one certificate; a certificate with more is not one of ours.
const NAMES_MAX: usize = 64;

/// LIMIT: bytes of a name.
const NAME_BYTES_MAX: usize = 256;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// String types that are UTF-8 or a subset of it: UTF8String, PrintableString, IA5String.
const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16];
/// 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// Prefixes of identities that state the kind of name in a certificate.
const KINDS: [&str; 3] = ["cn:", "dns:", "uri:"];

/// The names of a certificate's holder: each DNS name and URI of its subjectAltName, plain and as
/// `dns:NAME`, `uri:NAME`; each common name as `cn:NAME`, and plain only where the certificate has
/// no subjectAltName (RFC 9525, 2: a common name is free text that an authority need not check). An
/// invalid certificate has no names.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let dns: Vec<&str> = parsed.valid_dns_names().collect();
    let uris: Vec<&str> = parsed.valid_uri_names().collect();
    let common = common_names(parsed.subject());
    let has_alternative = !dns.is_empty() || !uris.is_empty();
    let typed = |kind: &'static str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{kind}{name}")).collect()
    };
    let plain = dns.iter().chain(&uris);
    let plain: Vec<String> = plain
        .chain(common.iter().filter(|_| !has_alternative))
        // A name that looks like a prefixed name of another kind is listed with its own prefix
        // only.
        .filter(|name| !KINDS.iter().any(|kind| name.starts_with(kind)))
        .map(|name| (*name).to_owned())
        .collect();
    let all = [
        typed("dns:", &dns),
        typed("uri:", &uris),
        typed("cn:", &common),
        plain,
    ];
    let mut names: Vec<String> = Vec::new();
    for name in all.into_iter().flatten() {
        let bare = name.split_once(':').map_or(name.as_str(), |(_, bare)| bare);
        let is_plain =
            !bare.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        if is_plain && names.len() < NAMES_MAX && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The first element of `bytes`: its tag, its content, and the rest.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    // LIMIT: lengths of up to three bytes: no subject has 16 MiB.
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let (length, rest) = rest.split_at_checked(count)?;
            let length = length.iter().try_fold(0usize, |sum, byte| {
                sum.checked_mul(256)?.checked_add(usize::from(*byte))
            })?;
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Elements of `bytes` with this tag, up to the first invalid one.
fn elements(mut bytes: &[u8], wanted: u8) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((tag, content, rest)) = element(bytes)
        && found.len() < NAMES_MAX
    {
        if tag == wanted {
            found.push(content);
        }
        bytes = rest;
    }
    found
}

/// The common names of a subject, which is given without its outermost tag.
#[must_use]
pub fn common_names(subject: &[u8]) -> Vec<&str> {
    let attributes = elements(subject, SET)
        .into_iter()
        .flat_map(|set| elements(set, SEQUENCE));
    attributes
        .filter_map(|attribute| {
            let (tag, kind, rest) = element(attribute)?;
            if tag != OBJECT_IDENTIFIER || kind != COMMON_NAME {
                return None;
            }
            let (tag, text, rest) = element(rest)?;
            if !STRINGS.contains(&tag) || !rest.is_empty() {
                return None;
            }
            std::str::from_utf8(text).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{common_names, names};
    use proptest::prelude::{any, prop, proptest};
    use rustls::pki_types::CertificateDer;

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn attribute(kind: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        let kind = tagged(0x06, kind);
        tagged(0x31, &tagged(0x30, &[kind, tagged(tag, text)].concat()))
    }

    #[test]
    fn common_names_are_found_among_others() {
        let subject = [
            attribute(&[0x55, 0x04, 0x0a], 0x0c, b"Example"),
            attribute(&[0x55, 0x04, 0x03], 0x0c, "agént".as_bytes()),
            attribute(&[0x55, 0x04, 0x03], 0x13, b"second"),
            attribute(&[0x55, 0x04, 0x03], 0x1e, b"\0B\0M\0P"),
            attribute(&[0x55, 0x04, 0x03], 0x0c, b"\xff"),
        ]
        .concat();
        assert_eq!(common_names(&subject), ["agént", "second"]);
        for length in 0..subject.len() {
            let cut = subject.get(..length).unwrap();
            assert!(common_names(cut).len() <= 2);
        }
        assert!(names(&CertificateDer::from(subject)).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_have_names_or_not(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = common_names(&bytes);
            let _ = names(&CertificateDer::from(bytes));
        }
    }
}
