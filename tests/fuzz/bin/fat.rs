//! Fuzz target: see targets/fat.rs.

#![no_main]

#[path = "../targets/guest.rs"]
mod guest;
#[path = "../targets/sparse.rs"]
mod sparse;
#[path = "../targets/fat.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
