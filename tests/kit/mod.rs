//! Shared code of the test programs: requirements of the machine, waiting, test bytes, and a
//! directory to run the program in.

#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "no program needs all of it; its numbers are small"
)]

pub(crate) mod certificate;
pub(crate) mod chance;
pub(crate) mod need;
pub(crate) mod noise;
pub(crate) mod place;
pub(crate) mod prometheus;
pub(crate) mod shell;
pub(crate) mod wait;
