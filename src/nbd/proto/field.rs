//! Big-endian fields of a message, parsed one after the other.

use crate::error::{Error, ErrorKind, Result};
use crate::types::width::usize_from_u32;

/// An error that describes how the peer broke the protocol.
pub fn violation(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Disconnected, what)
}

/// The rest of a message.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts at the first field of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| violation("the peer sent a message that is too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    /// A field of two bytes.
    ///
    /// # Errors
    /// `Disconnected` when the message ends before.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A field of four bytes.
    ///
    /// # Errors
    /// As [`Fields::u16`].
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A field of eight bytes.
    ///
    /// # Errors
    /// As [`Fields::u16`].
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// As [`Fields::u16`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(count).ok_or_else(|| {
            violation("the peer sent a length that passes the end of its message")
        })?;
        self.0 = rest;
        Ok(field)
    }

    /// A string with a 32-bit length before it.
    ///
    /// # Errors
    /// As [`Fields::u16`]; also when it is not UTF-8 or longer than [`super::STRING_BYTES_MAX`].
    pub fn string(&mut self) -> Result<&'a str> {
        let length = usize_from_u32(self.u32()?);
        text(self.bytes(length)?)
    }

    /// All remaining bytes.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Refuses a message that has bytes left.
    ///
    /// # Errors
    /// `Disconnected`.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(violation("the peer sent a message that is too long"))
        }
    }
}

/// Checks that bytes are a string of the protocol: UTF-8 of bounded length.
///
/// # Errors
/// `Disconnected` when they are not.
pub fn text(bytes: &[u8]) -> Result<&str> {
    if bytes.len() > super::STRING_BYTES_MAX {
        return Err(violation("the peer sent a string of more than 4096 bytes"));
    }
    std::str::from_utf8(bytes).map_err(|_| violation("the peer sent a string that is not UTF-8"))
}

/// Length of a slice for a 32-bit field. A longer length saturates (and every peer refuses it).
#[must_use]
pub fn length_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Appends a string with its length before it.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend(length_u32(text.as_bytes()).to_be_bytes());
    out.extend(text.as_bytes());
}
