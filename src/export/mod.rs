//! Exports a directory of the tree as files in a directory (`files`) or as an archive (`archive`).

pub mod archive;
#[cfg(test)]
mod fake;
pub mod files;
