//! Exit codes.

use crate::error::{Error, ErrorKind};

/// The exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The command failed.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Damage was found.
    Damage = 3,
    /// A policy is not met.
    Policy = 4,
    /// There is no repository.
    NoRepository = 10,
    /// Another process has the lock.
    Locked = 11,
}

impl Code {
    /// The code of an error. Exhaustive on purpose.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput | ErrorKind::NameTooLong => Self::Usage,
            ErrorKind::Corrupt => Self::Damage,
            ErrorKind::PolicyNotMet => Self::Policy,
            ErrorKind::NoRepository => Self::NoRepository,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::Unsupported
            | ErrorKind::Io
            | ErrorKind::Busy
            | ErrorKind::ReadOnly
            | ErrorKind::NoSpace
            | ErrorKind::Stale
            | ErrorKind::PermissionDenied
            | ErrorKind::NotPermitted
            | ErrorKind::TooLarge
            | ErrorKind::NoData
            | ErrorKind::LimitExceeded
            | ErrorKind::Disconnected
            | ErrorKind::TimedOut
            | ErrorKind::Cancelled => Self::Error,
        }
    }

    /// The code of a result.
    #[must_use]
    pub fn of_result(result: &Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(e) => Self::of(e.kind()),
        }
    }
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
