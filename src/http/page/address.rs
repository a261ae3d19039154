//! Addresses of pages. Names of guests are bytes, which addresses carry percent-encoded.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::types::{PointName, RepositoryName, VmName};

/// What is written as itself in the value of a parameter.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Bytes as the value of a parameter.
pub(super) fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, PLAIN).to_string()
}

/// The page of a VM.
pub(super) fn vm(repository: &RepositoryName, vm: &VmName) -> String {
    format!("/r/{repository}/vms/{vm}")
}

/// The page of a restore point.
pub(super) fn point(repository: &RepositoryName, of: &VmName, point: &PointName) -> String {
    format!("{}/points/{point}", vm(repository, of))
}

/// A page of a restore point that takes a path: `files`, `download`, `preview`.
pub(super) fn below(point: &str, page: &str, path: &[u8]) -> String {
    format!("{point}/{page}?path={}", encode(path))
}

/// An address with one more parameter.
pub(super) fn with(address: &str, name: &str, value: &impl Display) -> String {
    let sign = if address.contains('?') { '&' } else { '?' };
    format!(
        "{address}{sign}{name}={}",
        encode(value.to_string().as_bytes())
    )
}

/// A path with one name more.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut whole = path.to_vec();
    while whole.last() == Some(&b'/') {
        whole.pop();
    }
    whole.push(b'/');
    whole.extend(name);
    whole
}

/// The path above; `None` above the point itself.
pub(super) fn above(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = names(path);
    names.pop()?;
    Some(rooted(&names))
}

/// The names of a path.
pub(super) fn names(path: &[u8]) -> Vec<&[u8]> {
    let parts = path.split(|byte| *byte == b'/');
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect()
}

/// The path of these names.
pub(super) fn rooted(names: &[&[u8]]) -> Vec<u8> {
    let mut path = vec![b'/'];
    path.extend(names.join(&b'/'));
    path
}

/// The address to which a login leads: one of this server's own pages, or the overview. What begins with two slashes, or has a
/// backslash, leads elsewhere in a browser.
pub(super) fn own(next: &str) -> &str {
    let is_own = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && next.bytes().all(|byte| byte.is_ascii_graphic());
    if is_own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::{above, below, encode, join, own, with};

    #[test]
    fn bytes_travel_percent_encoded() {
        assert_eq!(encode(b"/a +&\"\xff%"), "%2Fa%20%2B%26%22%FF%25");
        let address = below("/r/a/vms/b/points/c", "files", b"/files/\r\n");
        assert_eq!(address, "/r/a/vms/b/points/c/files?path=%2Ffiles%2F%0D%0A");
        assert_eq!(with("/x", "page", &2), "/x?page=2");
        assert_eq!(with("/x?a=b", "page", &2), "/x?a=b&page=2");
    }

    #[test]
    fn paths_grow_and_shrink_by_names() {
        assert_eq!(join(b"/files", b"etc"), b"/files/etc");
        assert_eq!(join(b"/", b"files"), b"/files");
        assert_eq!(above(b"/files/etc/"), Some(b"/files".to_vec()));
        assert_eq!(above(b"/files"), Some(b"/".to_vec()));
        assert_eq!(above(b"/"), None);
    }

    #[test]
    fn a_login_leads_nowhere_else() {
        assert_eq!(own("/r/a/vms/b?x=%2F"), "/r/a/vms/b?x=%2F");
        for bad in [
            "",
            "x",
            "//evil.example",
            "/\\evil",
            "https://evil.example/",
            "/a\r\nb",
            "/a b",
            "/\t/evil",
        ] {
            assert_eq!(own(bad), "/", "{bad:?}");
        }
    }
}
