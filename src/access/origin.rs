//! Where a caller comes from.

use std::fmt;
use std::sync::Arc;

/// A way into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// The daemon's control socket.
    Control,
    /// NBD.
    Nbd,
    /// A mounted tree.
    Tree,
    /// HTTP.
    Http,
    /// A command that holds the lock itself.
    Command,
}

impl Door {
    /// The door as the audit log names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Nbd => "nbd",
            Self::Tree => "tree",
            Self::Http => "http",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The door that a caller came through, and its address, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The door.
    pub door: Door,
    /// Address and port, or the process of a Unix socket's peer.
    pub peer: Option<Arc<str>>,
}

impl Origin {
    /// A door whose callers have no address.
    #[must_use]
    pub const fn of(door: Door) -> Self {
        Self { door, peer: None }
    }

    /// A caller at an address.
    #[must_use]
    pub fn at(door: Door, peer: impl fmt::Display) -> Self {
        Self {
            door,
            peer: Some(peer.to_string().into()),
        }
    }
}
