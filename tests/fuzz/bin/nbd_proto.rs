//! Fuzz target: see targets/nbd_proto.rs.

#![no_main]

#[path = "../targets/nbd_proto.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
