//! Fuzz target: see targets/qcow2_read.rs.

#![no_main]

#[path = "../targets/qcow2_read.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
