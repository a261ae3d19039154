//! A test aid in the product: makes chosen system calls fail as on a simpler filesystem (NFS, SMB) or an
//! older kernel.
//!
//! The environment variable `RESTOREFS_REFUSE` lists them, separated by commas: `renameat2,reflink,link,flock,immutable,punch,openat2,
//! landlock,seccomp`. It is read once, at the first such call.

use std::io;
use std::sync::OnceLock;

use rustix::io::Errno;

/// Name of the environment variable.
pub const VARIABLE: &str = "RESTOREFS_REFUSE";

/// A call that can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// renameat2 with flags: EINVAL, as on NFS.
    Renameat2,
    /// FICLONERANGE: EOPNOTSUPP.
    Reflink,
    /// linkat: EPERM, as on filesystems without hard links.
    Link,
    /// flock: EOPNOTSUPP, as on filesystems without locks.
    Flock,
    /// FS_IOC_SETFLAGS: EOPNOTSUPP.
    Immutable,
    /// fallocate with flags, and SEEK_DATA: EOPNOTSUPP.
    Punch,
    /// openat2: ENOSYS, as on kernels before 5.6 and with some seccomp filters.
    Openat2,
    /// landlock_restrict_self: EOPNOTSUPP, as on kernels with landlock disabled.
    Landlock,
    /// seccomp: ENOSYS, as on kernels without it.
    Seccomp,
}

impl Call {
    const ALL: [Self; 9] = [
        Self::Renameat2,
        Self::Reflink,
        Self::Link,
        Self::Flock,
        Self::Immutable,
        Self::Punch,
        Self::Openat2,
        Self::Landlock,
        Self::Seccomp,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Renameat2 => "renameat2",
            Self::Reflink => "reflink",
            Self::Link => "link",
            Self::Flock => "flock",
            Self::Immutable => "immutable",
            Self::Punch => "punch",
            Self::Openat2 => "openat2",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    const fn answer(self) -> Errno {
        match self {
            Self::Renameat2 => Errno::INVAL,
            Self::Link => Errno::PERM,
            Self::Reflink | Self::Flock | Self::Immutable | Self::Punch | Self::Landlock => {
                Errno::OPNOTSUPP
            }
            Self::Openat2 | Self::Seccomp => Errno::NOSYS,
        }
    }
}

fn parse(list: &str) -> Vec<Call> {
    Call::ALL
        .into_iter()
        .filter(|call| list.split(',').any(|word| word.trim() == call.name()))
        .collect()
}

/// Fails as the simpler system would, when the variable lists the call; called before the real call.
///
/// # Errors
/// The errno of that call on such a system.
pub(super) fn check(call: Call) -> io::Result<()> {
    static REFUSED: OnceLock<Vec<Call>> = OnceLock::new();
    let refused = REFUSED.get_or_init(|| {
        std::env::var(VARIABLE)
            .map(|list| parse(&list))
            .unwrap_or_default()
    });
    if refused.contains(&call) {
        Err(call.answer().into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, VARIABLE, parse};

    #[test]
    fn the_list_is_read() {
        assert_eq!(
            parse("reflink, openat2,nonsense"),
            [Call::Reflink, Call::Openat2]
        );
        assert!(parse("").is_empty());
    }

    /// Runs the tests of the modules that use these calls again, in a process where all of them fail.
    #[test]
    fn everything_passes_on_a_poorer_filesystem() {
        if std::env::var_os(VARIABLE).is_some() {
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["sys::", "block::", "store::", "--test-threads=2"])
            .env(VARIABLE, "renameat2,reflink,immutable,punch,openat2")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
