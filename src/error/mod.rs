//! The one error type of the crate: a small kind for control flow, and a context for people.
//!
//! # Invariants
//! - [`ErrorKind`] is `Copy` and exhaustive: the four maps (errno, NBD error, HTTP status, exit
//!   code) match it without `_`, so a new kind does not compile until each edge has an answer.
//! - [`Error`]'s `Display` tells what failed, where, and what to do, and never repeats its source;
//!   callers print the chain with [`Error::report`].
//! - *Corrupt* (the bytes are wrong), *Unsupported* (the bytes are valid but not implemented) and
//!   *Io* (the bytes could not be read) are never mixed.

mod context;
mod kind;
mod problem;

pub use context::{Context, ResultExt};
pub use kind::ErrorKind;
pub use problem::Problem;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error: what failed, where, and what to do about it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: Cow<'static, str>,
    context: Context,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `what` describes the failure in one clause ("L1 table entry 3 is not
    /// aligned").
    pub fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            context: Context::default(),
            source: None,
        }))
    }

    /// An error about corrupt data: what was expected and what was found.
    pub fn corrupt(
        what: impl Into<Cow<'static, str>>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        let mut error = Self::new(ErrorKind::Corrupt, what);
        error.0.context.expected = Some(expected.to_string());
        error.0.context.found = Some(found.to_string());
        error
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, what)
    }

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, what)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// Wraps a system error; the kind follows from its `io::ErrorKind`.
    pub fn io(what: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::of_io(&source), what);
        error.0.source = Some(Box::new(source));
        error
    }

    /// The kind, for control flow.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The context gathered on the way up.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// The clause that describes the failure, without place or advice.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Keeps the message and context but changes the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Names the file, export or object, unless a lower layer has already named one.
    #[must_use]
    pub fn at_path(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.context.path.is_none() {
            self.0.context.path = Some(path.as_ref().to_path_buf());
        }
        self
    }

    /// Names the byte offset, unless a lower layer has already named one.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.context.offset.get_or_insert(offset);
        self
    }

    /// Adds advice: what the user can do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        if self.0.context.advice.is_none() {
            self.0.context.advice = Some(advice.into());
        }
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The message with its whole chain of causes, on one line.
    #[must_use]
    pub fn report(&self) -> String {
        match self.causes() {
            Some(causes) => format!("{self}: {causes}"),
            None => self.to_string(),
        }
    }

    /// The chain of causes, joined by `: `.
    fn causes(&self) -> Option<String> {
        let mut text = None;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = Some(match text {
                None => cause.to_string(),
                Some(before) => format!("{before}: {cause}"),
            });
            source = cause.source();
        }
        text
    }

    fn with_context(mut self, context: Context) -> Self {
        self.0.context = context;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        self.0.context.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind};

    #[test]
    fn display_says_what_where_and_advice_and_report_adds_the_cause() {
        let error = Error::io("cannot read", std::io::Error::other("disk on fire"))
            .at_path("/a")
            .at_path("/outer")
            .at_offset(512)
            .advise("call somebody");
        assert_eq!(
            error.to_string(),
            "cannot read (/a, offset 512); call somebody"
        );
        assert_eq!(
            error.report(),
            "cannot read (/a, offset 512); call somebody: disk on fire"
        );
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    #[test]
    fn corrupt_carries_expected_and_found() {
        let error = Error::corrupt("bad magic", "QFI\\xfb", "RIFF").at_offset(0);
        assert_eq!(
            error.to_string(),
            "bad magic: expected QFI\\xfb, found RIFF (offset 0)"
        );
    }

    #[test]
    fn system_errors_keep_their_meaning() {
        let error = Error::io("x", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let error = Error::io("x", std::io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let error = Error::io("x", std::io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = Error::io("x", std::io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(error.kind(), ErrorKind::Io);
    }
}
