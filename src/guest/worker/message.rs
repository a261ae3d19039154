//! Messages on a slot's socket: 24 bytes that describe the content of the shared memory, or request some.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::error::{Error, Result};
use crate::guest::bytes::{le32, le64};

/// Bytes of a message.
pub(super) const MESSAGE_BYTES: usize = 24;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Daemon to reader: a question of that many bytes.
    Call { length: u64 },
    /// Reader to daemon: an answer of that many bytes.
    Answer { length: u64 },
    /// Reader to daemon: that many bytes of a file, unencoded.
    Bytes { length: u64 },
    /// Reader to daemon: a request for these bytes of a device.
    Block {
        device: u32,
        offset: u64,
        length: u64,
    },
    /// Daemon to reader: the bytes are in the shared memory.
    Data,
    /// Daemon to reader: the bytes are all zero.
    Zero,
    /// Daemon to reader: the bytes cannot be read.
    Failed,
}

impl Message {
    /// Its bytes: kind, device (u32), offset, length (u64), all little-endian.
    pub(super) fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (kind, device, offset, length): (u32, u32, u64, u64) = match self {
            Self::Call { length } => (1, 0, 0, length),
            Self::Answer { length } => (2, 0, 0, length),
            Self::Bytes { length } => (3, 0, 0, length),
            Self::Block {
                device,
                offset,
                length,
            } => (4, device, offset, length),
            Self::Data => (5, 0, 0, 0),
            Self::Zero => (6, 0, 0, 0),
            Self::Failed => (7, 0, 0, 0),
        };
        let [a, b, c, d] = kind.to_le_bytes();
        let [e, f, g, h] = device.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = offset.to_le_bytes();
        let [q, r, s, t, u, v, w, x] = length.to_le_bytes();
        [
            a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x,
        ]
    }

    /// Parses a message.
    ///
    /// # Errors
    /// `Disconnected` when the bytes are not a message.
    pub(super) fn parse(bytes: &[u8; MESSAGE_BYTES]) -> Result<Self> {
        let kind = le32(bytes, 0);
        let device = le32(bytes, 4).unwrap_or(0);
        let offset = le64(bytes, 8).unwrap_or(0);
        let length = le64(bytes, 16).unwrap_or(0);
        Ok(match kind {
            Some(1) => Self::Call { length },
            Some(2) => Self::Answer { length },
            Some(3) => Self::Bytes { length },
            Some(4) => Self::Block {
                device,
                offset,
                length,
            },
            Some(5) => Self::Data,
            Some(6) => Self::Zero,
            Some(7) => Self::Failed,
            _ => {
                return Err(Error::new(
                    crate::error::ErrorKind::Disconnected,
                    "an unknown message",
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn messages_come_back_as_they_went() {
        for message in [
            Message::Call { length: 7 },
            Message::Answer { length: u64::MAX },
            Message::Bytes { length: 1 << 20 },
            Message::Block {
                device: 3,
                offset: 1 << 40,
                length: 4096,
            },
            Message::Data,
            Message::Zero,
            Message::Failed,
        ] {
            assert_eq!(Message::parse(&message.encode()).unwrap(), message);
        }
        assert!(Message::parse(&[0; 24]).is_err());
        assert!(Message::parse(&[255; 24]).is_err());
    }
}
