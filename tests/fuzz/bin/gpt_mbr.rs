//! Fuzz target: see targets/gpt_mbr.rs.

#![no_main]

#[path = "../targets/sparse.rs"]
mod sparse;
#[path = "../targets/gpt_mbr.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
