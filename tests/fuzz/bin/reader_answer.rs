//! Fuzz target: see targets/reader_answer.rs.

#![no_main]

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../targets/guest.rs"]
mod guest;
#[path = "../targets/script.rs"]
mod script;
#[path = "../targets/reader_answer.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
