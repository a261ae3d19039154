//! Fuzz target: see targets/ext.rs.

#![no_main]

#[path = "../targets/guest.rs"]
mod guest;
#[path = "../targets/sparse.rs"]
mod sparse;
#[path = "../targets/ext.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
