//! Requests of the transmission phase (proto.md, "Request message").

use super::Mode;
use super::field::{Fields, violation};
use super::flag::CommandFlags;
use crate::error::Result;

/// First word of a request.
const MAGIC: u32 = 0x2560_9513;

/// First word of an extended request.
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write the bytes that follow.
    Write,
    /// Disconnect; has no reply.
    Disconnect,
    /// Make everything durable that was answered before.
    Flush,
    /// The bytes are no longer needed.
    Trim,
    /// The bytes will be read soon.
    Cache,
    /// Write zeroes.
    WriteZeroes,
    /// Report the extents of a range.
    BlockStatus,
    /// An unknown command.
    Unknown(u16),
}

impl Command {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(code) => code,
        }
    }

    /// The command of that number.
    #[must_use]
    pub const fn of_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            code => Self::Unknown(code),
        }
    }
}

/// The header of a request; the payload of a WRITE follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags of the command.
    pub flags: CommandFlags,
    /// The command.
    pub command: Command,
    /// Identifies the request in its reply.
    pub cookie: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes. In an extended request with PAYLOAD_LEN: the length of the payload.
    pub length_bytes: u64,
}

impl Request {
    /// Bytes of the header.
    pub const BYTES: usize = 28;
    /// Bytes of an extended header.
    pub const EXTENDED_BYTES: usize = 32;

    /// Parses a header.
    ///
    /// # Errors
    /// `Disconnected` when it does not begin with its magic number: the stream is out of step.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let request = Self::begin(&mut fields, MAGIC)?;
        Ok(Self {
            length_bytes: u64::from(fields.u32()?),
            ..request
        })
    }

    /// Parses an extended header.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse_extended(bytes: &[u8; Self::EXTENDED_BYTES]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let request = Self::begin(&mut fields, EXTENDED_MAGIC)?;
        Ok(Self {
            length_bytes: fields.u64()?,
            ..request
        })
    }

    fn begin(fields: &mut Fields<'_>, expected: u32) -> Result<Self> {
        let magic = fields.u32()?;
        if magic != expected {
            return Err(violation(format!(
                "the peer sent a request with the magic number {magic:#010x}"
            )));
        }
        Ok(Self {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: Command::of_code(fields.u16()?),
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length_bytes: 0,
        })
    }

    /// Whether a payload of `length_bytes` follows the header.
    ///
    /// The protocol requires PAYLOAD_LEN on an extended WRITE, but QEMU's client (10.0) does not
    /// set it and still sends the payload. So a WRITE always has a payload.
    #[must_use]
    pub fn has_payload(&self, mode: Mode) -> bool {
        match mode {
            Mode::Simple | Mode::Structured => self.command == Command::Write,
            Mode::Extended => {
                self.command == Command::Write || self.flags.contains(CommandFlags::PAYLOAD_LEN)
            }
        }
    }

    /// The header in its wire form. A length that exceeds a 32-bit field is cut to 4 GiB - 1: a
    /// client that may send longer requests has negotiated extended headers.
    #[must_use]
    pub fn encode(&self, mode: Mode) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::EXTENDED_BYTES);
        let magic = match mode {
            Mode::Simple | Mode::Structured => MAGIC,
            Mode::Extended => EXTENDED_MAGIC,
        };
        out.extend(magic.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend(self.command.code().to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        match mode {
            Mode::Simple | Mode::Structured => {
                let length = u32::try_from(self.length_bytes).unwrap_or(u32::MAX);
                out.extend(length.to_be_bytes());
            }
            Mode::Extended => out.extend(self.length_bytes.to_be_bytes()),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Request};
    use crate::nbd::proto::Mode;
    use crate::nbd::proto::flag::CommandFlags;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn requests_round_trip(flags: u16, command: u16, cookie: u64, offset: u64, length_bytes: u64) {
            let request = Request {
                flags: CommandFlags::from_bits_retain(flags),
                command: Command::of_code(command),
                cookie,
                offset,
                length_bytes,
            };
            let bytes: [u8; Request::EXTENDED_BYTES] =
                request.encode(Mode::Extended).try_into().unwrap();
            prop_assert_eq!(Request::parse_extended(&bytes).unwrap(), request);
            let request = Request { length_bytes: length_bytes & 0xffff_ffff, ..request };
            let bytes: [u8; Request::BYTES] = request.encode(Mode::Structured).try_into().unwrap();
            prop_assert_eq!(Request::parse(&bytes).unwrap(), request);
        }

        #[test]
        fn any_bytes_give_a_request_or_an_error(bytes in any::<[u8; Request::EXTENDED_BYTES]>()) {
            if let Ok(request) = Request::parse_extended(&bytes) {
                prop_assert_eq!(request.encode(Mode::Extended), bytes);
            }
            let (short, _) = bytes.split_first_chunk().unwrap();
            if let Ok(request) = Request::parse(short) {
                prop_assert_eq!(request.encode(Mode::Simple), short);
            }
        }
    }
}
