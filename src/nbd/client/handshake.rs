//! The client's side of the handshake: from a connection to an export.

use std::time::{Duration, Instant};

use super::stream::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::field::{Fields, violation};
use crate::nbd::proto::flag::{ClientFlags, HandshakeFlags, TransmissionFlags};
use crate::nbd::proto::option::{
    BlockSize, ContextRequest, ExportInfo, Info, InfoRequest, MetaContext, OptionKind, ReplyHeader,
    ReplyKind, encode_option,
};
use crate::nbd::proto::{
    BASE_ALLOCATION, GREETING_MAGIC, Mode, OLDSTYLE_MAGIC, OPTION_BYTES_MAX, OPTION_MAGIC,
};
use crate::tls::ClientTls;
use crate::types::width::usize_from_u32;

/// LIMIT: time for one reply of the handshake.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// LIMIT: time for the whole handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// LIMIT: replies to one option: a list of 65,536 exports and its end.
const REPLIES_MAX: usize = 65_537;

/// LIMIT: characters of a server's message that are quoted.
const MESSAGE_CHARS_MAX: usize = 256;

/// The result of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// Size of the export in bytes.
    pub(super) size_bytes: u64,
    /// Flags of the export.
    pub(super) flags: TransmissionFlags,
    /// Sizes of requests.
    pub(super) sizes: BlockSize,
    /// Framing of requests and replies.
    pub(super) mode: Mode,
    /// Number of `base:allocation`.
    pub(super) context: Option<u32>,
    /// Number of the context of a dirty bitmap.
    pub(super) bitmap: Option<u32>,
}

/// Numbers of metadata contexts.
#[derive(Debug, Clone, Copy, Default)]
struct Contexts {
    allocation: Option<u32>,
    bitmap: Option<u32>,
}

/// A handshake in progress.
struct Handshake<'a> {
    stream: &'a Stream,
    flags: HandshakeFlags,
    deadline: Instant,
}

/// TLS settings, and the name that the server's certificate must have.
pub(super) type Secret = (ClientTls, String);

/// Negotiates an export, and the context of a dirty bitmap beside `base:allocation`.
pub(super) fn negotiate(
    stream: &Stream,
    (export, bitmap): (&str, Option<&str>),
    tls: Option<&Secret>,
) -> Result<Facts> {
    let mut handshake = Handshake::begin(stream, tls)?;
    if !handshake.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
        return handshake.export_name(export, Mode::Simple, Contexts::default());
    }
    let mode = handshake.mode()?;
    let contexts = if mode.has_chunks() {
        handshake.contexts(export, bitmap)?
    } else {
        Contexts::default()
    };
    let facts = match handshake.go(export, mode, contexts)? {
        Some(facts) => facts,
        // A server with extended headers supports GO.
        None if mode == Mode::Extended => {
            return Err(violation(
                "the server agreed on extended headers, but does not know NBD_OPT_GO",
            ));
        }
        None => handshake.export_name(export, mode, contexts)?,
    };
    if facts.size_bytes > i64::MAX.unsigned_abs() {
        return Err(violation(format!(
            "the server reports an export of {} bytes",
            facts.size_bytes
        )));
    }
    stream.set_read_timeout(None)?;
    Ok(facts)
}

/// Lists all exports.
pub(super) fn list(stream: &Stream, tls: Option<&Secret>) -> Result<Vec<ExportInfo>> {
    let mut handshake = Handshake::begin(stream, tls)?;
    if !handshake.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
        return Err(Error::unsupported(
            "the NBD server is too old to list its exports",
        ));
    }
    let mut exports = Vec::new();
    let end = handshake.ask(OptionKind::List, &[], |kind, data| {
        if kind == ReplyKind::Server {
            exports.push(ExportInfo::parse(data)?);
        }
        Ok(())
    })?;
    if let Some((kind, message)) = end {
        return Err(refusal(
            kind,
            &message,
            "the NBD server does not list its exports",
        ));
    }
    // The goodbye is a courtesy: the reply has been received.
    let _ = stream.send(&encode_option(OptionKind::Abort, &[]), &[]);
    Ok(exports)
}

