//! Jobs: long work on committed points.

pub mod health;
pub mod merge;
pub mod policy;
pub mod restore;
pub mod retention;
pub mod verify;
