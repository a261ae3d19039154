//! What the test programs share: what they need of the machine, waiting, bytes, and the program run in a directory of its own.

#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "no program needs all of it; its numbers are small"
)]

pub(crate) mod certificate;
pub(crate) mod need;
pub(crate) mod noise;
pub(crate) mod place;
pub(crate) mod shell;
pub(crate) mod wait;
