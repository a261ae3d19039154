//! The mounted tree under other programs: Samba, NFS, rsync, QEMU, overlayfs, and tools that
//! administrators use.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "what is skipped is said")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bytes of numbers"
)]

mod by_hand;
mod disk;
mod handle;
#[path = "../kit/mod.rs"]
mod kit;
mod nfs;
mod overlay;
mod rsync;
mod samba;
mod wire;
mod world;
