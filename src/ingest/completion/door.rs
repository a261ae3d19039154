//! Doors: a disk of a session belongs to the door that writes it first.
//!
//! # Why
//! Bytes written through one door would be hidden by what the kernel still caches of the other; and each has its own rule of
//! when a disk is finished.

use std::sync::atomic::{AtomicU8, Ordering};

/// The ways by which bytes enter a session.
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

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Nbd),
            2 => Some(Self::Tree),
            _ => None,
        }
    }

    /// The door's name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Tree => "tree",
        }
    }
}

/// The door that a disk belongs to, once a door has written it.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    /// Takes the disk for a door.
    ///
    /// # Errors
    /// The door that the disk already belongs to.
    pub(super) fn claim(&self, door: Door) -> std::result::Result<(), Door> {
        let claimed = self
            .0
            .compare_exchange(0, door.code(), Ordering::SeqCst, Ordering::SeqCst);
        match claimed.err().and_then(Door::of_code) {
            Some(other) if other != door => Err(other),
            _ => Ok(()),
        }
    }

    /// The door that the disk belongs to, if any.
    pub(super) fn door(&self) -> Option<Door> {
        Door::of_code(self.0.load(Ordering::SeqCst))
    }
}
