//! The health of a repository: how old the last restore points are, what damage is known, and how much room is left.
//!
//! # Why
//! A check looks every few minutes at 1,000 VMs. So it reads one index and lists one directory of each; it walks no chain,
//! opens no layer and takes no lock. What only reading finds is told by verifying, whose results the index repeats.

mod capacity;
mod copied;
mod registered;
mod report;
mod suitability;
mod vm;

pub use capacity::{Growth, Space};
pub use copied::CopyCheck;
pub use registered::{Content, RegisterHealth, RegisteredHealth, SameId};
pub use report::{Health, Holding, Verdict};
pub use suitability::{Finding, Suitability};
pub use vm::{LastPoint, VmHealth};
