//! Fuzz target: see targets/nbd_handshake.rs.

#![no_main]

#[path = "../targets/nbd_handshake.rs"]
mod target;
#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../targets/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
