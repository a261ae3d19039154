//! The table of mounts, from `/proc/self/mountinfo` (proc(5)).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, ResultExt};
use crate::sys::mounts::unescape;

/// Type of restorefs's mounts in mountinfo.
pub(super) const TYPE: &str = "fuse.restorefs";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// The mount's id, as in `mnt_id` of a descriptor.
    pub(super) id: u64,
    /// `fuse.restorefs`, `ext4`, ...
    pub(super) kind: String,
    /// major:minor.
    pub(super) device: String,
    /// The mountpoint.
    pub(super) mountpoint: PathBuf,
    /// The source; for restorefs's mounts the repository. The mounting user can write any text here.
    pub(super) source: PathBuf,
    /// For a FUSE mount: the user who mounted it, as recorded by the kernel.
    pub(super) user: Option<u32>,
}

impl MountEntry {
    /// Whether the mount can be expected to answer: it is not a FUSE mount, or root or one of these users
    /// mounted it.
    pub(super) fn is_trusted(&self, users: &[u32]) -> bool {
        let is_fuse =
            self.kind == "fuse" || self.kind == "fuseblk" || self.kind.starts_with("fuse.");
        let is_known = |user: u32| user == 0 || users.contains(&user);
        !is_fuse || self.user.is_some_and(is_known)
    }
}

/// All mounts, the latest last.
///
/// # Errors
/// `Io`.
pub(super) fn all() -> Result<Vec<MountEntry>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").or_io("cannot read the mounts")?;
    Ok(parse(&text))
}

/// The mounts at exactly this path, the topmost last.
///
/// # Errors
/// `Io`.
pub(super) fn at(path: &Path) -> Result<Vec<MountEntry>> {
    let mut entries = all()?;
    entries.retain(|entry| entry.mountpoint == path);
    Ok(entries)
}

/// The mount that a descriptor is in.
pub(super) fn mount_id(descriptor: &OwnedFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = std::fs::read_to_string(path).or_io("cannot read the mount of a descriptor")?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| Error::unsupported("the kernel does not report the mount of a descriptor"))
}

/// The users whose mounts this process accepts as restorefs's own.
pub(super) fn trusted(owner: Option<u32>) -> Vec<u32> {
    let own = rustix::process::geteuid().as_raw();
    owner.into_iter().chain([own]).collect()
}

/// Field 1 is the id, 3 the device, 5 the mountpoint; after the lone hyphen come type, source and the filesystem's own options.
fn parse(mountinfo: &str) -> Vec<MountEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let device = fields.nth(1)?.to_owned();
        let mountpoint = unescape(fields.nth(1)?);
        let (_, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        let options = after.next().unwrap_or_default();
        let user = options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id="));
        Some(MountEntry {
            id,
            kind: kind.to_owned(),
            device,
            mountpoint,
            source: unescape(source),
            user: user.and_then(|user| user.parse().ok()),
        })
    };
    mountinfo.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::path::Path;

    #[test]
    fn lines_are_understood() {
        let text = "36 35 0:98 / /mnt/a\\040b ro,nosuid - fuse.restorefs /srv/my\\040repo ro\n\
                    37 35 8:1 / /mnt rw shared:1 - ext4 /dev/sda1 rw\n\
                    38 37 0:99 / /mnt ro - fuse.restorefs restorefs ro,user_id=1000,group_id=1000\n\
                    nonsense\n";
        let entries = parse(text);
        let kinds = |path: &str| -> Vec<&str> {
            let at = entries.iter().filter(|e| e.mountpoint == Path::new(path));
            at.map(|entry| entry.kind.as_str()).collect()
        };
        assert_eq!(kinds("/mnt/a b"), ["fuse.restorefs"]);
        assert_eq!(kinds("/mnt"), ["ext4", "fuse.restorefs"]);
        assert!(kinds("/mn").is_empty());
        assert_eq!(entries[0].source, Path::new("/srv/my repo"));
        assert_eq!(entries[2].device, "0:99");
        assert_eq!((entries[2].id, entries[2].user), (38, Some(1000)));
        // A mount of an ordinary user, and one without a user.
        assert!(!entries[2].is_trusted(&[33]) && entries[2].is_trusted(&[1000]));
        assert!(!entries[0].is_trusted(&[1000]) && entries[1].is_trusted(&[]));
        assert_eq!(entries.len(), 3);
    }
}
