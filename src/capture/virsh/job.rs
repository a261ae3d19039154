//! The backup job of a domain, of which there is one at a time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roxmltree::Document;

use super::Virsh;
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: time until an aborted job is gone. An abort is asynchronous.
const ABORT_TIMEOUT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

/// A backup job that runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The Unix socket of its NBD server; `None` for a job without one.
    pub socket: Option<PathBuf>,
}

/// Whose backup job it is.
fn parse(xml: &str) -> Job {
    let socket = Document::parse(xml).ok().and_then(|document| {
        let mut nodes = document.root_element().children();
        let server = nodes.find(|node| node.has_tag_name("server"))?;
        server.attribute("socket").map(PathBuf::from)
    });
    Job { socket }
}

impl Job {
    /// The backup job of a domain, if it has one.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub fn of(virsh: &Virsh, domain: &str) -> Result<Option<Self>> {
        match virsh.call_lasting(&["backup-dumpxml", "--domain", domain]) {
            Ok(xml) => Ok(Some(parse(&xml))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the job's socket is below a directory.
    #[must_use]
    pub fn is_below(&self, directory: &Path) -> bool {
        let socket = self.socket.as_ref();
        socket.is_some_and(|socket| socket.starts_with(directory))
    }

    /// Aborts the job if its socket is below a directory, and waits until it is gone. Returns whether there was one.
    ///
    /// # Errors
    /// `TimedOut`; as [`Virsh::call`].
    pub fn abort(virsh: &Virsh, domain: &str, directory: &Path) -> Result<bool> {
        let begun = Instant::now();
        let mut was_there = false;
        while let Some(job) = Self::of(virsh, domain)?
            && job.is_below(directory)
        {
            if begun.elapsed() > ABORT_TIMEOUT {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "libvirt does not end the backup job that it was asked to abort",
                ));
            }
            if !was_there {
                match virsh.call_lasting(&["domjobabort", "--domain", domain]) {
                    // It has ended meanwhile, or an earlier abort is under way.
                    Err(e)
                        if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) =>
                    {
                        return Err(e);
                    }
                    _ => was_there = true,
                }
            }
            std::thread::sleep(PAUSE);
        }
        Ok(was_there)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::parse;

    #[test]
    fn a_job_is_known_by_its_socket() {
        let ours = parse(
            "<domainbackup mode='pull'><server transport='unix' socket='/s/restorefs-1/s/nbd'/><disks/></domainbackup>",
        );
        assert!(ours.is_below(Path::new("/s/restorefs-1")));
        assert!(!ours.is_below(Path::new("/s/restorefs-11")));
        for other in [
            "<domainbackup mode='push'><disks/></domainbackup>",
            "<domainbackup mode='pull'><server name='localhost' port='10809'/></domainbackup>",
            "nonsense",
            "",
        ] {
            assert_eq!(parse(other).socket, None, "{other}");
        }
    }
}
