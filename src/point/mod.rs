//! A disk of a restore point: its chain, and the leaves that state its content. Reads that prove what they answer, and the difference of
//! two contents.

mod difference;
mod proved;
mod source;

pub use difference::{Difference, OpenLeaves};
pub use proved::{Part, ProvedDisk, ProvedReader, prove};
pub use source::ChainSource;
