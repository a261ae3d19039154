//! Repair: damaged content of restore points comes back from where else it is: a copy at another repository, or another point of the VM.
//!
//! A *look* at each layer of the chosen points finds what is wrong. A file that cannot be opened or has no sums is put back whole from a
//! copy of the same layer; a layer with damaged clusters or tables is built anew beside the old one, with good clusters of its own and
//! given ones, and replaces it.
//!
//! # Invariants
//! - Everything that is taken from elsewhere has the hash that was committed; a repository that was tampered with can give nothing else.
//! - What nobody has stays damaged, and known as such.

mod donor;
mod file;
mod work;

pub use donor::Place;
pub use work::{LayerRepair, Repair, Repaired};
