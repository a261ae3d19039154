//! Translates kinds of errors to errno.

use fuser::Errno;

use crate::error::{Error, ErrorKind};

/// The errno of a kind. The match is exhaustive, so that a new kind does not compile without an errno.
pub(super) const fn of_kind(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoRepository => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::InvalidInput => Errno::EINVAL,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::NotEmpty => Errno::ENOTEMPTY,
        // ENOTCONN would look like a dead mount; here the store behind the mount is gone.
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Disconnected => Errno::EIO,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Busy | ErrorKind::Locked => Errno::EBUSY,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Stale => Errno::ESTALE,
        ErrorKind::PermissionDenied => Errno::EACCES,
        ErrorKind::NoData => Errno::ENODATA,
        ErrorKind::LimitExceeded => Errno::EOVERFLOW,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        ErrorKind::Cancelled => Errno::ECANCELED,
        ErrorKind::PolicyNotMet | ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::TooLarge => Errno::EFBIG,
    }
}

/// The errno of an error. Errors that indicate damage are logged, because the caller receives only the errno.
pub(super) fn of(error: &Error) -> Errno {
    let errno = match error.kind() {
        ErrorKind::NoSpace if is_quota(error) => Errno::EDQUOT,
        kind => of_kind(kind),
    };
    if errno.code() == Errno::EIO.code() {
        tracing::warn!(error = %error.report(), "a request failed");
    } else {
        tracing::debug!(error = %error.report(), "a request failed");
    }
    errno
}

/// Whether a quota was exceeded.
fn is_quota(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let system = cause.downcast_ref::<std::io::Error>();
        if system.and_then(std::io::Error::raw_os_error) == Some(libc::EDQUOT) {
            return true;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{of, of_kind};
    use crate::error::{Error, ErrorKind};

    #[test]
    fn a_quota_is_told_from_a_full_disk() {
        let errno = |number| {
            let system = std::io::Error::from_raw_os_error(number);
            of(&Error::new(ErrorKind::NoSpace, "outer").caused_by(Error::io("inner", system)))
                .code()
        };
        assert_eq!(errno(libc::EDQUOT), libc::EDQUOT);
        assert_eq!(errno(libc::ENOSPC), libc::ENOSPC);
    }

    #[test]
    fn damage_and_what_is_gone_are_told_apart() {
        assert_eq!(of_kind(ErrorKind::Corrupt).code(), libc::EIO);
        assert_eq!(of_kind(ErrorKind::Stale).code(), libc::ESTALE);
        assert_eq!(of_kind(ErrorKind::NoData).code(), libc::ENODATA);
        assert_eq!(of_kind(ErrorKind::ReadOnly).code(), libc::EROFS);
    }
}
