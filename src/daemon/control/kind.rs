//! Names of error kinds on the control socket.

use crate::error::ErrorKind;

/// All kinds with their names; [`name`] is exhaustive, so that a new kind cannot be forgotten.
const ALL: [ErrorKind; 25] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::InvalidInput,
    ErrorKind::NameTooLong,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::NotEmpty,
    ErrorKind::Corrupt,
    ErrorKind::Unsupported,
    ErrorKind::Io,
    ErrorKind::Busy,
    ErrorKind::Locked,
    ErrorKind::NoRepository,
    ErrorKind::ReadOnly,
    ErrorKind::NoSpace,
    ErrorKind::Stale,
    ErrorKind::PermissionDenied,
    ErrorKind::NotPermitted,
    ErrorKind::TooLarge,
    ErrorKind::NoData,
    ErrorKind::LimitExceeded,
    ErrorKind::Disconnected,
    ErrorKind::TimedOut,
    ErrorKind::Cancelled,
    ErrorKind::PolicyNotMet,
];

/// The name of a kind.
pub(super) const fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not-found",
        ErrorKind::AlreadyExists => "already-exists",
        ErrorKind::InvalidInput => "invalid-input",
        ErrorKind::NameTooLong => "name-too-long",
        ErrorKind::NotADirectory => "not-a-directory",
        ErrorKind::IsADirectory => "is-a-directory",
        ErrorKind::NotEmpty => "not-empty",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Io => "io",
        ErrorKind::Busy => "busy",
        ErrorKind::Locked => "locked",
        ErrorKind::NoRepository => "no-repository",
        ErrorKind::ReadOnly => "read-only",
        ErrorKind::NoSpace => "no-space",
        ErrorKind::Stale => "stale",
        ErrorKind::PermissionDenied => "permission-denied",
        ErrorKind::NotPermitted => "not-permitted",
        ErrorKind::TooLarge => "too-large",
        ErrorKind::NoData => "no-data",
        ErrorKind::LimitExceeded => "limit-exceeded",
        ErrorKind::Disconnected => "disconnected",
        ErrorKind::TimedOut => "timed-out",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::PolicyNotMet => "policy-not-met",
    }
}

/// The kind of that name; `Io` for a name of another release.
pub(super) fn parse(text: &str) -> ErrorKind {
    ALL.into_iter()
        .find(|kind| name(*kind) == text)
        .unwrap_or(ErrorKind::Io)
}

#[cfg(test)]
mod tests {
    use super::{ALL, name, parse};

    #[test]
    fn names_round_trip() {
        for kind in ALL {
            assert_eq!(parse(name(kind)), kind);
        }
    }
}
