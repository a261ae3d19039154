//! The mount: the tree through the kernel's FUSE. The only module that knows fuser.
//!
//! # Why
//! *Stateless opens*: `open` and `opendir` are answered ENOSYS once, and from then on the kernel opens, closes and caches by
//! itself. That is right for content that never changes, and makes small files as fast as on the kernel's own filesystems. What
//! does change is invalidated by notification (directories), or has no time to live (`latest`, open sessions).
//!
//! *What the kernel holds back*: pages that were written by mmap come in when it pleases. A session is sealed in three steps: the kernel
//! hands in what it has, writes are refused from now on, and what it has since is dropped.
//!
//! # Invariants
//! - Notifications are sent by a thread of their own that holds no lock: one sent from a handler waits for the very lock that the caller of
//!   that handler holds.
//! - Every mount is `nodev` and `nosuid`, and read-only unless this process owns the repository; `noexec` unless asked otherwise; the
//!   kernel checks permissions.
//! - A process asks its own mount nothing: killed meanwhile, it would never end, and nobody would be answered. The exception is what the
//!   kernel hands in at a commit.
//! - A process that dies leaves a dead mountpoint at most, which the next mount there takes away.

mod adapter;
mod attr;
mod change;
pub mod disk;
mod ending;
mod errno;
mod follow;
mod handed_mount;
mod held;
mod held_path;
mod label;
mod mount;
mod mountinfo;
mod mountpoint;
mod notify;
mod options;
mod reply;
mod umount;

pub use follow::Follow;
pub use handed_mount::HandedMount;
pub use held_path::resolve;
pub use label::{Label, effective as effective_labels, split_options};
pub use mount::{Mounted, mount, serve};
pub use mountpoint::{check_apart, is_mountpoint};
pub use options::MountOptions;
pub use umount::{is_ours, umount, umount_dead, umount_silent};
