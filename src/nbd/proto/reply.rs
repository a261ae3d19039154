//! Replies of the transmission phase (proto.md, "Simple reply message", "Structured reply chunk message").

use super::field::{Fields, length_u32, text, violation};
use super::flag::{ChunkFlags, StatusFlags};
use crate::error::Result;
use crate::types::width::usize_from_u32;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Chunk types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkType {
    /// Nothing but the end.
    None,
    /// Offset u64, then bytes.
    OffsetData,
    /// Offset u64, length u32: zeroes.
    OffsetHole,
    /// Context id u32, then extents.
    BlockStatus,
    /// Error u32, message.
    Error,
    /// Error u32, message, offset u64.
    ErrorOffset,
    /// A type that we do not know.
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
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            code => Self::Unknown(code),
        }
    }

    /// Whether it stands for a failure (bit 15).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.code() & 0x8000 != 0
    }
}

/// The header of a reply of either sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A simple reply: what a READ asked for follows when `error` is 0.
    Simple {
        /// 0 or an error.
        error: u32,
        /// The request.
        cookie: u64,
    },
    /// A chunk, `length_bytes` of payload follow.
    Chunk {
        /// Whether more follow.
        flags: ChunkFlags,
        /// What the payload is.
        kind: ChunkType,
        /// The request.
        cookie: u64,
        /// Bytes of the payload.
        length_bytes: u32,
    },
}

impl Header {
    /// Bytes of a simple reply's header, and the first ones of a chunk's.
    pub const SIMPLE_BYTES: usize = 16;
    /// Bytes that a chunk's header has more.
    pub const CHUNK_MORE_BYTES: usize = 4;
    /// Bytes of a chunk's header.
    pub const CHUNK_BYTES: usize = 20;

