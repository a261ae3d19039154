//! Mount options in the syntax of mount(8) and fstab(5).

use super::follow::Follow;
use super::label::{Label, split_options};
use crate::error::{Error, Result};
use crate::tree::TreeOptions;

/// The requested mount options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether other users may enter (users other than root need `user_allow_other` in /etc/fuse.conf).
    pub allow_other: bool,
    /// Owner of VMs and disks; by default the mounting user.
    pub uid: Option<u32>,
    /// Group of VMs and disks; by default that of the mounting user.
    pub gid: Option<u32>,
    /// Permission bits to remove; without it VM directories are 0700.
    pub umask: Option<u16>,
    /// Whether programs can be run from the mount.
    pub exec: bool,
    /// Whether symlinks of a guest's tree are rewritten so that they stay in it.
    pub rebase: bool,
    /// Whether extended attributes are hidden.
    pub noxattr: bool,
    /// Whether writes are refused even where a daemon could allow them (`Some(false)`: explicitly
    /// read-write).
    pub read_only: Option<bool>,
    /// Patterns of the VMs to show; empty shows all.
    pub vms: Vec<String>,
    /// Whether the mountpoint may be a directory with files, which the mount then hides.
    pub nonempty: bool,
    /// Whether `rmdir` of a committed point removes the point.
    pub allow_forget: bool,
    /// LIMIT: threads that serve the kernel; by default a few more than processors.
    pub threads: Option<usize>,
    /// LIMIT: largest read in bytes that the kernel may send; by default the kernel's own limit.
    pub max_read: Option<u32>,
    /// Whether whole disks are read by passthrough, where that works.
    pub passthrough: bool,
    /// How the mount learns of new points.
    pub follow: Follow,
    /// SELinux labels of everything in the mount.
    pub labels: Vec<Label>,
}

/// Options that are accepted and have no effect: restorefs always does so, or they are for mount(8) and
/// systemd.
const IGNORED: [&str; 21] = [
    "nodev",
    "nosuid",
    "noexec",
    "noatime",
    "nodiratime",
    "relatime",
    "norelatime",
    "default_permissions",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "async",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "group",
    "noowner",
];

/// LIMIT: threads of one mount.
const THREADS_MAX: usize = 256;

/// LIMIT: bytes of a name pattern; names have at most 128.
const PATTERN_BYTES_MAX: usize = 256;

fn is_pattern(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-*?".contains(c);
    !text.is_empty() && text.len() <= PATTERN_BYTES_MAX && text.chars().all(is_plain)
}

fn number<T: std::str::FromStr>(name: &str, value: Option<&str>) -> Result<T> {
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Error::invalid(format!("mount option {name} needs a number: {name}=N")))
}

