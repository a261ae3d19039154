//! The writable tree, through the kernel and with common tools. Needs root, /dev/fuse and a few
//! programs.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod attached;
mod commit;
mod declare;
mod door;
mod fault;
mod fsx;
#[path = "../kit/mod.rs"]
mod kit;
mod meanwhile;
mod page_cache;
mod posix;
mod refuse;
mod remove;
mod stand;
mod terabyte;
mod tool;
