//! What is fuzzed: each target is a function over any bytes, which must come back, soon and without a panic.

mod btrfs;
mod ext;
mod fat;
mod fstab;
mod gpt_mbr;
mod guest;
mod lvm;
mod nbd_proto;
mod qcow2_check;
mod qcow2_read;
mod seal;
mod sidecar;
mod sparse;
mod sums;
mod xfs;

/// A target's name (that of its corpus) and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: [Target; 12] = [
    ("btrfs", btrfs::run),
    ("ext", ext::run),
    ("fat", fat::run),
    ("fstab", fstab::run),
    ("gpt_mbr", gpt_mbr::run),
    ("lvm", lvm::run),
    ("nbd_proto", nbd_proto::run),
    ("qcow2_check", qcow2_check::run),
    ("qcow2_read", qcow2_read::run),
    ("sidecar", sidecar::run),
    ("sums", sums::run),
    ("xfs", xfs::run),
];
