//! QCOW2 images: reads any image, writes layers, checks structures.
//!
//! - [`Image`] reads one file: header, tables, clusters. It opens nothing else.
//! - [`source`] reads an image with its whole backing chain as one disk.
//! - [`writer`] writes a layer of a repository.
//! - [`check`](check::check) compares the refcounts of a file with their uses.
//!
//! Source: QEMU `docs/interop/qcow2.rst`; where it is silent, the behaviour of QEMU 10.
//!
//! # Invariants
//! Every byte of an image may be hostile: nothing panics, allocates by an unchecked number, or opens a file
//! that an image names without the permission of a [`source::Gate`]. Damage is `Corrupt` with its place; an
//! unknown feature is `Unsupported` with its name.

pub mod check;
mod codec;
mod entry;
pub mod extension;
pub mod feature;
mod field;
pub mod header;
mod image;
pub mod source;
pub mod writer;

pub use codec::compress;
pub use entry::{CompressedCluster, Mapping};
pub use image::Image;
pub use writer::{Compression, LayerOptions, LayerWriter};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
