//! Guests: partition tables and filesystems inside virtual disks, read by the daemon in user space.
//!
//! A reader returns *plain data* ([`Entry`](fs::Entry), xattrs, runs), so that it can run in another process.
//! The caller reads the bytes of plain runs from the chain itself, never through the reader.
//!
//! # Invariants
//! - Nothing read from a volume is trusted: counts, depths and sizes are bounded, names are checked.
//! - *Unsupported* (with the feature's name) is not *damaged* (with place and cause).
//!
//! # Findings
//! Faults of the crates, and where they are corrected:
//! - rust-fs-xfs 0.14.2 replays inodes without the number of a device node (`xfs/log.rs`), refuses a log
//!   whose last record is incomplete (`xfs/device.rs`), and bounds walks of extents and attributes by the
//!   inode's own counts (`xfs/run.rs`, `xfs/attribute.rs`). A hostile length in a log item overflows a
//!   product, or hits an assertion (`log_recover.rs` 587 and 699, `overlay.rs` 53). It also refuses a clean
//!   filesystem for a damaged or non-empty header of inodes (`xfs/group.rs`).
//! - rust-fs-ext4 0.8.0 ignores a journal on another device, replays one even when the superblock does not
//!   request it, refuses every one that may have fast commits (`ext/journal.rs`), refuses the whole
//!   filesystem for one descriptor's checksum (`ext/view.rs`), and does not check the blocks of directories
//!   (`ext/names.rs`) and of extent trees (`ext/run.rs`).
//! - rust-fs-btrfs 0.10.2 uses the newest of all superblocks, where the kernel uses the first
//!   (`btrfs/superblock.rs`). It opens no pool with a missing device, and no filesystem with a log. It
//!   searches every extent of a file again for each read (9 MB/s in a file of 1 GiB compressed with zstd). It
//!   accepts a sector whose checksum is missing, which the kernel does not, and treats an extent that decodes
//!   to less than it covers as damage, although the file has only grown. Its tree walker and its parsers are
//!   sound and used (`btrfs/pool.rs`, `btrfs/data.rs`).

pub mod btrfs;
mod bytes;
pub mod cache;
pub mod conformance;
mod content;
mod device;
mod directory;
pub mod ext;
pub mod fat;
pub mod fs;
mod lvm;
mod md;
pub mod memory;
pub mod partition;
pub mod probe;
pub mod record;
pub mod recorded;
mod remark;
pub mod system;
pub mod volume;
mod walk;
pub mod worker;
pub mod xfs;
