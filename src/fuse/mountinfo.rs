//! What is mounted, as `/proc/self/mountinfo` says (proc(5)).

use std::path::{Path, PathBuf};

use crate::error::{Result, ResultExt};
use crate::sys::mounts::unescape;

/// Type of our mounts as mountinfo shows it.
pub(super) const TYPE: &str = "fuse.restorefs";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// `fuse.restorefs`, `ext4`, ...
    pub(super) kind: String,
    /// major:minor.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// What is mounted: of ours, the repository.
    pub(super) source: PathBuf,
}

/// Everything that is mounted, what came last being last.
///
/// # Errors
/// `Io`.
pub(super) fn all() -> Result<Vec<MountEntry>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").or_io("cannot read the mounts")?;
    Ok(parse(&text))
}

/// What is mounted at exactly this path, the topmost last.
///
/// # Errors
/// `Io`.
pub(super) fn at(path: &Path) -> Result<Vec<MountEntry>> {
    let mut entries = all()?;
    entries.retain(|entry| entry.mountpoint == path);
    Ok(entries)
}

/// Field 3 is the device, field 5 the mountpoint; after the lone hyphen come type and source.
fn parse(mountinfo: &str) -> Vec<MountEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let mountpoint = unescape(fields.nth(1)?);
        let (_, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some(MountEntry {
            kind: after.next()?.to_owned(),
            device,
            mountpoint,
            source: unescape(after.next()?),
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
                    38 37 0:99 / /mnt ro - fuse.restorefs restorefs ro\n\
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
        assert_eq!(entries.len(), 3);
    }
}
