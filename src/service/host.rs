//! What a daemon adds to the repository that it serves: where it listens, and its mounts.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The daemon around a repository, as the doors see it.
pub trait Host: Send + Sync {
    /// Where the repository is mounted.
    fn mounts(&self) -> Vec<MountAnswer>;

    /// Serves what a helper has mounted; `device` is the connection to the kernel.
    ///
    /// # Errors
    /// `InvalidInput` (options, descriptor); `LimitExceeded`; `Disconnected` when the daemon is about to stop.
    fn adopt(&self, request: &MountRequest, device: OwnedFd) -> Result<()>;
}

/// A mount that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// Where it is mounted, for people.
    pub mountpoint: PathBuf,
    /// Options as mount(8) takes them.
    pub options: String,
    /// User who mounts: the owner of what the tree itself shows, unless the options say another.
    pub uid: u32,
    /// Group of that user.
    pub gid: u32,
}

/// A mount in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAnswer {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Patterns of the VMs that it shows; all when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
}

/// Answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Release.
    pub version: String,
    /// NBD sockets, the first being the one in URIs.
    pub nbd_sockets: Vec<PathBuf>,
    /// URI below which NBD exports are served over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_tcp: Option<String>,
    /// Where the tree is mounted first.
    pub mountpoint: Option<PathBuf>,
    /// Where the tree is mounted.
    #[serde(default)]
    pub mounts: Vec<MountAnswer>,
    /// The repository.
    #[serde(default)]
    pub repository: PathBuf,
}
