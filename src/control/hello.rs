//! The first request on a connection: which repository a command means, and whether both sides are
//! of the same release.
//!
//! # Why
//! A copied repository has the original's id, and its lock may name the original's daemon. An
//! operation on one must never be executed on the other.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::repo::lock::Site;

/// The number of this protocol; another release has another number.
const PROTOCOL: u32 = 4;

/// The first request of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol.
    pub protocol: u32,
    /// The release, for people.
    pub release: String,
    /// The repository that the command means.
    pub site: Site,
}

/// The daemon's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The release, for people.
    pub release: String,
    /// Process id.
    pub pid: u32,
    /// Whether the daemon serves that repository. If not, it answers no further request.
    pub is_served: bool,
}

impl Hello {
    /// The request for this release.
    #[must_use]
    pub fn new(site: Site) -> Self {
        Self {
            protocol: PROTOCOL,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            site,
        }
    }

    /// The answer of a daemon whose repository is at `site`.
    ///
    /// # Errors
    /// `Unsupported` when the command is of a release with another protocol.
    pub(super) fn answer(&self, site: Option<Site>) -> Result<Welcome> {
        if self.protocol != PROTOCOL {
            return Err(another_release(&format!("release {}", self.release)));
        }
        Ok(Welcome {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            is_served: site == Some(self.site),
        })
    }
}

/// The error for a command that does not first name its repository.
pub(super) fn another_release(whose: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the command ({whose}) and the daemon (release {}, pid {}) are of different releases",
            env!("CARGO_PKG_VERSION"),
            std::process::id()
        ),
    )
    .advise("use one release for both: restart the daemon after an update")
}

#[cfg(test)]
mod tests {
    use super::Hello;
    use crate::error::ErrorKind;
    use crate::repo::lock::Site;
    use crate::store::Identity;

    const fn site(directory: u64, device: u64, lock: u64) -> Site {
        let directory = Identity {
            device,
            inode: directory,
        };
        let lock = Identity {
            device,
            inode: lock,
        };
        Site { directory, lock }
    }

    #[test]
    fn only_the_same_lock_in_the_same_directory_is_meant() {
        let ours = Some(site(2, 8, 3));
        let is_served = |message| Hello::new(message).answer(ours).unwrap().is_served;
        assert!(is_served(site(2, 8, 3)));
        assert!(!is_served(site(2, 8, 4)), "a copy");
        assert!(!is_served(site(2, 9, 3)), "a snapshot of the filesystem");
        assert!(!is_served(site(5, 8, 3)), "a hard link of the lock");
        assert!(!Hello::new(site(2, 8, 3)).answer(None).unwrap().is_served);
    }

    #[test]
    fn another_protocol_is_refused_naming_both_releases() {
        let mut hello = Hello::new(site(1, 1, 1));
        hello.protocol += 1;
        hello.release = "9.9".to_owned();
        let error = hello.answer(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let message = error.report();
        assert!(
            message.contains("release 9.9") && message.contains(env!("CARGO_PKG_VERSION")),
            "{message}"
        );
    }
}
