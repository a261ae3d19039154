//! Exports a directory of the tree as files in a directory (`files`) or as an archive (`archive`).

pub mod archive;
pub mod files;