/// What the error of an unknown export has.
pub const NO_EXPORT: &str = "there is no such export";

/// The error of a refused option.
fn refusal(kind: ReplyKind, message: &str, what: &str) -> Error {
    let (kind, why) = match kind {
        ReplyKind::ErrUnknown => (ErrorKind::NotFound, NO_EXPORT),
        ReplyKind::ErrPolicy => (ErrorKind::PermissionDenied, "it is not allowed"),
        ReplyKind::ErrTlsRequired => (
            ErrorKind::Unsupported,
            "the server wants TLS: use nbds:// or nbds+unix://",
        ),
        ReplyKind::ErrUnsupported | ReplyKind::ErrPlatform => {
            (ErrorKind::Unsupported, "the server does not support it")
        }
        ReplyKind::ErrShutdown => (ErrorKind::Disconnected, "the server is shutting down"),
        _ => (ErrorKind::InvalidInput, "the server refuses"),
    };
    if message.is_empty() {
        Error::new(kind, format!("{what}: {why}"))
    } else {
        Error::new(kind, format!("{what}: {why} (\"{message}\")"))
    }
}

impl<'a> Handshake<'a> {
    fn begin(stream: &'a Stream, tls: Option<&Secret>) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let greeting: [u8; 16] = stream.receive_array()?;
        let mut fields = Fields::new(&greeting);
        if fields.u64()? != GREETING_MAGIC {
            return Err(violation("what listens there is not an NBD server"));
        }
        match fields.u64()? {
            OPTION_MAGIC => {}
            OLDSTYLE_MAGIC => {
                return Err(Error::unsupported(
                    "the NBD server speaks the oldstyle protocol only",
                ));
            }
            _ => return Err(violation("what listens there is not an NBD server")),
        }
        let flags = HandshakeFlags::from_bits_retain(u16::from_be_bytes(stream.receive_array()?));
        let mut answer = ClientFlags::empty();
        answer.set(
            ClientFlags::FIXED_NEWSTYLE,
            flags.contains(HandshakeFlags::FIXED_NEWSTYLE),
        );
        answer.set(
            ClientFlags::NO_ZEROES,
            flags.contains(HandshakeFlags::NO_ZEROES),
        );
        stream.send(&answer.bits().to_be_bytes(), &[])?;
        let mut handshake = Self {
            stream,
            flags,
            deadline: Instant::now() + HANDSHAKE_TIMEOUT,
        };
        if let Some(tls) = tls {
            handshake.secure(tls)?;
        }
        Ok(handshake)
    }

