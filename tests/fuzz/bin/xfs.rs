//! Fuzz target: see targets/xfs.rs.

#![no_main]

#[path = "../targets/guest.rs"]
mod guest;
#[path = "../targets/seal.rs"]
mod seal;
#[path = "../targets/sparse.rs"]
mod sparse;
#[path = "../targets/xfs.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
