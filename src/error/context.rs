//! The context of an [`Error`]: where it happened and what to do. Callers add it on the way up.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Place, evidence and advice; every field is optional and the lowest layer to set one wins.
#[derive(Debug, Default, Clone)]
pub struct Context {
    /// File, export or object.
    pub path: Option<PathBuf>,
    /// Byte offset within `path`.
    pub offset: Option<u64>,
    /// What the bytes should have been.
    pub expected: Option<String>,
    /// What the bytes were.
    pub found: Option<String>,
    /// What the user can do.
    pub advice: Option<Cow<'static, str>>,
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(expected), Some(found)) = (&self.expected, &self.found) {
            write!(f, ": expected {expected}, found {found}")?;
        }
        match (&self.path, self.offset) {
            (Some(path), Some(offset)) => write!(f, " ({}, offset {offset})", path.display())?,
            (Some(path), None) => write!(f, " ({})", path.display())?,
            (None, Some(offset)) => write!(f, " (offset {offset})")?,
            (None, None) => {}
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

/// Adds place and meaning to the errors of a `Result`.
pub trait ResultExt<T> {
    /// Wraps an error in one whose message is `what`. The kind stays; a system error gets its kind.
    ///
    /// # Errors
    /// The wrapped error, when `self` is one.
    fn or_io(self, what: impl Into<Cow<'static, str>>) -> Result<T>;
    /// Names the file, export or object.
    ///
    /// # Errors
    /// The same error with its place.
    fn at_path(self, path: impl AsRef<Path>) -> Result<T>
    where
        Self: Sized;
    /// Names the byte offset.
    ///
    /// # Errors
    /// The same error with its place.
    fn at_offset(self, offset: u64) -> Result<T>
    where
        Self: Sized;
}

impl<T> ResultExt<T> for Result<T, std::io::Error> {
    fn or_io(self, what: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|source| Error::io(what, source))
    }
    fn at_path(self, path: impl AsRef<Path>) -> Result<T> {
        self.or_io("system error").at_path(path)
    }
    fn at_offset(self, offset: u64) -> Result<T> {
        self.or_io("system error").at_offset(offset)
    }
}

impl<T> ResultExt<T> for Result<T, Error> {
    fn or_io(self, what: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|source| Error::new(source.kind(), what).caused_by(source))
    }
    fn at_path(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| error.at_path(path))
    }
    fn at_offset(self, offset: u64) -> Result<T> {
        self.map_err(|error| error.at_offset(offset))
    }
}
