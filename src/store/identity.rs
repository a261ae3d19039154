//! Which file a name refers to: equal for every path, symlink and bind mount that leads to one file,
//! different for a copy.

use serde::{Deserialize, Serialize};

/// Device and inode of a local file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Device of the filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}
