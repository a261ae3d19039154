//! The NBD protocol, shared by client and server: flags, headers and payloads as plain data. This
//! module does no I/O.
//!
//! Source: `doc/proto.md` and `doc/uri.md` of the NetworkBlockDevice project; extended headers from
//! its branch `extension-ext-header`. All numbers are big-endian.
//!
//! # On-disk layout
//! | message | bytes | fields |
//! |---|---|---|
//! | greeting | 18 | `NBDMAGIC`, `IHAVEOPT`, handshake flags u16 |
//! | option | 16 + n | `IHAVEOPT`, option u32, length u32, data |
//! | option reply | 20 + n | 0x0003e889045565a9, option u32, type u32, length u32, data |
//! | request | 28 + n | 0x25609513, flags u16, command u16, cookie u64, offset u64, length u32, payload |
//! | extended request | 32 + n | 0x21e41c71, flags u16, command u16, cookie u64, offset u64, length u64, payload |
//! | simple reply | 16 + n | 0x67446698, error u32, cookie u64, payload |
//! | structured chunk | 20 + n | 0x668e33ef, flags u16, type u16, cookie u64, length u32, payload |
//! | extended chunk | 32 + n | 0x6e8a278c, flags u16, type u16, cookie u64, offset u64 (the request's), length u64, payload |
//!
//! # Invariants
//! - Every parser is total: any bytes give a value or an error. No parser allocates by a count that
//!   it has not compared with the available bytes.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

pub mod command;
pub mod field;
pub mod flag;
pub mod option;
pub mod reply;
pub mod status;
pub mod uri;

/// LIMIT: bytes of an export name, a description or a context name (proto.md, "Values": strings of at most 4,096 bytes).
pub const STRING_BYTES_MAX: usize = 4096;

/// LIMIT: bytes of the payload of a READ or WRITE (proto.md, "Block size constraints": what every peer should accept).
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// LIMIT: bytes of the data of an option or of an option reply. Our limit; the longest sensible
/// data are a list of context queries.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;

/// How requests and replies are framed in the transmission phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Simple replies only.
    #[default]
    Simple,
    /// Replies to READ and BLOCK_STATUS, and errors, are structured chunks.
    Structured,
    /// Extended requests, and extended chunks only: lengths have 64 bits.
    Extended,
}

impl Mode {
    /// Whether replies can be chunks.
    #[must_use]
    pub const fn has_chunks(self) -> bool {
        matches!(self, Self::Structured | Self::Extended)
    }
}

/// The TCP port that IANA assigned to NBD.
pub const PORT: u16 = 10_809;

/// The meta context that distinguishes data, zeroes and holes.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// First word of a greeting: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;

/// Second word of a newstyle greeting, and first of each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

/// Second word of an oldstyle greeting, which this program does not support.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
