//! Fuzz target: see targets/fstab.rs.

#![no_main]

#[path = "../targets/fstab.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
