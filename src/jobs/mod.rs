//! Jobs: long work on committed points.

pub mod merge;
pub mod restore;
pub mod retention;
pub mod verify;
