//! Replies of the transmission phase (proto.md, "Simple reply message", "Structured reply chunk message").

use super::field::{Fields, text, violation};
use super::flag::{ChunkFlags, StatusFlags};
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u32};

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_MAGIC: u32 = 0x6e8a_278c;

/// Chunk types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkType {
    /// No content: ends a reply.
    None,
    /// Offset u64, then bytes.
    OffsetData,
    /// Offset u64, length u32: zeroes.
    OffsetHole,
    /// Context id u32, then extents.
    BlockStatus,
    /// Context id u32, count u32, then extents with lengths and flags of 64 bits.
    BlockStatusExtended,
    /// Error u32, message.
    Error,
    /// Error u32, message, offset u64.
    ErrorOffset,
    /// An unknown type.
    Unknown(u16),
}

impl ChunkType {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::BlockStatusExtended => 6,
            Self::Error => 0x8001,
            Self::ErrorOffset => 0x8002,
            Self::Unknown(code) => code,
        }
    }

    /// The type of that number.
    #[must_use]
    pub const fn of_code(code: u16) -> Self {
        match code {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            6 => Self::BlockStatusExtended,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            code => Self::Unknown(code),
        }
    }

    /// Whether the type is an error (bit 15).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.code() & 0x8000 != 0
    }
}

/// The header of a reply of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A simple reply; the requested bytes of a READ follow when `error` is 0.
    Simple {
        /// 0 or an error number.
        error: u32,
        /// The cookie of the request.
        cookie: u64,
    },
    /// A chunk; `length_bytes` of payload follow.
    Chunk {
        /// Whether more chunks follow.
        flags: ChunkFlags,
        /// The type of the payload.
        kind: ChunkType,
        /// The request that the chunk answers.
        to: Recipient,
        /// Bytes of the payload; a structured chunk's length has 32 bits.
        length_bytes: u64,
    },
}

/// The request that a chunk answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// Its cookie.
    pub cookie: u64,
    /// In extended chunks, the offset of the request.
    pub offset: Option<u64>,
}

impl Header {
    /// Bytes of a simple reply's header, and of the first part of a chunk's.
    pub const SIMPLE_BYTES: usize = 16;
    /// Further bytes of a structured chunk's header.
    pub const CHUNK_MORE_BYTES: usize = 4;
    /// Bytes of an extended chunk's header.
    pub const EXTENDED_BYTES: usize = 32;

    /// Whether the first 16 bytes begin a structured chunk, whose header has 4 more.
    ///
    /// # Errors
    /// `Disconnected` when they begin neither a simple reply nor a chunk.
    pub fn is_chunk(first: &[u8; Self::SIMPLE_BYTES]) -> Result<bool> {
        match Fields::new(first).u32()? {
            SIMPLE_MAGIC => Ok(false),
            CHUNK_MAGIC => Ok(true),
            magic => Err(violation(format!(
                "the server sent a reply with the magic number {magic:#010x}"
            ))),
        }
    }

    /// Parses a header.
    ///
    /// # Errors
    /// `Disconnected` when the bytes are not a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let header = match fields.u32()? {
            SIMPLE_MAGIC => Self::Simple {
                error: fields.u32()?,
                cookie: fields.u64()?,
            },
            magic @ (CHUNK_MAGIC | EXTENDED_MAGIC) => {
                let is_extended = magic == EXTENDED_MAGIC;
                let flags = ChunkFlags::from_bits_retain(fields.u16()?);
                let kind = ChunkType::of_code(fields.u16()?);
                let to = Recipient {
                    cookie: fields.u64()?,
                    offset: is_extended.then(|| fields.u64()).transpose()?,
                };
                let length_bytes = if is_extended {
                    fields.u64()?
                } else {
                    u64::from(fields.u32()?)
                };
                Self::Chunk {
                    flags,
                    kind,
                    to,
                    length_bytes,
                }
            }
            magic => {
                return Err(violation(format!(
                    "the server sent a reply with the magic number {magic:#010x}"
                )));
            }
        };
        fields.finish()?;
        Ok(header)
    }

    /// The header in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::EXTENDED_BYTES.saturating_add(12));
        match *self {
            Self::Simple { error, cookie } => {
                out.extend(SIMPLE_MAGIC.to_be_bytes());
                out.extend(error.to_be_bytes());
                out.extend(cookie.to_be_bytes());
            }
            Self::Chunk {
                flags,
                kind,
                to,
                length_bytes,
            } => {
                let magic = match to.offset {
                    Some(_) => EXTENDED_MAGIC,
                    None => CHUNK_MAGIC,
                };
                out.extend(magic.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
                out.extend(kind.code().to_be_bytes());
                out.extend(to.cookie.to_be_bytes());
                match to.offset {
                    Some(offset) => {
                        out.extend(offset.to_be_bytes());
                        out.extend(length_bytes.to_be_bytes());
                    }
                    None => {
                        let length = u32::try_from(length_bytes).unwrap_or(u32::MAX);
                        out.extend(length.to_be_bytes());
                    }
                }
            }
        }
        out
    }
}

