//! `restorefs map` and `unmap`, as users run them, on real loop devices. Needs root, /dev/fuse,
//! /dev/loop-control and a few programs.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod attack;
mod bad_input;
mod device;
mod flat;
mod kill;
#[path = "../kit/mod.rs"]
mod kit;
mod leftover;
mod options;
mod rule;
mod scratch;
mod several;
mod world;
