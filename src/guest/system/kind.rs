//! Classifies the entries of an fstab.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::fstab::Entry;
use super::{Class, shown};

/// Filesystems of the kernel and in memory, whose files are not expected in a backup.
const PSEUDO: [&str; 26] = [
    "swap",
    "proc",
    "sysfs",
    "devpts",
    "tmpfs",
    "devtmpfs",
    "securityfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "configfs",
    "mqueue",
    "hugetlbfs",
    "fusectl",
    "binfmt_misc",
    "efivarfs",
    "pstore",
    "bpf",
    "ramfs",
    "rpc_pipefs",
    "autofs",
    "nfsd",
    "usbfs",
    "ignore",
    "selinuxfs",
];
/// Filesystems on other machines.
const NETWORK: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "glusterfs",
    "afs",
    "9p",
    "virtiofs",
    "lustre",
    "davfs",
    "beegfs",
    "gfs2",
    "ocfs2",
    "pvfs2",
];
/// Drives with a removable medium, which is not part of the machine.
const REMOVABLE: [&str; 4] = ["/dev/cdrom", "/dev/sr", "/dev/fd", "/dev/dvd"];

/// Class of an entry.
pub(super) enum Kind {
    Root,
    Volume,
    Bind,
    Refused(Class, &'static str),
    /// It is skipped, with a remark.
    PassedOver(&'static str),
    /// It is skipped without a remark.
    Silent,
}

pub(super) fn kind(entry: &Entry) -> Kind {
    let fs_type = shown(&entry.fs_type);
    let source = shown(&entry.source);
    let types = || fs_type.split(',');
    let has_type = |known: &[&str]| types().any(|name| known.contains(&name));
    if has_type(&PSEUDO) || matches!(&entry.target[..], b"none" | b"swap") {
        return Kind::Silent;
    }
    if !entry.target.starts_with(b"/") {
        return Kind::PassedOver("its mount point is no absolute path");
    }
    if REMOVABLE.iter().any(|drive| source.starts_with(drive)) {
        return Kind::PassedOver("a drive whose medium is no part of the machine");
    }
    let is_remote = source.starts_with("//")
        || source.contains(":/")
        || (entry.has("_netdev") && !source.starts_with("/dev/") && !source.contains('='));
    if has_type(&NETWORK) || is_remote {
        return Kind::Refused(Class::Elsewhere, "it is on another machine");
    }
    if entry.has("noauto") && !entry.has("x-systemd.automount") {
        return Kind::Refused(Class::NotAutomatic, "noauto: it is not mounted at boot");
    }
    let is_bind = entry.has("bind") || entry.has("rbind");
    if is_bind || (fs_type == "none" && source.starts_with('/')) {
        return Kind::Bind;
    }
    if types().any(|name| name == "overlay" || name.starts_with("fuse")) {
        return Kind::Refused(Class::Elsewhere, "a program of the guest shows it");
    }
    if entry.target.iter().all(|b| *b == b'/') {
        return Kind::Root;
    }
    Kind::Volume
}
