//! The mount, through the kernel: one file per group of system calls. Needs root, /dev/fuse and a few programs.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod files;
mod follow;
mod guest;
#[path = "../kit/mod.rs"]
mod kit;
mod lookup_readdir;
mod lvm;
mod mount_lifecycle;
mod owner;
mod pitfalls;
mod read;
mod readonly;
mod seek;
mod stat;
mod statfs;
mod symlink;
mod world;
mod xattr;