impl Recipient {
    /// Header and payload of an error chunk.
    #[must_use]
    pub fn encode_error(self, flags: ChunkFlags, error: u32, message: &str) -> Vec<u8> {
        let message = message
            .char_indices()
            .take_while(|(at, c)| at.saturating_add(c.len_utf8()) <= MESSAGE_BYTES_MAX)
            .map(|(_, c)| c)
            .collect::<String>();
        let mut payload = error.to_be_bytes().to_vec();
        payload.extend(
            u16::try_from(message.len())
                .unwrap_or_default()
                .to_be_bytes(),
        );
        payload.extend(message.as_bytes());
        self.encode_chunk(flags, ChunkType::Error, &payload)
    }

    /// Header and payload of a chunk of zeroes.
    #[must_use]
    pub fn encode_hole(self, flags: ChunkFlags, offset: u64, length_bytes: u32) -> Vec<u8> {
        let mut payload = offset.to_be_bytes().to_vec();
        payload.extend(length_bytes.to_be_bytes());
        self.encode_chunk(flags, ChunkType::OffsetHole, &payload)
    }

    /// Header and offset of a chunk of data; the data follows.
    #[must_use]
    pub fn encode_data(self, flags: ChunkFlags, offset: u64, length_bytes: u32) -> Vec<u8> {
        let header = Header::Chunk {
            flags,
            kind: ChunkType::OffsetData,
            to: self,
            length_bytes: u64::from(length_bytes).saturating_add(8),
        };
        let mut out = header.encode();
        out.extend(offset.to_be_bytes());
        out
    }

    /// Header and payload of a chunk of extents (lengths in bytes, and flags). Without extended
    /// headers, a length is cut to at most 4 GiB - 1.
    #[must_use]
    pub fn encode_status(self, flags: ChunkFlags, context: u32, extents: &[(u64, u32)]) -> Vec<u8> {
        let mut payload = context.to_be_bytes().to_vec();
        if self.offset.is_none() {
            for (length, status) in extents {
                let length = u32::try_from(*length).unwrap_or(u32::MAX);
                payload.extend(length.to_be_bytes());
                payload.extend(status.to_be_bytes());
            }
            return self.encode_chunk(flags, ChunkType::BlockStatus, &payload);
        }
        let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        payload.extend(count.to_be_bytes());
        for (length, status) in extents {
            payload.extend(length.to_be_bytes());
            payload.extend(u64::from(*status).to_be_bytes());
        }
        self.encode_chunk(flags, ChunkType::BlockStatusExtended, &payload)
    }

    /// A whole chunk.
    #[must_use]
    pub fn encode_chunk(self, flags: ChunkFlags, kind: ChunkType, payload: &[u8]) -> Vec<u8> {
        let header = Header::Chunk {
            flags,
            kind,
            to: self,
            length_bytes: u64_from_usize(payload.len()),
        };
        let mut out = header.encode();
        out.extend(payload);
        out
    }
}

/// LIMIT: bytes of the message text in an error chunk. Our limit; proto.md allows 4,096.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Parses the payload of an error chunk: the error number and the server's message.
///
/// # Errors
/// `Disconnected` when the lengths do not fit.
pub fn parse_error(kind: ChunkType, payload: &[u8]) -> Result<(u32, &str)> {
    let mut fields = Fields::new(payload);
    let error = fields.u32()?;
    let length = fields.u16()?;
    let message = text(fields.bytes(usize_from_u32(u32::from(length)))?)?;
    match kind {
        ChunkType::Error => fields.finish()?,
        ChunkType::ErrorOffset => {
            fields.u64()?;
            fields.finish()?;
        }
        // Error types of later protocol versions begin the same way.
        _ => {}
    }
    if error == 0 {
        return Err(violation("the server sent an error chunk without an error"));
    }
    Ok((error, message))
}

