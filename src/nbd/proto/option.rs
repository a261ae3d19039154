//! Options and their replies: the handshake (proto.md, "Fixed newstyle negotiation", "Option types").

use super::field::{Fields, length_u32, push_string, text, violation};
use super::flag::TransmissionFlags;
use crate::error::Result;
use crate::types::width::usize_from_u32;

const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// The option that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// Choose an export, the old way: the server cannot reply with an error.
    ExportName,
    /// End the handshake.
    Abort,
    /// Name all exports.
    List,
    /// Switch to TLS.
    StartTls,
    /// Request facts about an export.
    Info,
    /// Choose an export.
    Go,
    /// Use structured replies.
    StructuredReply,
    /// List meta contexts.
    ListMetaContext,
    /// Choose meta contexts.
    SetMetaContext,
    /// Use extended headers.
    ExtendedHeaders,
    /// An unknown option.
    Unknown(u32),
}

impl OptionKind {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::ExtendedHeaders => 11,
            Self::Unknown(code) => code,
        }
    }

    /// The option of that number.
    #[must_use]
    pub const fn of_code(code: u32) -> Self {
        match code {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            code => Self::Unknown(code),
        }
    }
}

/// The header of an option; `length_bytes` of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option.
    pub kind: OptionKind,
    /// Bytes of the data.
    pub length_bytes: u32,
}

impl OptionHeader {
    /// Bytes of the header.
    pub const BYTES: usize = 16;

    /// Parses a header.
    ///
    /// # Errors
    /// `Disconnected` when it does not begin with `IHAVEOPT`.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u64()?;
        if magic != super::OPTION_MAGIC {
            return Err(violation(format!(
                "the client sent an option with the magic number {magic:#018x}"
            )));
        }
        Ok(Self {
            kind: OptionKind::of_code(fields.u32()?),
            length_bytes: fields.u32()?,
        })
    }
}

/// A whole option in its wire form.
#[must_use]
pub fn encode_option(kind: OptionKind, data: &[u8]) -> Vec<u8> {
    let mut out = super::OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend(kind.code().to_be_bytes());
    out.extend(length_u32(data).to_be_bytes());
    out.extend(data);
    out
}

/// Types of option replies; errors have bit 31 set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The option is complete.
    Ack,
    /// An export of a list.
    Server,
    /// A fact about an export.
    Info,
    /// A meta context.
    MetaContext,
    /// The server does not know the option.
    ErrUnsupported,
    /// The server's policy does not allow this client to use the option.
    ErrPolicy,
    /// The data of the option is invalid.
    ErrInvalid,
    /// The server's platform does not support the option.
    ErrPlatform,
    /// The client must switch to TLS first.
    ErrTlsRequired,
    /// There is no such export.
    ErrUnknown,
    /// The server is shutting down.
    ErrShutdown,
    /// The client must request block sizes first.
    ErrBlockSizeRequired,
    /// The option is too long.
    ErrTooBig,
    /// The option requires extended headers first, or is ruled out by them.
    ErrExtendedHeadersRequired,
    /// An unknown type.
    Unknown(u32),
}

impl ReplyKind {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::ErrUnsupported => 0x8000_0001,
            Self::ErrPolicy => 0x8000_0002,
            Self::ErrInvalid => 0x8000_0003,
            Self::ErrPlatform => 0x8000_0004,
            Self::ErrTlsRequired => 0x8000_0005,
            Self::ErrUnknown => 0x8000_0006,
            Self::ErrShutdown => 0x8000_0007,
            Self::ErrBlockSizeRequired => 0x8000_0008,
            Self::ErrTooBig => 0x8000_0009,
            Self::ErrExtendedHeadersRequired => 0x8000_000a,
            Self::Unknown(code) => code,
        }
    }

    /// The type of that number.
    #[must_use]
    pub const fn of_code(code: u32) -> Self {
        match code {
            1 => Self::Ack,
            2 => Self::Server,
            3 => Self::Info,
            4 => Self::MetaContext,
            0x8000_0001 => Self::ErrUnsupported,
            0x8000_0002 => Self::ErrPolicy,
            0x8000_0003 => Self::ErrInvalid,
            0x8000_0004 => Self::ErrPlatform,
            0x8000_0005 => Self::ErrTlsRequired,
            0x8000_0006 => Self::ErrUnknown,
            0x8000_0007 => Self::ErrShutdown,
            0x8000_0008 => Self::ErrBlockSizeRequired,
            0x8000_0009 => Self::ErrTooBig,
            0x8000_000a => Self::ErrExtendedHeadersRequired,
            code => Self::Unknown(code),
        }
    }

    /// Whether the type is an error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.code() & 0x8000_0000 != 0
    }
}