    /// Whether the first 16 bytes begin a chunk, whose header has 4 more.
    ///
    /// # Errors
    /// `Disconnected` when they begin neither.
    pub fn is_chunk(first: &[u8; Self::SIMPLE_BYTES]) -> Result<bool> {
        match Fields::new(first).u32()? {
            SIMPLE_MAGIC => Ok(false),
            CHUNK_MAGIC => Ok(true),
            magic => Err(violation(format!(
                "the server sent a reply with the magic number {magic:#010x}"
            ))),
        }
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Disconnected` when it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let header = match fields.u32()? {
            SIMPLE_MAGIC => Self::Simple {
                error: fields.u32()?,
                cookie: fields.u64()?,
            },
            CHUNK_MAGIC => Self::Chunk {
                flags: ChunkFlags::from_bits_retain(fields.u16()?),
                kind: ChunkType::of_code(fields.u16()?),
                cookie: fields.u64()?,
                length_bytes: fields.u32()?,
            },
            magic => {
                return Err(violation(format!(
                    "the server sent a reply with the magic number {magic:#010x}"
                )));
            }
        };
        fields.finish()?;
        Ok(header)
    }

    /// The header as it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::CHUNK_BYTES.saturating_add(12));
        match *self {
            Self::Simple { error, cookie } => {
                out.extend(SIMPLE_MAGIC.to_be_bytes());
                out.extend(error.to_be_bytes());
                out.extend(cookie.to_be_bytes());
            }
            Self::Chunk {
                flags,
                kind,
                cookie,
                length_bytes,
            } => {
                out.extend(CHUNK_MAGIC.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
                out.extend(kind.code().to_be_bytes());
                out.extend(cookie.to_be_bytes());
                out.extend(length_bytes.to_be_bytes());
            }
        }
        out
    }
}

/// Header and payload of an error chunk.
#[must_use]
pub fn encode_error(flags: ChunkFlags, cookie: u64, error: u32, message: &str) -> Vec<u8> {
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
    encode_chunk(flags, ChunkType::Error, cookie, &payload)
}

/// LIMIT: bytes of a message for people in an error chunk. Ours; proto.md allows 4,096.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Header and payload of a chunk of zeroes.
#[must_use]
pub fn encode_hole(flags: ChunkFlags, cookie: u64, offset: u64, length_bytes: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(length_bytes.to_be_bytes());
    encode_chunk(flags, ChunkType::OffsetHole, cookie, &payload)
}

/// Header and offset of a chunk of data; the bytes follow.
#[must_use]
pub fn encode_data(flags: ChunkFlags, cookie: u64, offset: u64, length_bytes: u32) -> Vec<u8> {
    let header = Header::Chunk {
        flags,
        kind: ChunkType::OffsetData,
        cookie,
        length_bytes: length_bytes.saturating_add(8),
    };
    let mut out = header.encode();
    out.extend(offset.to_be_bytes());
    out
}

/// Header and payload of a chunk of extents.
#[must_use]
pub fn encode_status(
    flags: ChunkFlags,
    cookie: u64,
    context: u32,
    extents: &[(u32, u32)],
) -> Vec<u8> {
    let mut payload = context.to_be_bytes().to_vec();
    for (length, status) in extents {
        payload.extend(length.to_be_bytes());
        payload.extend(status.to_be_bytes());
    }
    encode_chunk(flags, ChunkType::BlockStatus, cookie, &payload)
}

/// A whole chunk.
#[must_use]
pub fn encode_chunk(flags: ChunkFlags, kind: ChunkType, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::Chunk {
        flags,
        kind,
        cookie,
        length_bytes: length_u32(payload),
    };
    let mut out = header.encode();
    out.extend(payload);
    out
}

/// The payload of an error chunk: the error and what the server says about it.
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
        // Error types of the future begin alike.
        _ => {}
    }
    if error == 0 {
        return Err(violation("the server sent an error chunk without an error"));
    }
    Ok((error, message))
}

/// The payload of a chunk of extents: the context and the extents, at least one, none empty.
///
/// # Errors
/// `Disconnected` when it is not that.
pub fn parse_status(payload: &[u8]) -> Result<(u32, Vec<(u32, StatusFlags)>)> {
    let mut fields = Fields::new(payload);
    let context = fields.u32()?;
    let (entries, rest) = fields.rest().as_chunks::<8>();
    if entries.is_empty() || !rest.is_empty() {
        return Err(violation("the server sent extents of a strange length"));
    }
    let mut extents = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut fields = Fields::new(entry);
        let length = fields.u32()?;
        if length == 0 {
            return Err(violation("the server sent an empty extent"));
        }
        extents.push((length, StatusFlags::from_bits_retain(fields.u32()?)));
    }
    Ok((context, extents))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::{
        ChunkType, Header, encode_data, encode_error, encode_hole, encode_status, parse_error,
        parse_status,
    };
    use crate::nbd::proto::flag::{ChunkFlags, StatusFlags};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn split(bytes: &[u8]) -> (Header, &[u8]) {
        let (header, payload) = bytes.split_at(Header::CHUNK_BYTES);
        (Header::parse(header).unwrap(), payload)
    }

    #[test]
    fn chunks_say_how_long_they_are() {
        let done = ChunkFlags::DONE;
        let whole = [
            encode_hole(done, 7, 512, 512),
            encode_error(done, 7, 5, &"ä".repeat(4096)),
            encode_status(done, 7, 1, &[(512, 2)]),
        ];
        for bytes in &whole {
            let (
                Header::Chunk {
                    cookie,
                    length_bytes,
                    ..
                },
                payload,
            ) = split(bytes)
            else {
                panic!("not a chunk")
            };
            assert_eq!(
                (cookie, usize::try_from(length_bytes)),
                (7, Ok(payload.len()))
            );
        }
        assert_eq!(encode_data(done, 7, 0, 100).len(), Header::CHUNK_BYTES + 8);
        let (_, payload) = split(&whole[1]);
        assert!(
            parse_error(ChunkType::Error, payload)
                .unwrap()
                .1
                .starts_with("ää")
        );
        assert!(parse_error(ChunkType::ErrorOffset, payload).is_err());
        let (_, payload) = split(&whole[2]);
        assert_eq!(
            parse_status(payload).unwrap(),
            (1, vec![(512, StatusFlags::ZERO)])
        );
        assert!(parse_status(&payload[..4]).is_err());
        assert!(parse_status(&payload[..11]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_reply_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64), code: u16) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(header.encode(), bytes.clone());
            }
            let _ = parse_error(ChunkType::of_code(code), &bytes);
            let _ = parse_status(&bytes);
            prop_assert_eq!(ChunkType::of_code(code).code(), code);
        }
    }
}
