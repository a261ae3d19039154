//! A source as a restore uses it: it has only the chosen extended attributes, and every read error is marked
//! as damage, so that it cannot be mistaken for a refusal by the target.

use std::sync::Arc;

use super::Source;
use crate::block::{Extent, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::Xattr;
use crate::tree::{Attributes, Ino};
use crate::types::pattern;

/// Chooses extended attributes by patterns of names (`*` and `?` as in a shell). ACLs are attributes, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XattrChoice {
    /// Only these; when empty, `user.*` and POSIX ACLs, and all others where special files are restored.
    pub include: Vec<String>,
    /// None of these.
    pub exclude: Vec<String>,
}

impl XattrChoice {
    /// Whether an attribute is chosen.
    #[must_use]
    pub fn takes(&self, name: &[u8]) -> bool {
        let name = String::from_utf8_lossy(name);
        let fits = |patterns: &[String]| patterns.iter().any(|p| pattern::fits(p, &name));
        (self.include.is_empty() || fits(&self.include)) && !fits(&self.exclude)
    }
}

/// Whether an attribute is content of its file: attributes of users (`user.*`), and POSIX ACLs. Every other
/// attribute affects a system that uses the file, or has a meaning for one system only (xattr(7)):
/// capabilities, labels and measurements (`security.*`), state of overlayfs (`trusted.overlay.*`), storage
/// properties of a filesystem.
pub(super) fn is_plain(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// The source with the choice of attributes applied, and read errors marked as `Corrupt`.
pub(in crate::export) struct Taken<'a> {
    pub(in crate::export) source: &'a dyn Source,
    pub(in crate::export) xattrs: &'a XattrChoice,
}

/// Marks a read error as damage.
fn unreadable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Cancelled | ErrorKind::Corrupt => error,
        _ => error.with_kind(ErrorKind::Corrupt),
    }
}

struct Content(Arc<dyn ReadAt>);

impl ReadAt for Content {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf).map_err(unreadable)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.0.extent_at(offset, length_max).map_err(unreadable)
    }
}

impl Source for Taken<'_> {
    fn attributes(&self, ino: Ino) -> Result<Attributes> {
        self.source.attributes(ino).map_err(unreadable)
    }
    fn is_frame(&self, ino: Ino) -> bool {
        self.source.is_frame(ino)
    }
    fn entries(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
        self.source.entries(ino).map_err(unreadable)
    }
    fn link_target(&self, ino: Ino) -> Result<Vec<u8>> {
        self.source.link_target(ino).map_err(unreadable)
    }
    fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        let all = self.source.xattrs(ino).map_err(unreadable)?;
        if all.iter().all(|xattr| self.xattrs.takes(&xattr.name)) {
            return Ok(all);
        }
        let taken = all.iter().filter(|xattr| self.xattrs.takes(&xattr.name));
        Ok(taken.cloned().collect())
    }
    fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>> {
        let content = self.source.content(ino).map_err(unreadable)?;
        Ok(Arc::new(Content(content)))
    }
}

#[cfg(test)]
mod tests {
    use super::XattrChoice;

    #[test]
    fn what_is_included_and_not_excluded_is_taken() {
        let choice = |include: &[&str], exclude: &[&str]| XattrChoice {
            include: include.iter().map(|p| (*p).to_owned()).collect(),
            exclude: exclude.iter().map(|p| (*p).to_owned()).collect(),
        };
        assert!(choice(&[], &[]).takes(b"user.a"));
        assert!(!choice(&[], &["security.*"]).takes(b"security.selinux"));
        assert!(choice(&[], &["security.*"]).takes(b"user.security.x"));
        assert!(!choice(&["user.*"], &[]).takes(b"trusted.x"));
        assert!(!choice(&["user.*"], &["user.secret"]).takes(b"user.secret"));
        assert!(choice(&["user.*"], &["user.secret"]).takes(b"user.\xff"));
    }
}
