//! The immutable flag of files (`chattr +i`): set on committed layers where possible, but never required.

use std::fs::File;

use rustix::fs::IFlags;

use super::refuse::{self, Call};
use crate::error::{Error, ErrorKind, Result};

fn failed(what: &'static str, error: std::io::Error) -> Error {
    let unsupported = matches!(
        error.raw_os_error(),
        Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
    );
    let error = Error::io(what, error);
    if unsupported {
        error.with_kind(ErrorKind::Unsupported)
    } else {
        error
    }
}

/// Whether the flag is set.
///
/// # Errors
/// `Unsupported` where the filesystem has no such flags, `Io`.
pub fn get(file: &File) -> Result<bool> {
    let what = "cannot read the file's flags";
    refuse::check(Call::Immutable).map_err(|e| failed(what, e))?;
    rustix::fs::ioctl_getflags(file)
        .map(|flags| flags.contains(IFlags::IMMUTABLE))
        .map_err(|e| failed(what, e.into()))
}

/// Sets or clears the flag and reads it back: some filesystems accept the call and ignore it.
///
/// # Errors
/// `Unsupported` where the filesystem has no such flag; `PermissionDenied` without `CAP_LINUX_IMMUTABLE`; `Io`.
pub fn set(file: &File, on: bool) -> Result<()> {
    let what = "cannot change the file's immutable flag";
    refuse::check(Call::Immutable).map_err(|e| failed(what, e))?;
    let mut flags = rustix::fs::ioctl_getflags(file).map_err(|e| failed(what, e.into()))?;
    if flags.contains(IFlags::IMMUTABLE) == on {
        return Ok(());
    }
    flags.set(IFlags::IMMUTABLE, on);
    rustix::fs::ioctl_setflags(file, flags).map_err(|e| match e {
        rustix::io::Errno::PERM => Error::io(what, e.into()).with_kind(ErrorKind::PermissionDenied),
        e => failed(what, e.into()),
    })?;
    if get(file)? == on {
        Ok(())
    } else {
        Err(Error::unsupported(
            "the filesystem took the immutable flag but did not keep it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{get, set};
    use crate::error::ErrorKind;

    #[test]
    fn the_flag_holds_or_is_said_to_be_missing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        let file = std::fs::File::create(&path).unwrap();
        match set(&file, true) {
            Ok(()) => {
                assert!(get(&file).unwrap());
                assert!(std::fs::remove_file(&path).is_err());
                set(&file, false).unwrap();
                std::fs::remove_file(&path).unwrap();
            }
            Err(error) => assert!(matches!(
                error.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            )),
        }
    }
}
