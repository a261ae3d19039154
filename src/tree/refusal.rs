//! Refusals that several operations of the tree share.

use crate::error::{Error, ErrorKind};

/// The node is gone.
pub(super) fn stale() -> Error {
    Error::new(ErrorKind::Stale, "what this handle named is gone")
}

/// A directory is needed.
pub(super) fn no_directory() -> Error {
    Error::new(ErrorKind::NotADirectory, "not a directory")
}

/// No node has that name.
pub(super) fn absent() -> Error {
    Error::not_found("no such file or directory")
}

/// The tree does not allow an operation; `what` explains why.
pub(super) fn not_permitted(what: &'static str) -> Error {
    Error::new(ErrorKind::NotPermitted, what)
}

/// A committed point cannot change.
pub(super) fn read_only() -> Error {
    Error::new(
        ErrorKind::ReadOnly,
        "what has been committed does not change",
    )
}

/// A directory has no content.
pub(super) fn directory() -> Error {
    Error::new(ErrorKind::IsADirectory, "it is a directory")
}
