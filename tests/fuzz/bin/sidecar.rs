//! Fuzz target: see targets/sidecar.rs.

#![no_main]

#[path = "../targets/sidecar.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
