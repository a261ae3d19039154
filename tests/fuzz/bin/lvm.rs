//! Fuzz target: see targets/lvm.rs.

#![no_main]

#[path = "../targets/sparse.rs"]
mod sparse;
#[path = "../targets/lvm.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
