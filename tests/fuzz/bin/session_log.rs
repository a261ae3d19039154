//! Fuzz target: see targets/session_log.rs.

#![no_main]

#[path = "../targets/session_log.rs"]
mod target;
#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../targets/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
