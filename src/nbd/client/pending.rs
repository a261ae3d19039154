//! A request that waits for its reply: the expected reply, and its parts so far.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::block::Buffer;
use crate::error::{Error, Result};
use crate::nbd::proto::field::{Fields, violation};
use crate::nbd::proto::flag::StatusFlags;
use crate::nbd::proto::reply::{ChunkType, parse_error, parse_status};
use crate::nbd::proto::status::Status;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: separate fragments in which the bytes of one read may arrive.
const FRAGMENTS_MAX: usize = 8192;

/// LIMIT: bytes of a chunk without data: a million extents.
pub(super) const CHUNK_BYTES_MAX: u32 = 8 << 20;

/// LIMIT: characters of a server's message that are quoted.
const MESSAGE_CHARS_MAX: usize = 256;

/// Extents of a reply: lengths in bytes, with their flags.
pub(super) type Extents = Vec<(u64, StatusFlags)>;

/// The expected result of a request.
#[derive(Debug)]
pub(super) enum Want {
    /// Success or failure.
    Nothing,
    /// Bytes of a read.
    Bytes {
        /// Offset of the read.
        offset: u64,
        /// Bytes received so far; as long as the read.
        buffer: Buffer,
        /// Received ranges of the buffer, ordered and disjoint.
        filled: Vec<(usize, usize)>,
    },
    /// Extents of a context.
    Extents {
        /// The context's number.
        context: u32,
        /// The number of the other context that was negotiated, whose extents come with it.
        other: Option<u32>,
        /// The received extents.
        found: Option<Extents>,
    },
}

/// The result of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// Success.
    Done,
    /// Bytes.
    Bytes(Buffer),
    /// Extents.
    Extents(Extents),
}

/// A reply that is being received.
#[derive(Debug)]
pub(super) struct Reply {
    want: Want,
    failure: Option<Error>,
}

fn server_error(code: u32, message: &str) -> Error {
    let status = Status::of_code(code);
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    let text = if message.is_empty() {
        format!("the NBD server answered {}", status.name())
    } else {
        format!(
            "the NBD server answered {}: \"{}\"",
            status.name(),
            message.escape_debug()
        )
    };
    Error::new(status.kind(), text)
}

impl Reply {
    pub(super) const fn new(want: Want) -> Self {
        Self {
            want,
            failure: None,
        }
    }

    /// Records a simple reply's error.
    pub(super) fn fail(&mut self, code: u32) {
        self.failure.get_or_insert(server_error(code, ""));
    }

    /// The whole buffer of a read, for a simple reply.
    pub(super) fn whole(&mut self) -> Option<&mut [u8]> {
        match &mut self.want {
            Want::Bytes { buffer, filled, .. } => {
                *filled = vec![(0, buffer.len())];
                Some(buffer)
            }
            Want::Nothing | Want::Extents { .. } => None,
        }
    }

    /// The part of the buffer for `length` bytes at `offset`; marks it as received.
    ///
    /// # Errors
    /// `Disconnected` when the bytes were not requested, or were received before.
    pub(super) fn part(&mut self, offset: u64, length: u64) -> Result<&mut [u8]> {
        let Want::Bytes {
            offset: begin,
            buffer,
            filled,
        } = &mut self.want
        else {
            return Err(violation("the server sent bytes without a request"));
        };
        let outside = || violation("the server sent bytes outside of the requested range");
        let from = offset.checked_sub(*begin).ok_or_else(outside)?;
        let end = from.checked_add(length).ok_or_else(outside)?;
        if length == 0 || end > u64_from_usize(buffer.len()) {
            return Err(outside());
        }
        let (from, end) = (usize_from_u64(from), usize_from_u64(end));
        fill(filled, from, end)?;
        buffer.get_mut(from..end).ok_or_else(outside)
    }

    /// Processes the payload of a chunk without data.
    ///
    /// # Errors
    /// `Disconnected` when it is malformed.
    pub(super) fn chunk(&mut self, kind: ChunkType, payload: &[u8]) -> Result<()> {
        match kind {
            ChunkType::None if payload.is_empty() => Ok(()),
            ChunkType::OffsetHole => {
                let mut fields = Fields::new(payload);
                let (offset, length) = (fields.u64()?, fields.u32()?);
                fields.finish()?;
                self.part(offset, u64::from(length))?.fill(0);
                Ok(())
            }
            ChunkType::BlockStatus | ChunkType::BlockStatusExtended => {
                let Want::Extents {
                    context,
                    other,
                    found,
                } = &mut self.want
                else {
                    return Err(violation("the server sent extents without a request"));
                };
                let (id, extents) = parse_status(kind, payload)?;
                if Some(id) == *other {
                    *other = None;
                    return Ok(());
                }
                if id != *context || found.replace(extents).is_some() {
                    return Err(violation(
                        "the server sent extents of another context, or twice",
                    ));
                }
                Ok(())
            }
            kind if kind.is_error() => {
                let (code, message) = parse_error(kind, payload)?;
                self.failure.get_or_insert(server_error(code, message));
                Ok(())
            }
            _ => Err(violation(format!(
                "the server sent a chunk of type {} and {} bytes",
                kind.code(),
                payload.len()
            ))),
        }
    }