impl MountOptions {
    /// Parses options separated by commas outside double quotes; may be called again to add more.
    ///
    /// # Errors
    /// `InvalidInput` naming the option that is unknown or not supported (`rw`, `suid`, `dev`).
    pub fn parse(&mut self, text: &str) -> Result<()> {
        for option in split_options(text) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if let Some(label) = Label::parse(name, value)? {
                self.labels.push(label);
                continue;
            }
            match name {
                "noexec" => self.exec = false,
                _ if IGNORED.contains(&option) => {}
                "ro" => self.read_only = Some(true),
                "rw" => self.read_only = Some(false),
                "allow_forget" => self.allow_forget = true,
                "threads" => {
                    let threads = number::<usize>(name, value)?;
                    self.threads = Some(threads.clamp(1, THREADS_MAX));
                }
                "allow_other" => self.allow_other = true,
                "exec" => self.exec = true,
                "nonempty" => self.nonempty = true,
                "vm" => {
                    let pattern = value.filter(|value| is_pattern(value)).ok_or_else(|| {
                        Error::invalid(
                            "mount option vm needs the name of a VM, or a pattern: vm=web*",
                        )
                    })?;
                    self.vms.push(pattern.to_owned());
                }
                "remount" => {
                    return Err(Error::invalid(
                        "mount option remount is not supported: a mount keeps its options",
                    )
                    .advise("unmount, and mount again with the options that you want"));
                }
                "passthrough" => self.passthrough = true,
                "noxattr" => self.noxattr = true,
                "symlinks" => {
                    self.rebase = match value {
                        Some("rebase") => true,
                        Some("verbatim") => false,
                        _ => {
                            return Err(Error::invalid(
                                "mount option symlinks is one of symlinks=verbatim, symlinks=rebase",
                            ));
                        }
                    };
                }
                "uid" => self.uid = Some(number(name, value)?),
                "gid" => self.gid = Some(number(name, value)?),
                "umask" => {
                    let bits = value.and_then(|value| u16::from_str_radix(value, 8).ok());
                    let bits = bits.filter(|bits| *bits <= 0o777);
                    self.umask = Some(bits.ok_or_else(|| {
                        Error::invalid("mount option umask needs octal digits: umask=027")
                    })?);
                }
                "max_read" => self.max_read = Some(number(name, value)?),
                "poll" => {
                    self.follow.interval = std::time::Duration::from_secs(number(name, value)?);
                }
                "noinotify" => self.follow.inotify = false,
                "suid" | "dev" => {
                    return Err(Error::invalid(format!(
                        "mount option {name} cannot be had: devices and setuid bits are the guest's"
                    )));
                }
                _ if name.starts_with("x-") || name == "comment" => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown mount option \"{}\"",
                        option.escape_debug()
                    ))
                    .advise("known are ro, rw, vm=, allow_other, allow_forget, nonempty, uid=, gid=, umask=, exec, noxattr, passthrough, symlinks=rebase, max_read=, threads=, poll=SECONDS, noinotify, context=\"LABEL\""));
                }
            }
        }
        Ok(())
    }

    /// The warning for options that let every local user read whole disks, and with them files that guests
    /// hide from their own users.
    #[must_use]
    pub fn exposure(&self) -> Option<&'static str> {
        const OTHERS: u16 = 0o005;
        let is_open = self.umask.is_some_and(|umask| umask & OTHERS != OTHERS);
        (self.allow_other && is_open).then_some(
            "with allow_other and this umask every local user can read whole disks, and the guests' passwords in them; \
             umask=027 with gid=N opens them to a group",
        )
    }

    /// Whether the tree is writable through the mount, when its server `could` write.
    ///
    /// # Errors
    /// `InvalidInput` for options that only a writable mount has.
    pub fn is_writable(&self, could: bool) -> Result<bool> {
        if could && self.passthrough {
            return Err(Error::invalid(
                "passthrough is for a mount that no daemon serves (restorefs mount -o passthrough, as root)",
            ));
        }
        let is_writable = could && self.read_only != Some(true);
        if !is_writable && self.read_only == Some(false) {
            return Err(Error::invalid(
                "only a daemon's own mount can be written (restorefs serve --mount)",
            ));
        }
        if !is_writable && self.allow_forget {
            return Err(Error::invalid(
                "allow_forget is for a mount that can be written (restorefs serve --mount, not ro)",
            ));
        }
        Ok(is_writable)
    }

    /// The tree options for a process of this user and group; `writable` if it owns the repository.
    #[must_use]
    pub fn tree_options(&self, euid: u32, egid: u32, writable: bool) -> TreeOptions {
        TreeOptions {
            uid: self.uid.unwrap_or(euid),
            gid: self.gid.unwrap_or(egid),
            umask: self.umask,
            single_user: euid != 0,
            noxattr: self.noxattr,
            passthrough: self.passthrough && euid == 0,
            rebase: self.rebase,
            vms: self.vms.clone(),
            writable,
            ..TreeOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MountOptions;

    #[test]
    fn an_fstab_line_is_understood() {
        let mut options = MountOptions::default();
        options
            .parse("ro,nofail,x-systemd.requires=/backup,allow_other,uid=1000,umask=027,nodev")
            .unwrap();
        options
            .parse("exec,poll=3,noinotify,max_read=131072")
            .unwrap();
        assert!(options.allow_other && options.exec && !options.noxattr);
        assert_eq!((options.uid, options.gid), (Some(1000), None));
        assert_eq!(options.umask, Some(0o027));
        assert_eq!(options.follow.interval.as_secs(), 3);
        assert!(!options.follow.inotify);
        let tree = options.tree_options(0, 0, false);
        assert_eq!((tree.uid, tree.gid, tree.single_user), (1000, 0, false));
    }

    #[test]
    fn a_mount_that_is_open_to_all_is_warned_of() {
        let is_open = |text: &str| {
            let mut options = MountOptions::default();
            options.parse(text).unwrap();
            options.exposure().is_some()
        };
        for open in [
            "allow_other,umask=022",
            "allow_other,umask=0",
            "umask=026,allow_other",
        ] {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "allow_other",
            "umask=022",
            "allow_other,umask=027",
            "allow_other,umask=077",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, named) in [
            ("colour=blue", "colour"),
            ("suid", "suid"),
            ("uid=root", "uid"),
            ("umask=9", "umask"),
            ("umask=7777", "umask"),
            ("remount", "remount"),
            ("vm=", "vm"),
            ("vm=a/b", "vm"),
        ] {
            let error = MountOptions::default().parse(text).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
