//! Our formats against the programs that define them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod deep;
mod device;
mod disk;
mod guest_array;
mod guest_btrfs;
mod guest_btrfs_devices;
mod guest_btrfs_state;
mod guest_ext;
mod guest_ext_damage;
mod guest_fat;
mod guest_image;
mod guest_layout;
mod guest_lvm;
mod guest_lvm_active;
mod guest_lvm_layout;
mod guest_partition;
mod guest_partition_kernel;
mod guest_system;
mod guest_walk;
mod guest_work;
mod guest_xfs;
mod guest_xfs_damage;
mod history;
#[path = "../kit/mod.rs"]
mod kit;
mod opinion;
mod qcow2;
mod repository;
mod second_reader;
mod second_reader_damage;
mod tool;
