//! The udev rule that keeps udev, and every program that listens to it, from examining the content
//! of mapped devices.
//!
//! # Why
//! The guest controls the content of its disk. udev would read its labels and make links of them
//! (`/dev/disk/by-uuid`), LVM would activate volume groups, md would assemble arrays, and systemd
//! would mount by label. All of this would happen on this machine, where names from the guest may
//! equal those of the host.

use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::runtime_dir;

/// Name of the rule's file.
pub const NAME: &str = "55-restorefs-map.rules";
/// The socket of udevd.
const CONTROL: &str = "run/udev/control";
/// The directories of rules; the first one that has a file of the name decides (udev(7)).
const DIRECTORIES: [&str; 5] = [
    "etc/udev/rules.d",
    "run/udev/rules.d",
    "usr/local/lib/udev/rules.d",
    "usr/lib/udev/rules.d",
    "lib/udev/rules.d",
];

/// Whether udev leaves mapped devices alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// No udevd runs here.
    NoUdev,
    /// The rule is installed.
    Ruled,
    /// The rule is missing, or masked by an empty file.
    Unruled,
    /// The rule may be installed, but it does not cover the directory that `RESTOREFS_RUNTIME_DIR`
    /// names.
    Elsewhere,
}

/// The state of this machine.
#[must_use]
pub fn look() -> Quiet {
    look_below(Path::new("/"), runtime_dir::is_system())
}

fn look_below(root: &Path, is_system: bool) -> Quiet {
    if !root.join(CONTROL).exists() {
        return Quiet::NoUdev;
    }
    let decides = DIRECTORIES
        .iter()
        .map(|dir| root.join(dir).join(NAME))
        .find(|path| path.symlink_metadata().is_ok());
    // An empty file, or a link to /dev/null, masks those in the later directories.
    let is_there = decides
        .and_then(|path| std::fs::metadata(path).ok())
        .is_some_and(|metadata| metadata.is_file() && metadata.len() > 0);
    match (is_there, is_system) {
        (_, false) => Quiet::Elsewhere,
        (true, true) => Quiet::Ruled,
        (false, true) => Quiet::Unruled,
    }
}

/// The danger, for messages: the guest chooses the names on its disk.
const DANGER: &str = "udev would look at what is on the guest's disk: labels and UUIDs that the guest chose become names of this machine \
     (/dev/disk/by-uuid), and LVM, md and systemd activate what is on it";

impl Quiet {
    /// Refuses a map when content of a guest's disk would get names on this machine.
    ///
    /// # Errors
    /// `InvalidInput`, which names the rule to install.
    pub fn check(self, with_partitions: bool) -> Result<()> {
        match self {
            Self::NoUdev | Self::Ruled => Ok(()),
            Self::Unruled => Err(Error::invalid(format!(
                "{DANGER}; its rule for mapped devices is not installed"
            ))
            .advise(format!(
                "install the rule: install -m 644 mount-helpers/{NAME} /etc/udev/rules.d/"
            ))),
            Self::Elsewhere if with_partitions => Err(Error::invalid(format!(
                "{DANGER}; its rule for mapped devices is for /run/restorefs only"
            ))
            .advise("map without RESTOREFS_RUNTIME_DIR")),
            Self::Elsewhere => Ok(()),
        }
    }

    /// The warning for a map that is allowed without the rule.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        (self == Self::Elsewhere).then_some(
            "udev probes the content of the device, because its rule covers only /run/restorefs; map without RESTOREFS_RUNTIME_DIR",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, DIRECTORIES, NAME, Quiet, look_below};

    #[test]
    fn the_rule_is_looked_for_as_udev_does() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(look_below(root, true), Quiet::NoUdev);
        put(CONTROL, "");
        assert_eq!(look_below(root, true), Quiet::Unruled);
        for with_partitions in [true, false] {
            let error = Quiet::Unruled.check(with_partitions).unwrap_err();
            assert!(error.to_string().contains(NAME), "{error}");
            assert!(Quiet::Ruled.check(with_partitions).is_ok());
            assert_eq!(
                Quiet::Elsewhere.check(with_partitions).is_ok(),
                !with_partitions
            );
        }
        for dir in DIRECTORIES.iter().rev() {
            put(&format!("{dir}/{NAME}"), "rule");
            assert_eq!(look_below(root, true), Quiet::Ruled, "{dir}");
            assert_eq!(look_below(root, false), Quiet::Elsewhere);
        }
        // The rule is masked.
        put(&format!("{}/{NAME}", DIRECTORIES[0]), "");
        assert_eq!(look_below(root, true), Quiet::Unruled);
        std::fs::remove_file(root.join(DIRECTORIES[0]).join(NAME)).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.join(DIRECTORIES[0]).join(NAME)).unwrap();
        assert_eq!(look_below(root, true), Quiet::Unruled);
    }
}
