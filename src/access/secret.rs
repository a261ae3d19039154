//! The secret of a token.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::types::Digest;

/// What the text begins with, so that scanners for leaked secrets find it: `rfs_[0-9a-f]{64}`.
const PREFIX: &str = "rfs_";

/// Random bytes of a secret.
const BYTES: usize = 32;

/// The secret of a token: `rfs_` and 64 hexadecimal digits. `Debug` does not show them.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Creates a secret of 256 bits of the system's randomness.
    ///
    /// # Errors
    /// `Io` when the system has none.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|e| {
            Error::new(ErrorKind::Io, "the system gives no random bytes").caused_by(e)
        })?;
        // A digest is written as its hexadecimal digits.
        Ok(Self(format!("{PREFIX}{}", Digest(bytes))))
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// BLAKE3 of the text, which the access table has in its place.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether a text has the form of a secret. No other text authenticates: the hash is a fast one, and
/// would not protect a word that people remember.
pub(super) fn is_shaped(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|digits| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == 2 * BYTES && digits.bytes().all(is_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::{Secret, is_shaped};

    #[test]
    fn secrets_differ_and_have_one_shape() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        assert_ne!(one.hash(), other.hash());
        assert_eq!(one.reveal().len(), 68);
        assert!(is_shaped(one.reveal()));
        assert_eq!(format!("{one:?}"), "Secret");
        for wrong in [
            "",
            "rfs_",
            &one.reveal()[..67],
            &one.reveal().to_uppercase(),
            &format!("{}0", one.reveal()),
        ] {
            assert!(!is_shaped(wrong), "{wrong}");
        }
    }
}