    /// Ends the reply: no further part will come.
    ///
    /// # Errors
    /// The server's error in the inner result; `Disconnected` in the outer one when something is missing.
    pub(super) fn finish(self) -> Result<Result<Answer>> {
        if let Some(failure) = self.failure {
            return Ok(Err(failure));
        }
        match self.want {
            Want::Nothing => Ok(Ok(Answer::Done)),
            Want::Bytes { buffer, filled, .. } => match filled.as_slice() {
                [(0, end)] if *end == buffer.len() => Ok(Ok(Answer::Bytes(buffer))),
                _ => Err(violation("the server sent fewer bytes than were asked for")),
            },
            Want::Extents { found, .. } => match found {
                Some(extents) => Ok(Ok(Answer::Extents(extents))),
                None => Err(violation("the server sent no extents")),
            },
        }
    }
}

/// Adds a range to the received ones.
fn fill(filled: &mut Vec<(usize, usize)>, from: usize, end: usize) -> Result<()> {
    let at = filled.partition_point(|range| range.1 < from);
    // The ranges that touch `from..end`: at most the one before it and the one after it.
    let (mut from, mut end) = (from, end);
    let mut last = at;
    while let Some((a, b)) = filled.get(last).copied() {
        if a > end {
            break;
        }
        if a < end && from < b {
            return Err(violation("the server sent the same bytes twice"));
        }
        (from, end) = (from.min(a), end.max(b));
        last = last.saturating_add(1);
    }
    filled.splice(at..last, [(from, end)]);
    if filled.len() > FRAGMENTS_MAX {
        return Err(violation("the server sent a read in too many pieces"));
    }
    Ok(())
}

/// Splits the payload of a data chunk: its length without the offset before it.
///
/// # Errors
/// `Disconnected` when the payload is too short for both.
pub(super) fn data_length(length_bytes: u64) -> Result<u64> {
    match length_bytes.checked_sub(8) {
        Some(length) if length > 0 => Ok(length),
        _ => Err(violation("the server sent a chunk of data without data")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Reply, Want};
    use crate::block::BufferPool;
    use crate::error::ErrorKind;
    use crate::nbd::proto::reply::ChunkType;

    fn read(length: usize) -> Reply {
        let mut buffer = BufferPool::new(0).take(length);
        buffer.fill(9);
        Reply::new(Want::Bytes {
            offset: 1000,
            buffer,
            filled: Vec::new(),
        })
    }

    fn hole(offset: u64, length: u32) -> Vec<u8> {
        [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat()
    }

    #[test]
    fn a_read_is_complete_when_each_byte_came_once() {
        let mut reply = read(30);
        reply.part(1020, 10).unwrap().fill(3);
        reply.part(1000, 10).unwrap().fill(1);
        reply.chunk(ChunkType::OffsetHole, &hole(1010, 10)).unwrap();
        let Answer::Bytes(bytes) = reply.finish().unwrap().unwrap() else {
            panic!("not bytes")
        };
        assert_eq!(*bytes, [[1; 10], [0; 10], [3; 10]].concat());
    }

    #[test]
    fn lies_end_the_connection() {
        for (offset, length) in [(999, 2), (1029, 2), (1000, 0), (u64::MAX, 2), (0, 1)] {
            assert!(read(30).part(offset, length).is_err(), "{offset}+{length}");
        }
        let mut reply = read(30);
        reply.part(1000, 20).unwrap();
        assert!(reply.part(1019, 1).is_err());
        assert!(reply.chunk(ChunkType::OffsetHole, &hole(1000, 1)).is_err());
        assert!(reply.chunk(ChunkType::BlockStatus, &[0; 12]).is_err());
        assert!(reply.chunk(ChunkType::None, &[0]).is_err());
        assert!(reply.chunk(ChunkType::Unknown(77), &[]).is_err());
        assert!(reply.finish().is_err());
        assert!(Reply::new(Want::Nothing).part(0, 1).is_err());
        let with = |other| Want::Extents {
            context: 1,
            other,
            found: None,
        };
        let want = || with(None);
        assert!(Reply::new(want()).finish().is_err());
        let other = [2u32, 512, 0].map(u32::to_be_bytes).concat();
        assert!(
            Reply::new(want())
                .chunk(ChunkType::BlockStatus, &other)
                .is_err()
        );
        // The extents of the other context come once, and are not the answer.
        let mut reply = Reply::new(with(Some(2)));
        reply.chunk(ChunkType::BlockStatus, &other).unwrap();
        assert!(reply.chunk(ChunkType::BlockStatus, &other).is_err());
        assert!(reply.finish().is_err());
    }

    #[test]
    fn an_error_chunk_is_the_answer() {
        let mut reply = read(8);
        let payload = [&28u32.to_be_bytes()[..], &4u16.to_be_bytes(), b"full"].concat();
        reply.chunk(ChunkType::Error, &payload).unwrap();
        let error = reply.finish().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("full"));
    }
}
