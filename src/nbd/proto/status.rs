//! The protocol's error numbers, and the error kinds that they correspond to.

use crate::error::ErrorKind;

/// An error of the transmission phase (proto.md, "Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Not permitted.
    Eperm = 1,
    /// Input or output failed.
    Eio = 5,
    /// Out of memory.
    Enomem = 12,
    /// The request is invalid.
    Einval = 22,
    /// No space left.
    Enospc = 28,
    /// The answer does not fit one chunk (DF).
    Eoverflow = 75,
    /// Not supported (FAST_ZERO: it would be slow).
    Enotsup = 95,
    /// The server is shutting down.
    Eshutdown = 108,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Eperm => 1,
            Self::Eio => 5,
            Self::Enomem => 12,
            Self::Einval => 22,
            Self::Enospc => 28,
            Self::Eoverflow => 75,
            Self::Enotsup => 95,
            Self::Eshutdown => 108,
        }
    }

    /// The error of that number. Unknown numbers become EINVAL, as proto.md requires of clients.
    #[must_use]
    pub const fn of_code(code: u32) -> Self {
        match code {
            1 => Self::Eperm,
            5 => Self::Eio,
            12 => Self::Enomem,
            28 => Self::Enospc,
            75 => Self::Eoverflow,
            95 => Self::Enotsup,
            108 => Self::Eshutdown,
            _ => Self::Einval,
        }
    }

    /// The error number that answers an error of this program. Exhaustive on purpose.
    #[must_use]
    pub const fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::NameTooLong
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::TooLarge
            | ErrorKind::NoData => Self::Einval,
            ErrorKind::Corrupt
            | ErrorKind::Io
            | ErrorKind::NoRepository
            | ErrorKind::TimedOut
            | ErrorKind::Disconnected => Self::Eio,
            ErrorKind::Unsupported => Self::Enotsup,
            ErrorKind::ReadOnly
            | ErrorKind::PermissionDenied
            | ErrorKind::NotPermitted
            | ErrorKind::Busy
            | ErrorKind::Locked
            | ErrorKind::PolicyNotMet => Self::Eperm,
            ErrorKind::NoSpace => Self::Enospc,
            ErrorKind::LimitExceeded => Self::Enomem,
            ErrorKind::Stale | ErrorKind::Cancelled => Self::Eshutdown,
        }
    }

    /// The error kind that a server's error corresponds to.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Eperm => ErrorKind::PermissionDenied,
            Self::Eio => ErrorKind::Io,
            Self::Enomem | Self::Eoverflow => ErrorKind::LimitExceeded,
            Self::Einval => ErrorKind::InvalidInput,
            Self::Enospc => ErrorKind::NoSpace,
            Self::Enotsup => ErrorKind::Unsupported,
            Self::Eshutdown => ErrorKind::Disconnected,
        }
    }

    /// The symbolic name of the error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eperm => "EPERM",
            Self::Eio => "EIO",
            Self::Enomem => "ENOMEM",
            Self::Einval => "EINVAL",
            Self::Enospc => "ENOSPC",
            Self::Eoverflow => "EOVERFLOW",
            Self::Enotsup => "ENOTSUP",
            Self::Eshutdown => "ESHUTDOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn codes_round_trip_and_strange_ones_are_invalid() {
        for code in [1, 5, 12, 22, 28, 75, 95, 108] {
            assert_eq!(Status::of_code(code).code(), code);
        }
        assert_eq!(Status::of_code(0x1000), Status::Einval);
    }
}
