//! A FAT filesystem of any sectors.

use super::{guest, sparse};

/// Opens the filesystem and walks it.
pub(crate) fn run(data: &[u8]) {
    guest::walk(&[sparse::disk(data)]);
}
