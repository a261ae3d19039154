//! What is fuzzed: each target is a function over any bytes, which must come back, soon and without a panic.

mod btrfs;
mod control;
mod ext;
mod fat;
mod fstab;
mod gpt_mbr;
mod guest;
mod lvm;
mod nbd_handshake;
mod nbd_proto;
mod qcow2_check;
mod qcow2_read;
mod reader_answer;
mod reader_question;
mod script;
mod seal;
mod session_log;
mod sidecar;
mod sparse;
mod sums;
mod world;
mod xfs;

/// A target's name (that of its corpus) and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: [Target; 17] = [
    ("btrfs", btrfs::run),
    ("control", control::run),
    ("ext", ext::run),
    ("fat", fat::run),
    ("fstab", fstab::run),
    ("gpt_mbr", gpt_mbr::run),
    ("lvm", lvm::run),
    ("nbd_handshake", nbd_handshake::run),
    ("nbd_proto", nbd_proto::run),
    ("qcow2_check", qcow2_check::run),
    ("qcow2_read", qcow2_read::run),
    ("reader_answer", reader_answer::run),
    ("reader_question", reader_question::run),
    ("session_log", session_log::run),
    ("sidecar", sidecar::run),
    ("sums", sums::run),
    ("xfs", xfs::run),
];
