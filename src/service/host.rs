//! What a daemon adds to the repository that it serves: addresses and mounts.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The daemon around a repository, as the doors see it.
pub trait Host: Send + Sync {
    /// The mounts of the repository.
    fn mounts(&self) -> Vec<MountAnswer>;

    /// Serves what a helper has mounted; `device` is the connection to the kernel.
    ///
    /// # Errors
    /// `InvalidInput` (options, descriptor); `LimitExceeded`; `Disconnected` when the daemon is
    /// about to stop.
    fn adopt(&self, request: &MountRequest, device: OwnedFd) -> Result<()>;
}

/// A mount that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// The mountpoint, for people.
    pub mountpoint: PathBuf,
    /// Options in mount(8)'s syntax.
    pub options: String,
    /// The user who mounts: the owner of the tree's own entries, unless the options name another.
    pub uid: u32,
    /// Group of that user.
    pub gid: u32,
}

/// A mount in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAnswer {
    /// The mountpoint.
    pub mountpoint: PathBuf,
    /// Patterns of the VMs that the mount shows; all VMs when empty.
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
    /// NBD sockets; the first one is used in URIs.
    pub nbd_sockets: Vec<PathBuf>,
    /// URI below which NBD exports are served over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_tcp: Option<String>,
    /// The first mountpoint of the tree.
    pub mountpoint: Option<PathBuf>,
    /// The mounts of the tree.
    #[serde(default)]
    pub mounts: Vec<MountAnswer>,
    /// The repository.
    #[serde(default)]
    pub repository: PathBuf,
}
