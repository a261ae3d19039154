//! A disk of a restore point: its chain, the leaves that state its content, reads that prove what they
//! return, its flat disk, and the difference of two contents.

mod difference;
mod flat;
mod proved;
mod source;

pub use difference::{Difference, OpenLeaves};
pub use flat::{EXTENTS_MAX, FlatDisks, Made};
pub use proved::{LeafPage, Part, ProvedDisk, ProvedReader, RegionLeaves, prove};
pub use source::ChainSource;
