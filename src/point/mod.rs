//! A disk of a restore point: its chain, the leaves that state its content, reads that prove what they
//! return, and the difference of two contents.

mod difference;
mod proved;
mod source;

pub use difference::{Difference, OpenLeaves};
pub use proved::{LeafPage, Part, ProvedDisk, ProvedReader, RegionLeaves, prove};
pub use source::ChainSource;
