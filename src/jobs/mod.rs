//! Jobs: long work on committed points.

pub mod restore;
