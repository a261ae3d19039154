//! Backups of machines that run: real QEMUs of two releases, whose devices write while they are backed up. What is restored is compared
//! with a model of what was written.

#![expect(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod agent;
mod change;
mod fault;
mod guest;
mod history;
#[path = "../kit/mod.rs"]
mod kit;
mod lease;
mod libvirt;
mod libvirtd;
mod pull;
mod qemu;
mod tracking;