/// The header of an option reply; `length_bytes` of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The option that the reply answers.
    pub option: OptionKind,
    /// The type of the reply.
    pub kind: ReplyKind,
    /// Bytes of the data.
    pub length_bytes: u32,
}

impl ReplyHeader {
    /// Bytes of the header.
    pub const BYTES: usize = 20;

    /// Parses a header.
    ///
    /// # Errors
    /// `Disconnected` when it does not begin with its magic number.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u64()?;
        if magic != REPLY_MAGIC {
            return Err(violation(format!(
                "the server sent an option reply with the magic number {magic:#018x}"
            )));
        }
        Ok(Self {
            option: OptionKind::of_code(fields.u32()?),
            kind: ReplyKind::of_code(fields.u32()?),
            length_bytes: fields.u32()?,
        })
    }
}

/// A whole option reply in its wire form.
#[must_use]
pub fn encode_reply(option: OptionKind, kind: ReplyKind, data: &[u8]) -> Vec<u8> {
    let mut out = REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(option.code().to_be_bytes());
    out.extend(kind.code().to_be_bytes());
    out.extend(length_u32(data).to_be_bytes());
    out.extend(data);
    out
}

/// An export of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The export's name.
    pub name: String,
    /// A description for people; may be empty.
    pub description: String,
}

impl ExportInfo {
    /// Parses the data of a SERVER reply.
    ///
    /// # Errors
    /// `Disconnected` when the data is invalid.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        Ok(Self {
            name: fields.string()?.to_owned(),
            description: text(fields.rest())?.to_owned(),
        })
    }

    /// The data of a SERVER reply in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        out.extend(self.description.as_bytes());
        out
    }
}

/// Sizes of requests that a server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    /// Offsets and lengths are multiples of this, in bytes; a power of two.
    pub minimum: u32,
    /// Smaller requests are slow, in bytes; a power of two.
    pub preferred: u32,
    /// The maximum length of a payload, in bytes.
    pub maximum: u32,
}

impl BlockSize {
    /// The sizes that hold when the server reports none (proto.md, "Block size constraints").
    pub const DEFAULT: Self = Self {
        minimum: 1,
        preferred: 4096,
        maximum: super::PAYLOAD_BYTES_MAX,
    };
}

/// A fact about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size in bytes and flags.
    Export {
        /// Size in bytes.
        size_bytes: u64,
        /// The export's capabilities.
        flags: TransmissionFlags,
    },
    /// The export's canonical name.
    Name(String),
    /// A description for people.
    Description(String),
    /// Sizes of requests.
    BlockSize(BlockSize),
    /// An unknown fact.
    Unknown(u16),
}

impl Info {
    /// Number of [`Info::Name`] in a request.
    pub const NAME: u16 = 1;
    /// Number of [`Info::Description`] in a request.
    pub const DESCRIPTION: u16 = 2;
    /// Number of [`Info::BlockSize`] in a request.
    pub const BLOCK_SIZE: u16 = 3;

