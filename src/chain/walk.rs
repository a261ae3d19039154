//! Walks of a chain while a merge replaces layers in their slots.
//!
//! # Why
//! A walk reads one header after the other. When a layer is replaced between two of them, the slot below may be
//! gone, or the file that a descriptor was opened from is stale (ESTALE on NFS). That is no damage: the next walk
//! meets the new layers. A chain is damaged when two walks in a row meet the same layers and fail at the same one.
//!
//! # Invariants
//! The content of a slot, resolved through the layers below it, is the same for each layer that was ever in the
//! slot. So a walk that meets the old layer in one slot and the new one in another yields the right content.

use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::types::{Digest, LayerId};

/// LIMIT: walks until a chain that changes all the time is given up (our limit).
pub(super) const WALKS_MAX: usize = 64;

/// Identity of a chain: BLAKE3 over the ids of all its layers, top first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId(Digest);

impl ChainId {
    /// The identity of a chain of these layers.
    pub fn of(layers: impl IntoIterator<Item = LayerId>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for layer in layers {
            hasher.update(&layer.to_bytes());
        }
        Self(Digest::from(hasher.finalize()))
    }

    /// The hash as bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0.0
    }
}

impl std::fmt::Display for ChainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The layers that a walk met: slot and layer id, top first.
pub type Trail = Vec<(String, LayerId)>;

/// Runs `walk` until it succeeds, or until two walks in a row fail after the same layers. `pause` lies between two
/// walks: how long the filesystem may answer look-ups of names from its cache.
///
/// # Errors
/// `Corrupt` for a layer that is missing (`NotFound`) or stale (`Stale`) in two walks; other errors of `walk` at
/// once.
pub fn settled<T>(pause: Duration, mut walk: impl FnMut(&mut Trail) -> Result<T>) -> Result<T> {
    let mut before: Option<Trail> = None;
    let mut walks = 0;
    loop {
        let mut trail = Trail::new();
        walks += 1;
        match walk(&mut trail) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Stale) => {
                if before.as_ref() == Some(&trail) || walks >= WALKS_MAX {
                    return Err(e.with_kind(ErrorKind::Corrupt));
                }
                before = Some(trail);
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ChainId, WALKS_MAX, settled};
    use crate::error::{Error, ErrorKind, Result};
    use crate::types::LayerId;

    fn id(byte: u8) -> LayerId {
        LayerId::from_bytes([byte; 16])
    }

    #[test]
    fn a_chain_is_known_by_all_its_layers() {
        let chain = ChainId::of([id(1), id(2)]);
        assert_eq!(chain, ChainId::of([id(1), id(2)]));
        for other in [vec![id(1)], vec![id(2), id(1)], vec![id(1), id(3)]] {
            assert_ne!(chain, ChainId::of(other));
        }
    }

    #[test]
    fn only_two_walks_that_agree_are_damage() {
        let mut walks = 0;
        let walked: Result<()> = settled(Duration::ZERO, |trail| {
            walks += 1;
            // The second walk meets another layer than the first, the third one the same as the second.
            trail.push(("a".into(), id(if walks == 1 { 1 } else { 2 })));
            Err(Error::not_found("a layer is missing"))
        });
        let error = walked.unwrap_err();
        assert_eq!((walks, error.kind()), (3, ErrorKind::Corrupt));
        assert!(error.report().contains("a layer is missing"));

        let mut walks = 0;
        let found = settled(Duration::ZERO, |_| {
            walks += 1;
            if walks == 1 {
                return Err(Error::new(ErrorKind::Stale, "replaced"));
            }
            Ok(walks)
        });
        assert_eq!(found.unwrap(), 2);
    }

    #[test]
    fn other_errors_end_the_first_walk_and_an_endless_change_the_last() {
        let mut walks = 0;
        let walked: Result<()> = settled(Duration::ZERO, |_| {
            walks += 1;
            Err(Error::new(ErrorKind::Io, "unreadable"))
        });
        assert_eq!((walks, walked.unwrap_err().kind()), (1, ErrorKind::Io));
        let mut walks = 0;
        let walked: Result<()> = settled(Duration::ZERO, |trail| {
            walks += 1;
            trail.push((walks.to_string(), id(0)));
            Err(Error::not_found("a layer is missing"))
        });
        assert_eq!(walked.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(walks, WALKS_MAX);
    }
}
