//! Doors: a disk of a session belongs to the door that writes it first.
//!
//! # Why
//! Bytes written through one door would be hidden by what the kernel still caches of the other; and each has its own rule of
//! when a disk is finished.

use std::sync::atomic::{AtomicU8, Ordering};

use super::disk::DiskWriter;
use crate::error::{Error, ErrorKind, Result};

/// Ways by which bytes come into a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// NBD connections.
    Nbd,
    /// The mounted tree.
    Tree,
}

impl Door {
    const fn code(self) -> u8 {
        match self {
            Self::Nbd => 1,
            Self::Tree => 2,
        }
    }

    /// What it is called where people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Tree => "tree",
        }
    }
}

/// The door that a disk belongs to, once one has written it.
#[derive(Debug, Default)]
pub(super) struct Owner(AtomicU8);

impl DiskWriter {
    /// Takes the disk for a door, for as long as the session is open in this process.
    ///
    /// # Errors
    /// `Busy` when it belongs to another one.
    pub fn claim(&self, door: Door) -> Result<()> {
        let claimed =
            self.door
                .0
                .compare_exchange(0, door.code(), Ordering::SeqCst, Ordering::SeqCst);
        match claimed {
            Ok(_) => Ok(()),
            Err(other) if other == door.code() => Ok(()),
            Err(_) => {
                let other = self.door().map_or("another", Door::name);
                Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "disk {} is being written by another door ({other})",
                        self.meta().name
                    ),
                )
                .advise("go on with that one, or abort the session"))
            }
        }
    }

    /// The door that it belongs to.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        match self.door.0.load(Ordering::SeqCst) {
            1 => Some(Door::Nbd),
            2 => Some(Door::Tree),
            _ => None,
        }
    }
}