    /// Parses the data of an INFO reply.
    ///
    /// # Errors
    /// `Disconnected` when the data is invalid, or contains invalid block sizes.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let info = match fields.u16()? {
            0 => {
                let (size_bytes, flags) = (fields.u64()?, fields.u16()?);
                fields.finish()?;
                Self::Export {
                    size_bytes,
                    flags: TransmissionFlags::from_bits_retain(flags),
                }
            }
            Self::NAME => Self::Name(text(fields.rest())?.to_owned()),
            Self::DESCRIPTION => Self::Description(text(fields.rest())?.to_owned()),
            Self::BLOCK_SIZE => {
                let sizes = BlockSize {
                    minimum: fields.u32()?,
                    preferred: fields.u32()?,
                    maximum: fields.u32()?,
                };
                fields.finish()?;
                // LIMIT: a minimum of 64 KiB and a preferred size of 32 MiB are proto.md's bounds.
                let sane = sizes.minimum.is_power_of_two()
                    && sizes.minimum <= 64 << 10
                    && sizes.preferred.is_power_of_two()
                    && sizes.preferred >= sizes.minimum
                    && sizes.preferred <= super::PAYLOAD_BYTES_MAX
                    && sizes.maximum >= sizes.preferred;
                if !sane {
                    return Err(violation(format!(
                        "the server sent block sizes that make no sense: {}, {}, {}",
                        sizes.minimum, sizes.preferred, sizes.maximum
                    )));
                }
                Self::BlockSize(sizes)
            }
            kind => Self::Unknown(kind),
        };
        Ok(info)
    }

    /// The data of an INFO reply in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Export { size_bytes, flags } => {
                let mut out = 0u16.to_be_bytes().to_vec();
                out.extend(size_bytes.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
                out
            }
            Self::Name(text) => {
                let mut out = Self::NAME.to_be_bytes().to_vec();
                out.extend(text.as_bytes());
                out
            }
            Self::Description(text) => {
                let mut out = Self::DESCRIPTION.to_be_bytes().to_vec();
                out.extend(text.as_bytes());
                out
            }
            Self::BlockSize(sizes) => {
                let mut out = Self::BLOCK_SIZE.to_be_bytes().to_vec();
                out.extend(sizes.minimum.to_be_bytes());
                out.extend(sizes.preferred.to_be_bytes());
                out.extend(sizes.maximum.to_be_bytes());
                out
            }
            Self::Unknown(kind) => kind.to_be_bytes().to_vec(),
        }
    }
}

/// The data of GO and INFO: an export, and the facts that the client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export's name; empty for the default one.
    pub name: String,
    /// Numbers of the wanted facts.
    pub wanted: Vec<u16>,
}

impl InfoRequest {
    /// Parses the data.
    ///
    /// # Errors
    /// `Disconnected` when the data is invalid.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let name = fields.string()?.to_owned();
        let count = fields.u16()?;
        let (wanted, rest) = fields.rest().as_chunks::<2>();
        if wanted.len() != usize_from_u32(u32::from(count)) || !rest.is_empty() {
            return Err(violation(
                "the client sent a count of facts that does not fit its option",
            ));
        }
        Ok(Self {
            name,
            wanted: wanted.iter().map(|n| u16::from_be_bytes(*n)).collect(),
        })
    }

    /// The data in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        let count = u16::try_from(self.wanted.len()).unwrap_or(u16::MAX);
        out.extend(count.to_be_bytes());
        for wanted in self.wanted.iter().take(usize_from_u32(u32::from(count))) {
            out.extend(wanted.to_be_bytes());
        }
        out
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT: an export, and queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextRequest {
    /// The export's name.
    pub name: String,
    /// Names of contexts, or `namespace:`.
    pub queries: Vec<String>,
}

impl ContextRequest {
    /// Parses the data.
    ///
    /// # Errors
    /// `Disconnected` when the data is invalid.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let name = fields.string()?.to_owned();
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string()?.to_owned());
        }
        fields.finish()?;
        Ok(Self { name, queries })
    }

    /// The data in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, &self.name);
        let count = u32::try_from(self.queries.len()).unwrap_or(u32::MAX);
        out.extend(count.to_be_bytes());
        for query in &self.queries {
            push_string(&mut out, query);
        }
        out
    }
}

