//! Kinds of error: what callers branch on and what the edges translate.

use std::io;

/// The kind of a failure. The enum is exhaustive on purpose; the documentation of [`crate::error`]
/// gives the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// The VM, point, disk or file does not exist.
    NotFound,
    /// The item exists already and must not be replaced.
    AlreadyExists,
    /// The request is invalid.
    InvalidInput,
    /// A name is longer than allowed.
    NameTooLong,
    /// A directory was needed.
    NotADirectory,
    /// Something other than a directory was needed.
    IsADirectory,
    /// A directory is not empty, but has to be.
    NotEmpty,
    /// Stored bytes are wrong: damage.
    Corrupt,
    /// Stored bytes are well-formed but use a feature that is not implemented.
    Unsupported,
    /// The system could not read or write.
    Io,
    /// Another operation uses the item; trying later may help.
    Busy,
    /// The repository has another writer.
    Locked,
    /// There is no repository there.
    NoRepository,
    /// The item can never be written.
    ReadOnly,
    /// No space is left (filesystem or quota).
    NoSpace,
    /// The item behind a handle has been replaced or is gone.
    Stale,
    /// This caller may not do it.
    PermissionDenied,
    /// No caller may do it: the operation is not supported here.
    NotPermitted,
    /// A size exceeds the possible maximum.
    TooLarge,
    /// The attribute does not exist, or there is no data at that place.
    NoData,
    /// One of our limits was reached (depth, count, size, memory).
    LimitExceeded,
    /// The peer is gone or broke the protocol.
    Disconnected,
    /// The operation took too long.
    TimedOut,
    /// The operation was stopped on request.
    Cancelled,
    /// A configured policy is not met.
    PolicyNotMet,
}

impl ErrorKind {
    /// The kind that a system error corresponds to.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EROFS) => return Self::ReadOnly,
            Some(libc::ENOSPC | libc::EDQUOT) => return Self::NoSpace,
            Some(libc::ESTALE) => return Self::Stale,
            Some(libc::EBUSY | libc::ETXTBSY) => return Self::Busy,
            Some(libc::ENAMETOOLONG) => return Self::NameTooLong,
            Some(libc::ENOTDIR) => return Self::NotADirectory,
            Some(libc::EISDIR) => return Self::IsADirectory,
            Some(libc::ENOTEMPTY) => return Self::NotEmpty,
            Some(libc::ENODATA) => return Self::NoData,
            Some(libc::EFBIG) => return Self::TooLarge,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Self::Unsupported,
            _ => {}
        }
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::InvalidInput => Self::InvalidInput,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::TimedOut => Self::TimedOut,
            // Errors without an error number, which a library created.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe => Self::Disconnected,
            _ => Self::Io,
        }
    }

    /// All kinds.
    pub const ALL: [Self; 25] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::InvalidInput,
        Self::NameTooLong,
        Self::NotADirectory,
        Self::IsADirectory,
        Self::NotEmpty,
        Self::Corrupt,
        Self::Unsupported,
        Self::Io,
        Self::Busy,
        Self::Locked,
        Self::NoRepository,
        Self::ReadOnly,
        Self::NoSpace,
        Self::Stale,
        Self::PermissionDenied,
        Self::NotPermitted,
        Self::TooLarge,
        Self::NoData,
        Self::LimitExceeded,
        Self::Disconnected,
        Self::TimedOut,
        Self::Cancelled,
        Self::PolicyNotMet,
    ];

    /// The kind's name for other processes: on the control socket, in URNs of HTTP errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::InvalidInput => "invalid-input",
            Self::NameTooLong => "name-too-long",
            Self::NotADirectory => "not-a-directory",
            Self::IsADirectory => "is-a-directory",
            Self::NotEmpty => "not-empty",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
            Self::Busy => "busy",
            Self::Locked => "locked",
            Self::NoRepository => "no-repository",
            Self::ReadOnly => "read-only",
            Self::NoSpace => "no-space",
            Self::Stale => "stale",
            Self::PermissionDenied => "permission-denied",
            Self::NotPermitted => "not-permitted",
            Self::TooLarge => "too-large",
            Self::NoData => "no-data",
            Self::LimitExceeded => "limit-exceeded",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::PolicyNotMet => "policy-not-met",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn of_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorKind;

    #[test]
    fn names_round_trip() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::of_name(kind.name()), Some(kind));
        }
    }
}
