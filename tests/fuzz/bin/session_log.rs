//! Fuzz target: see targets/session_log.rs.

#![no_main]

#[path = "../targets/session_log.rs"]
mod target;
#[path = "../targets/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