/// A meta context and the number that identifies it in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// Number; 0 in a list.
    pub id: u32,
    /// Name.
    pub name: String,
}

impl MetaContext {
    /// Parses the data of a META_CONTEXT reply.
    ///
    /// # Errors
    /// `Disconnected` when the data is invalid.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        Ok(Self {
            id: fields.u32()?,
            name: text(fields.rest())?.to_owned(),
        })
    }

    /// The data of a META_CONTEXT reply in its wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        out.extend(self.name.as_bytes());
        out
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::{
        BlockSize, ContextRequest, ExportInfo, Info, InfoRequest, MetaContext, OptionHeader,
        OptionKind, ReplyHeader, ReplyKind, encode_option, encode_reply,
    };
    use crate::nbd::proto::flag::TransmissionFlags;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    #[test]
    fn messages_round_trip() {
        let option = encode_option(OptionKind::Go, b"xyz");
        let header = OptionHeader::parse(option[..16].try_into().unwrap()).unwrap();
        assert_eq!((header.kind, header.length_bytes), (OptionKind::Go, 3));
        let reply = encode_reply(OptionKind::Go, ReplyKind::ErrUnknown, b"no");
        let header = ReplyHeader::parse(reply[..20].try_into().unwrap()).unwrap();
        assert_eq!(
            (header.kind, header.length_bytes),
            (ReplyKind::ErrUnknown, 2)
        );
        assert!(header.kind.is_error());
        let export = ExportInfo {
            name: "a/b/c".into(),
            description: "x".into(),
        };
        assert_eq!(ExportInfo::parse(&export.encode()).unwrap(), export);
        let request = ContextRequest {
            name: "a".into(),
            queries: vec!["base:".into(), String::new()],
        };
        assert_eq!(ContextRequest::parse(&request.encode()).unwrap(), request);
        let context = MetaContext {
            id: 3,
            name: "base:allocation".into(),
        };
        assert_eq!(MetaContext::parse(&context.encode()).unwrap(), context);
        for info in [
            Info::Export {
                size_bytes: 1 << 40,
                flags: TransmissionFlags::HAS_FLAGS,
            },
            Info::Name("n".into()),
            Info::Description("d".into()),
            Info::BlockSize(BlockSize {
                minimum: 512,
                preferred: 65_536,
                maximum: 32 << 20,
            }),
        ] {
            assert_eq!(Info::parse(&info.encode()).unwrap(), info);
        }
    }

    #[test]
    fn lies_about_counts_and_sizes_are_refused() {
        let mut data = InfoRequest {
            name: "x".into(),
            wanted: vec![3],
        }
        .encode();
        data.push(0);
        assert!(InfoRequest::parse(&data).is_err());
        let many = [0u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
        assert!(ContextRequest::parse(&many).is_err());
        assert!(InfoRequest::parse(&u32::MAX.to_be_bytes()).is_err());
        for sizes in [
            (0, 512, 512),
            (3, 4, 8),
            (1 << 17, 1 << 17, 1 << 20),
            (512, 256, 1024),
            (512, 4096, 512),
        ] {
            let sizes = BlockSize {
                minimum: sizes.0,
                preferred: sizes.1,
                maximum: sizes.2,
            };
            assert!(
                Info::parse(&Info::BlockSize(sizes).encode()).is_err(),
                "{sizes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..96), code: u32) {
            let _ = ExportInfo::parse(&bytes);
            let _ = Info::parse(&bytes);
            let _ = MetaContext::parse(&bytes);
            if let Ok(request) = InfoRequest::parse(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(request) = ContextRequest::parse(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            prop_assert_eq!(OptionKind::of_code(code).code(), code);
            prop_assert_eq!(ReplyKind::of_code(code).code(), code);
        }
    }
}