    /// TLS comes first: cleartext options could be altered on the way.
    fn secure(&mut self, (tls, host): &Secret) -> Result<()> {
        let none = || {
            Error::unsupported("the NBD server does not speak TLS")
                .advise("use nbd:// or nbd+unix:// where the way there is trusted")
        };
        if !self.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(none());
        }
        match self.ask(OptionKind::StartTls, &[], |_, _| Ok(()))? {
            None => self.stream.secure(tls, host),
            Some(_) => Err(none()),
        }
    }

    /// Sends an option and passes each reply to `each`; returns `None` after ACK, or the error.
    fn ask(
        &mut self,
        option: OptionKind,
        data: &[u8],
        mut each: impl FnMut(ReplyKind, &[u8]) -> Result<()>,
    ) -> Result<Option<(ReplyKind, String)>> {
        self.stream.send(&encode_option(option, data), &[])?;
        for _ in 0..REPLIES_MAX {
            if Instant::now() > self.deadline {
                break;
            }
            let header = ReplyHeader::parse(&self.stream.receive_array()?)?;
            if header.option != option {
                return Err(violation("the server answered an option that was not sent"));
            }
            if header.length_bytes > OPTION_BYTES_MAX {
                return Err(violation(format!(
                    "the server sent an option reply of {} bytes",
                    header.length_bytes
                )));
            }
            let mut data = vec![0; usize_from_u32(header.length_bytes)];
            self.stream.receive(&mut data)?;
            if header.kind.is_error() {
                let text = String::from_utf8_lossy(&data);
                let text = text.chars().take(MESSAGE_CHARS_MAX).collect::<String>();
                return Ok(Some((header.kind, text.escape_debug().to_string())));
            }
            if header.kind == ReplyKind::Ack {
                return Ok(None);
            }
            each(header.kind, &data)?;
        }
        Err(Error::new(
            ErrorKind::TimedOut,
            "the NBD server does not come to an end with its answer",
        ))
    }

    /// The best mode that the server supports.
    fn mode(&mut self) -> Result<Mode> {
        for (option, mode) in [
            (OptionKind::ExtendedHeaders, Mode::Extended),
            (OptionKind::StructuredReply, Mode::Structured),
        ] {
            if self.ask(option, &[], |_, _| Ok(()))?.is_none() {
                return Ok(mode);
            }
        }
        Ok(Mode::Simple)
    }

    fn contexts(&mut self, export: &str, bitmap: Option<&str>) -> Result<Contexts> {
        let wanted = std::iter::once(BASE_ALLOCATION).chain(bitmap);
        let request = ContextRequest {
            name: export.to_owned(),
            queries: wanted.map(ToOwned::to_owned).collect(),
        };
        let mut found = Contexts::default();
        let end = self.ask(
            OptionKind::SetMetaContext,
            &request.encode(),
            |kind, data| {
                if kind == ReplyKind::MetaContext {
                    let context = MetaContext::parse(data)?;
                    if context.name == BASE_ALLOCATION {
                        found.allocation = Some(context.id);
                    } else if Some(context.name.as_str()) == bitmap {
                        found.bitmap = Some(context.id);
                    }
                }
                Ok(())
            },
        )?;
        // GO reports the same error again, or it does not matter: then the client knows nothing about holes.
        Ok(if end.is_none() {
            found
        } else {
            Contexts::default()
        })
    }

    /// Chooses the export; `None` where the server does not support GO.
    fn go(&mut self, export: &str, mode: Mode, contexts: Contexts) -> Result<Option<Facts>> {
        let request = InfoRequest {
            name: export.to_owned(),
            wanted: vec![Info::BLOCK_SIZE],
        };
        let mut basic = None;
        let mut sizes = BlockSize::DEFAULT;
        let end = self.ask(OptionKind::Go, &request.encode(), |kind, data| {
            if kind == ReplyKind::Info {
                match Info::parse(data)? {
                    Info::Export { size_bytes, flags } => basic = Some((size_bytes, flags)),
                    Info::BlockSize(offered) => sizes = offered,
                    Info::Name(_) | Info::Description(_) | Info::Unknown(_) => {}
                }
            }
            Ok(())
        })?;
        match end {
            Some((ReplyKind::ErrUnsupported, _)) => Ok(None),
            Some((kind, message)) => {
                let what = format!("cannot open the export \"{}\"", export.escape_debug());
                Err(refusal(kind, &message, &what))
            }
            None => {
                let (size_bytes, flags) = basic.ok_or_else(|| {
                    violation("the server opened the export without reporting its size")
                })?;
                Ok(Some(Facts {
                    size_bytes,
                    flags,
                    sizes,
                    mode,
                    context: contexts.allocation,
                    bitmap: contexts.bitmap,
                }))
            }
        }
    }

    fn export_name(&mut self, export: &str, mode: Mode, contexts: Contexts) -> Result<Facts> {
        let option = encode_option(OptionKind::ExportName, export.as_bytes());
        self.stream.send(&option, &[])?;
        let answer: [u8; 10] = self.stream.receive_array().map_err(|e| {
            // The old option has no other way to report a missing export.
            e.advise("perhaps the server has no such export")
        })?;
        let mut fields = Fields::new(&answer);
        let (size_bytes, flags) = (fields.u64()?, fields.u16()?);
        if !self.flags.contains(HandshakeFlags::NO_ZEROES) {
            self.stream.receive_array::<124>()?;
        }
        self.stream.set_read_timeout(None)?;
        Ok(Facts {
            size_bytes,
            flags: TransmissionFlags::from_bits_retain(flags),
            sizes: BlockSize::DEFAULT,
            mode,
            context: contexts.allocation,
            bitmap: contexts.bitmap,
        })
    }
}
