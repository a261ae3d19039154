//! Jobs: long work on committed points.

pub mod copy;
pub mod health;
pub mod merge;
pub mod policy;
pub mod repair;
pub mod restore;
pub mod retention;
pub mod verify;
