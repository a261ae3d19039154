//! The names of what backups make in a hypervisor, by which a later backup recognises it.

use crate::types::{RepositoryId, SessionId};

/// The begin of the names of directories of a backup, of all repositories.
pub(super) const DIRECTORY_PREFIX: &str = "restorefs-";

/// The begin of change ids of machines that were shut off.
const SHUT_OFF: &str = "shut-off-";

/// The begin of change ids of disks whose changes nothing tracks.
const UNTRACKED: &str = "untracked-";

/// The names of what is ours in a QEMU, and in libvirt.
#[derive(Debug, Clone)]
pub(super) struct Names {
    short: String,
}

impl Names {
    /// The names for backups to a repository.
    #[must_use]
    pub(super) fn of(repository: &RepositoryId) -> Self {
        let id = repository.to_string().replace('-', "");
        Self {
            short: id.chars().take(8).collect(),
        }
    }

    /// The begin of all our names but those of bitmaps that stay. QEMU allows 31 bytes for the name of a node.
    #[must_use]
    pub(super) fn prefix(&self) -> String {
        format!("rfs-{}-", self.short)
    }

    /// The name of a node, an export or a job of the disk of that number, for a session: what another backup makes has other names, so
    /// that it is never taken for this one's.
    #[must_use]
    pub(super) fn of_disk(&self, session: SessionId, disk: usize, what: &str) -> String {
        let session: String = session.to_string().chars().take(6).collect();
        format!("rfs-{}-{session}-{disk}-{what}", self.short)
    }

    /// The frozen copy of a bitmap, which an export shows.
    #[must_use]
    pub(super) fn copy(&self) -> String {
        format!("rfs-{}-changes", self.short)
    }

    /// The begin of the names of bitmaps that record changes.
    #[must_use]
    pub(super) fn recording(&self) -> String {
        format!("restorefs-{}-", self.short)
    }

    /// The bitmap that begins with a session, which is the change id of its point.
    #[must_use]
    pub(super) fn bitmap(&self, session: SessionId) -> String {
        format!("restorefs-{}-{session}", self.short)
    }

    /// The change id of a point of a machine that was shut off: no bitmap begins there.
    #[must_use]
    pub(super) fn shut_off(session: SessionId) -> String {
        format!("{SHUT_OFF}{session}")
    }

    /// The change id of a disk whose changes nothing tracks. It tells the next backup that the disk has a parent all the same.
    #[must_use]
    pub(super) fn untracked(session: SessionId) -> String {
        format!("{UNTRACKED}{session}")
    }

    /// Whether nothing tracked the changes since a change id.
    #[must_use]
    pub(super) fn is_untracked(change_id: &str) -> bool {
        change_id.starts_with(UNTRACKED)
    }

    /// Whether a change id is one of a machine that was shut off.
    #[must_use]
    pub(super) fn is_shut_off(change_id: &str) -> bool {
        change_id.starts_with(SHUT_OFF)
    }

    /// The directory of what QEMU writes for a session.
    #[must_use]
    pub(super) fn directory(&self, session: SessionId) -> String {
        self.bitmap(session)
    }
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::types::{RepositoryId, SessionId};

    #[test]
    fn names_fit() {
        let names = Names::of(&RepositoryId::random());
        let [one, other] = [SessionId::random(), SessionId::random()];
        assert!(names.of_disk(one, 255, "scratch").len() <= 31);
        assert!(names.of_disk(one, 255, "file").starts_with(&names.prefix()));
        assert_ne!(
            names.of_disk(one, 0, "export"),
            names.of_disk(other, 0, "export")
        );
        assert!(names.copy().starts_with(&names.prefix()));
    }
}
