//! Fuzz target: see targets/reader_question.rs.

#![no_main]

#[path = "../targets/script.rs"]
mod script;
#[path = "../targets/reader_question.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
