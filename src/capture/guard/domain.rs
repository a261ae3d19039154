//! The guard's hold of a domain of libvirt: it freezes and thaws by the guest agent that libvirt has, and ends the backup job.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::capture::directory::Directory;
use crate::capture::virsh::Virsh;
use crate::capture::virsh::job::Job;
use crate::error::{ErrorKind, Result};

/// Pause between attempts to thaw.
const PAUSE: Duration = Duration::from_millis(500);

/// A domain.
pub(super) struct Domain {
    virsh: Virsh,
    domain: String,
    directory: Directory,
}

impl Domain {
    /// Holds a domain, and the directory of its backup.
    ///
    /// # Errors
    /// As [`Virsh::new`], [`Directory::hold`].
    pub(super) fn open(uri: &str, domain: String, directory: &Path) -> Result<Self> {
        Ok(Self {
            virsh: Virsh::new(uri)?,
            domain,
            directory: Directory::hold(directory)?,
        })
    }

    /// Freezes the guest's filesystems. Libvirt waits for an agent without a limit: after a failure the guest may still freeze.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub(super) fn freeze(&self, patience: Duration) -> Result<()> {
        let arguments = ["domfsfreeze", "--domain", &self.domain];
        self.virsh.call_within(&arguments, patience).map(drop)
    }

    /// Thaws the guest's filesystems. A domain that does not run has none.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub(super) fn thaw(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let arguments = ["domfsthaw", "--domain", &self.domain];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.virsh.call_within(&arguments, left) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                // It waits for the agent to end what it was asked before, or for libvirt to start again.
                Err(e)
                    if matches!(e.kind(), ErrorKind::Busy | ErrorKind::Disconnected)
                        && Instant::now() + PAUSE < deadline =>
                {
                    std::thread::sleep(PAUSE);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends the backup job, and removes the directory.
    ///
    /// # Errors
    /// As [`Job::abort`], [`Directory::remove`].
    pub(super) fn end(&self) -> Result<()> {
        let path = self.directory.path();
        let aborted = Job::abort(&self.virsh, &self.domain, path);
        aborted.map(drop).and(self.directory.remove())
    }
}
