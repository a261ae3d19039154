//! Users and groups of this machine by their names, as the name service has them (nsswitch.conf).
#![expect(unsafe_code, reason = "getpwnam_r and getgrnam_r have no safe wrapper")]

use std::ffi::{CStr, CString};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of the first buffer for an entry.
const BUFFER_BYTES: usize = 4096;

/// LIMIT: bytes of an entry; a group with many members has a long one.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// The id of a user; `None` when there is no user of that name. The call may ask a server.
///
/// # Errors
/// `InvalidInput` for a zero byte in the name; `LimitExceeded`, `Io`.
pub fn user_id(name: &str) -> Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: the name ends with a zero byte, the buffer's length is its own, and all pointers are valid
        // for the whole call.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: the pointer is null, or points to `entry`, which the call has then initialised.
        (code, unsafe { found.as_ref() }.map(|entry| entry.pw_uid))
    })
}

/// The id of a group; `None` when there is no group of that name. The call may ask a server.
///
/// # Errors
/// As [`user_id`].
pub fn group_id(name: &str) -> Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = std::ptr::null_mut();
        // SAFETY: the name ends with a zero byte, the buffer's length is its own, and all pointers are valid
        // for the whole call.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: the pointer is null, or points to `entry`, which the call has then initialised.
        (code, unsafe { found.as_ref() }.map(|entry| entry.gr_gid))
    })
}

/// Calls `ask` with larger and larger buffers, until the entry fits.
fn look_up(
    name: &str,
    ask: impl Fn(&CStr, &mut [libc::c_char]) -> (libc::c_int, Option<u32>),
) -> Result<Option<u32>> {
    let name = CString::new(name)
        .map_err(|e| Error::invalid("the name of an account has a zero byte in it").caused_by(e))?;
    let mut buffer: Vec<libc::c_char> = vec![0; BUFFER_BYTES];
    loop {
        match ask(&name, &mut buffer) {
            (0, found) => return Ok(found),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if buffer.len() < BUFFER_BYTES_MAX => {
                buffer.resize(buffer.len() * 4, 0);
            }
            (libc::ERANGE, _) => {
                let what = "the entry of an account is too long";
                return Err(Error::new(ErrorKind::LimitExceeded, what));
            }
            // getpwnam_r(3): values with which a name service answers that there is no such name.
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (code, _) => {
                let source = std::io::Error::from_raw_os_error(code);
                return Err(Error::io("cannot ask for an account", source));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{group_id, user_id};
    use crate::error::ErrorKind;

    #[test]
    fn accounts_have_the_ids_of_the_name_service() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(group_id("root").unwrap(), Some(0));
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            assert_eq!(
                user_id(fields[0]).unwrap(),
                fields[2].parse().ok(),
                "{line}"
            );
        }
        for missing in ["", "no-such-account-here"] {
            assert_eq!(user_id(missing).unwrap(), None);
            assert_eq!(group_id(missing).unwrap(), None);
        }
        let error = user_id("a\0b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
