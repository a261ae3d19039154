//! Fuzz target: see targets/sums.rs.

#![no_main]

#[path = "../targets/sums.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
