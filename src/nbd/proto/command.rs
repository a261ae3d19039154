//! Requests of the transmission phase (proto.md, "Request message").

use super::field::{Fields, violation};
use super::flag::CommandFlags;
use crate::error::Result;

/// First word of a request.
const MAGIC: u32 = 0x2560_9513;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bytes, please.
    Read,
    /// Bytes follow.
    Write,
    /// Goodbye; has no reply.
    Disconnect,
    /// Make durable what was answered before.
    Flush,
    /// The bytes are not needed.
    Trim,
    /// The bytes will be read soon.
    Cache,
    /// Write zeroes.
    WriteZeroes,
    /// What is known about a range.
    BlockStatus,
    /// A command that we do not know.
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
    /// How.
    pub flags: CommandFlags,
    /// What.
    pub command: Command,
    /// Names the request in its reply.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length_bytes: u32,
}

impl Request {
    /// Bytes of the header.
    pub const BYTES: usize = 28;

    /// Reads a header.
    ///
    /// # Errors
    /// `Disconnected` when it does not begin with its magic number: the stream is out of step.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u32()?;
        if magic != MAGIC {
            return Err(violation(format!(
                "the peer sent a request with the magic number {magic:#010x}"
            )));
        }
        Ok(Self {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: Command::of_code(fields.u16()?),
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length_bytes: fields.u32()?,
        })
    }

    /// The header as it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend(MAGIC.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend(self.command.code().to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.length_bytes.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Request};
    use crate::nbd::proto::flag::CommandFlags;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn requests_round_trip(flags: u16, command: u16, cookie: u64, offset: u64, length_bytes: u32) {
            let request = Request {
                flags: CommandFlags::from_bits_retain(flags),
                command: Command::of_code(command),
                cookie,
                offset,
                length_bytes,
            };
            let bytes: [u8; Request::BYTES] = request.encode().try_into().unwrap();
            prop_assert_eq!(Request::parse(&bytes).unwrap(), request);
        }

        #[test]
        fn any_bytes_give_a_request_or_an_error(bytes in any::<[u8; Request::BYTES]>()) {
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }
    }
}