/// Parses the payload of a chunk of extents of either kind: the context and the extents, at least
/// one, none empty.
///
/// # Errors
/// `Disconnected` when the payload is invalid.
pub fn parse_status(kind: ChunkType, payload: &[u8]) -> Result<(u32, Vec<(u64, StatusFlags)>)> {
    let strange = || violation("the server sent extents of a strange length");
    let mut fields = Fields::new(payload);
    let context = fields.u32()?;
    let mut extents = Vec::new();
    if kind == ChunkType::BlockStatusExtended {
        let count = fields.u32()?;
        let (entries, rest) = fields.rest().as_chunks::<16>();
        if entries.len() != usize_from_u32(count) || !rest.is_empty() {
            return Err(strange());
        }
        extents.reserve_exact(entries.len());
        for entry in entries {
            let mut fields = Fields::new(entry);
            let length = fields.u64()?;
            // No context that this program requests has flags of more than 32 bits.
            let flags = u32::try_from(fields.u64()?)
                .map_err(|_| violation("the server sent flags of 64 bits for a context of 32"))?;
            extents.push((length, StatusFlags::from_bits_retain(flags)));
        }
    } else {
        let (entries, rest) = fields.rest().as_chunks::<8>();
        if !rest.is_empty() {
            return Err(strange());
        }
        extents.reserve_exact(entries.len());
        for entry in entries {
            let mut fields = Fields::new(entry);
            let length = u64::from(fields.u32()?);
            extents.push((length, StatusFlags::from_bits_retain(fields.u32()?)));
        }
    }
    if extents.is_empty() {
        return Err(strange());
    }
    if extents.iter().any(|(length, _)| *length == 0) {
        return Err(violation("the server sent an empty extent"));
    }
    Ok((context, extents))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::{ChunkType, Header, Recipient, parse_error, parse_status};
    use crate::nbd::proto::flag::{ChunkFlags, StatusFlags};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    const COMPACT: Recipient = Recipient {
        cookie: 7,
        offset: None,
    };
    const EXTENDED: Recipient = Recipient {
        cookie: 7,
        offset: Some(4096),
    };

    fn split(bytes: &[u8], to: Recipient) -> (Header, &[u8]) {
        let length = match to.offset {
            Some(_) => Header::EXTENDED_BYTES,
            None => Header::SIMPLE_BYTES + Header::CHUNK_MORE_BYTES,
        };
        let (header, payload) = bytes.split_at(length);
        (Header::parse(header).unwrap(), payload)
    }

    #[test]
    fn chunks_say_how_long_they_are() {
        let done = ChunkFlags::DONE;
        for sent in [COMPACT, EXTENDED] {
            let whole = [
                sent.encode_hole(done, 512, 512),
                sent.encode_error(done, 5, &"ä".repeat(4096)),
                sent.encode_status(done, 1, &[(512, 2)]),
            ];
            for bytes in &whole {
                let (
                    Header::Chunk {
                        to, length_bytes, ..
                    },
                    payload,
                ) = split(bytes, sent)
                else {
                    panic!("not a chunk")
                };
                assert_eq!(
                    (to, usize::try_from(length_bytes)),
                    (sent, Ok(payload.len()))
                );
            }
            let (_, payload) = split(&whole[1], sent);
            assert!(
                parse_error(ChunkType::Error, payload)
                    .unwrap()
                    .1
                    .starts_with("ää")
            );
            assert!(parse_error(ChunkType::ErrorOffset, payload).is_err());
            let (Header::Chunk { kind, .. }, payload) = split(&whole[2], sent) else {
                panic!("not a chunk")
            };
            assert_eq!(
                parse_status(kind, payload).unwrap(),
                (1, vec![(512, StatusFlags::ZERO)])
            );
            assert!(parse_status(kind, &payload[..4]).is_err());
            assert!(parse_status(kind, &payload[..payload.len() - 1]).is_err());
        }
        assert_eq!(COMPACT.encode_data(done, 0, 100).len(), 20 + 8);
        assert_eq!(EXTENDED.encode_data(done, 0, 100).len(), 32 + 8);
    }

    #[test]
    fn extended_extents_count_themselves_and_have_flags_of_32_bits() {
        let long = EXTENDED.encode_status(ChunkFlags::DONE, 3, &[(1 << 40, 1), (512, 0)]);
        let payload = &long[Header::EXTENDED_BYTES..];
        let kind = ChunkType::BlockStatusExtended;
        let (context, extents) = parse_status(kind, payload).unwrap();
        assert_eq!((context, extents[0].0, extents.len()), (3, 1 << 40, 2));
        for (at, byte) in [(7, 3), (7, 1), (16, 1)] {
            let mut wrong = payload.to_vec();
            wrong[at] = byte;
            assert!(parse_status(kind, &wrong).is_err(), "{at}");
        }
        assert!(parse_status(kind, &[0; 8]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_reply_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64), code: u16) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(header.encode(), bytes.clone());
            }
            let _ = parse_error(ChunkType::of_code(code), &bytes);
            let _ = parse_status(ChunkType::BlockStatus, &bytes);
            let _ = parse_status(ChunkType::BlockStatusExtended, &bytes);
            prop_assert_eq!(ChunkType::of_code(code).code(), code);
        }
    }
}
