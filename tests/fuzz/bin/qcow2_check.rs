//! Fuzz target: see targets/qcow2_check.rs.

#![no_main]

#[path = "../targets/qcow2_check.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
