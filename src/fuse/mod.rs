//! The mount: the tree as a FUSE filesystem. The only module that uses fuser.
//!
//! # Why
//! *Stateless opens*: `open` and `opendir` return ENOSYS once, and from then on the kernel opens, closes and
//! caches by itself. That is right for content that never changes, and makes small files as fast as on the
//! kernel's own filesystems. Changing entries are invalidated by notification (directories), or have no time
//! to live (`latest`, open sessions).
//!
//! *Dirty pages*: the kernel writes back pages that were written by mmap at a time of its choice. A session
//! is sealed in three steps: the kernel writes back its dirty pages, further writes are refused, and later
//! dirty pages are dropped.
//!
//! # Invariants
//! - A separate thread that holds no lock sends notifications: a notification from a handler would wait for
//!   the very lock that the caller of that handler holds.
//! - Every mount is `nodev` and `nosuid`, and read-only unless this process owns the repository; `noexec`
//!   unless an option allows execution; the kernel checks permissions.
//! - A process sends no request to its own mount: if it were killed meanwhile, it would never end, and no
//!   request would be answered. The exception is the write-back of dirty pages at a commit.
//! - A process that dies leaves at most a dead mountpoint, which the next mount at that path removes.

mod adapter;
mod agreement;
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
mod listing;
mod mount;
mod mountinfo;
mod mountpoint;
mod notify;
mod options;
mod passthrough;
mod readahead;
mod removal;
mod reply;
mod umount;

pub use handed_mount::HandedMount;
pub use held_path::resolve;
pub use label::{effective as effective_labels, split_options};
pub use mount::{Mounted, mount, serve};
pub use mountpoint::{check_apart, is_mountpoint};
pub use options::MountOptions;
pub use umount::{is_ours, umount, umount_dead, umount_silent};
