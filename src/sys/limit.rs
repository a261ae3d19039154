//! Resource limits of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, Result};

/// Raises the soft limit of open files to the hard limit (layers stay open). Returns the new limit;
/// `u64::MAX` stands for no limit.
///
/// # Errors
/// `Io`, `PermissionDenied`.
pub fn raise_open_files() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised)
            .map_err(|e| Error::io("cannot raise the limit of open files", e.into()))?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// The limit of open files of this process; `u64::MAX` for no limit.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::raise_open_files;

    #[test]
    fn raising_twice_is_the_same() {
        assert_eq!(raise_open_files().unwrap(), raise_open_files().unwrap());
    }
}
