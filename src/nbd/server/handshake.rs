//! The server's side of the handshake: from a connection to an export.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::context::{Chosen, Context};
use super::export::{Content, Export, Opening};
use super::service::{Seat, Service};
use super::stream::Stream;
use crate::access::{Caller, Origin};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::Connection;
use crate::nbd::proto::field::{text, violation};
use crate::nbd::proto::flag::{ClientFlags, HandshakeFlags};
use crate::nbd::proto::option::{
    BlockSize, ExportInfo, Info, InfoRequest, OptionHeader, OptionKind, ReplyKind, encode_reply,
};
use crate::nbd::proto::{
    GREETING_MAGIC, Mode, OPTION_BYTES_MAX, OPTION_MAGIC, PAYLOAD_BYTES_MAX, STRING_BYTES_MAX,
};
use crate::types::width::{usize_from_u32, usize_from_u64};

/// Accepted request sizes; the minimum is also the required alignment for a client that negotiates block
/// sizes.
pub(super) const SIZES: BlockSize = BlockSize {
    minimum: 512,
    preferred: 65_536,
    maximum: PAYLOAD_BYTES_MAX,
};

/// LIMIT: bytes of an oversized option that is still skipped; a longer one ends the connection.
pub(super) const SKIP_BYTES_MAX: u32 = 1 << 20;

/// LIMIT: options of one handshake.
const OPTIONS_MAX: u32 = 4096;

/// LIMIT: exports of one list.
const LIST_MAX: usize = 65_536;

/// The result of the handshake.
pub(super) struct Agreement {
    pub(super) content: Content,
    /// Connection to the session's disk, for a writable export.
    pub(super) connection: Option<Connection>,
    /// The connection's place at the export.
    pub(super) seat: Seat,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) contexts: Vec<Context>,
    /// Requests must be multiples of this, in bytes.
    pub(super) block_bytes: u32,
}

/// The result of one option.
pub(super) enum Next {
    /// The client may send another option.
    Option,
    /// The client has chosen an export.
    Go(Box<Agreement>),
    /// The client ends the handshake.
    End,
}

pub(super) struct Handshake<'a> {
    stream: &'a mut Stream,
    service: &'a Service,
    caller: &'a Caller,
    origin: Origin,
    has_no_zeroes: bool,
    pub(super) mode: Mode,
    /// The chosen meta contexts with their export.
    pub(super) chosen: Option<Chosen>,
}

/// Greets the client and reads its flags; `None` when it leaves.
pub(super) async fn greet(stream: &mut Stream) -> Result<Option<ClientFlags>> {
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let mut greeting = GREETING_MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(flags.bits().to_be_bytes());
    stream
        .write_all(&greeting)
        .await
        .or_io("cannot greet the client")?;
    let mut answer = [0; 4];
    if !receive_or_end(stream, &mut answer).await? {
        return Ok(None);
    }
    let answer = ClientFlags::from_bits_retain(u32::from_be_bytes(answer));
    let known = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    if !known.contains(answer) {
        return Err(violation(format!(
            "the client answered the greeting with flags {:#x}",
            answer.bits()
        )));
    }
    if !answer.contains(ClientFlags::FIXED_NEWSTYLE) {
        return Err(violation("the client does not speak fixed newstyle"));
    }
    Ok(Some(answer))
}

/// Negotiates an export; `None` when the client leaves properly.
pub(super) async fn negotiate(
    stream: &mut Stream,
    service: &Service,
    (caller, origin): (&Caller, Origin),
    answer: ClientFlags,
) -> Result<Option<Agreement>> {
    let mut handshake = Handshake {
        stream,
        service,
        caller,
        origin,
        has_no_zeroes: answer.contains(ClientFlags::NO_ZEROES),
        mode: Mode::Simple,
        chosen: None,
    };
    for _ in 0..OPTIONS_MAX {
        match handshake.option().await? {
            Next::Option => {}
            Next::Go(agreement) => return Ok(Some(*agreement)),
            Next::End => return Ok(None),
        }
    }
    Err(Error::new(
        ErrorKind::LimitExceeded,
        "the client does not come to an end with its options",
    ))
}

/// Fills `buf`; `false` when the client disconnected before its first byte.
pub(super) async fn receive_or_end(
    stream: &mut (impl AsyncReadExt + Unpin),
    buf: &mut [u8],
) -> Result<bool> {
    let mut rest = buf;
    let length = rest.len();
    while !rest.is_empty() {
        let count = stream
            .read(rest)
            .await
            .or_io("cannot receive from the client")?;
        if count == 0 {
            if rest.len() == length {
                return Ok(false);
            }
            return Err(violation("the client left in the middle of a message"));
        }
        rest = rest.get_mut(count..).unwrap_or_default();
    }
    Ok(true)
}

/// Sends all bytes.
pub(super) async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<()> {
    let sent = stream.write_all(bytes).await;
    sent.or_io("cannot answer the client")?;
    // Flushes the buffer of TLS.
    stream.flush().await.or_io("cannot answer the client")
}

/// The header of the next option; `None` when the client has disconnected.
pub(super) async fn receive_option(stream: &mut Stream) -> Result<Option<OptionHeader>> {
    let mut header = [0; OptionHeader::BYTES];
    let is_there = receive_or_end(stream, &mut header).await?;
    is_there.then(|| OptionHeader::parse(&header)).transpose()
}

/// Receives and discards bytes.
pub(super) async fn skip(
    stream: &mut (impl AsyncReadExt + Unpin),
    length_bytes: u64,
) -> Result<()> {
    let mut scrap = vec![0; 65_536];
    let mut rest = usize_from_u64(length_bytes);
    while rest > 0 {
        let part = rest.min(scrap.len());
        let part = scrap.get_mut(..part).unwrap_or_default();
        if !receive_or_end(stream, part).await? {
            return Err(violation("the client left in the middle of a message"));
        }
        rest = rest.saturating_sub(part.len());
    }
    Ok(())
}

/// Runs blocking work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Io, "the server failed on this request").caused_by(e))
}

/// The reply for an export that cannot be opened.
pub(super) const fn refusal(kind: ErrorKind) -> ReplyKind {
    match kind {
        ErrorKind::PermissionDenied
        | ErrorKind::NotPermitted
        | ErrorKind::Busy
        | ErrorKind::ReadOnly
        | ErrorKind::Locked
        | ErrorKind::PolicyNotMet => ReplyKind::ErrPolicy,
        ErrorKind::Corrupt
        | ErrorKind::Unsupported
        | ErrorKind::Io
        | ErrorKind::NoSpace
        | ErrorKind::LimitExceeded
        | ErrorKind::Disconnected
        | ErrorKind::TimedOut => ReplyKind::ErrPlatform,
        ErrorKind::Cancelled | ErrorKind::NoRepository => ReplyKind::ErrShutdown,
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidInput
        | ErrorKind::NameTooLong
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::Stale
        | ErrorKind::TooLarge
        | ErrorKind::NoData => ReplyKind::ErrUnknown,
    }
}

/// Encodes the replies to LIST, including the final one.
fn encode_list(all: Vec<ExportInfo>) -> Vec<u8> {
    if all.len() > LIST_MAX {
        tracing::warn!(most = LIST_MAX, "the list of exports is cut");
    }
    let mut out = Vec::new();
    for export in all.into_iter().take(LIST_MAX) {
        if export.name.len() <= STRING_BYTES_MAX && export.description.len() <= STRING_BYTES_MAX {
            let reply = encode_reply(OptionKind::List, ReplyKind::Server, &export.encode());
            out.extend(reply);
        }
    }
    out.extend(encode_reply(OptionKind::List, ReplyKind::Ack, &[]));
    out
}

impl Handshake<'_> {
    pub(super) async fn reply(
        &mut self,
        option: OptionKind,
        kind: ReplyKind,
        data: &[u8],
    ) -> Result<()> {
        self.send(&encode_reply(option, kind, data)).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        send(self.stream, bytes).await
    }

    pub(super) async fn refuse(
        &mut self,
        option: OptionKind,
        kind: ReplyKind,
        why: &str,
    ) -> Result<Next> {
        // A message is a string of the protocol, with its length limit.
        let why = why.get(..why.len().min(1024)).unwrap_or_default();
        self.reply(option, kind, why.as_bytes()).await?;
        Ok(Next::Option)
    }

    async fn option(&mut self) -> Result<Next> {
        let Some(OptionHeader { kind, length_bytes }) = receive_option(self.stream).await? else {
            return Ok(Next::End);
        };
        if length_bytes > OPTION_BYTES_MAX {
            if length_bytes > SKIP_BYTES_MAX || kind == OptionKind::ExportName {
                return Err(violation(format!(
                    "the client sent an option of {length_bytes} bytes"
                )));
            }
            skip(self.stream, u64::from(length_bytes)).await?;
            return self
                .refuse(kind, ReplyKind::ErrTooBig, "the option is too long")
                .await;
        }
        let mut data = vec![0; usize_from_u32(length_bytes)];
        if !data.is_empty() && !receive_or_end(self.stream, &mut data).await? {
            return Err(violation("the client left in the middle of an option"));
        }
        match kind {
            OptionKind::ExportName => self.export_name(&data).await,
            OptionKind::Abort => {
                // Many clients do not wait for the reply.
                let _ = self.reply(kind, ReplyKind::Ack, &[]).await;
                Ok(Next::End)
            }
            OptionKind::List if data.is_empty() => self.list().await,
            OptionKind::StructuredReply | OptionKind::ExtendedHeaders if data.is_empty() => {
                self.speak(kind).await
            }
            OptionKind::List | OptionKind::StructuredReply | OptionKind::ExtendedHeaders => {
                self.refuse(kind, ReplyKind::ErrInvalid, "the option has no data")
                    .await
            }
            OptionKind::Info | OptionKind::Go => self.info(kind, &data).await,
            OptionKind::ListMetaContext | OptionKind::SetMetaContext => {
                self.contexts(kind, &data).await
            }
            OptionKind::StartTls if matches!(self.caller, Caller::Certified(_)) => {
                self.refuse(kind, ReplyKind::ErrInvalid, "TLS is spoken already")
                    .await
            }
            OptionKind::StartTls => {
                let why = "there is no TLS on this socket";
                self.refuse(kind, ReplyKind::ErrUnsupported, why).await
            }
            OptionKind::Unknown(_) => {
                self.refuse(kind, ReplyKind::ErrUnsupported, "the option is not known")
                    .await
            }
        }
    }

    /// Negotiates the framing of requests and replies. A stronger mode that was negotiated before stays in
    /// force.
    async fn speak(&mut self, option: OptionKind) -> Result<Next> {
        match (self.mode, option) {
            (Mode::Extended, OptionKind::StructuredReply) => {
                let why = "extended headers were agreed on";
                self.refuse(option, ReplyKind::ErrExtendedHeadersRequired, why)
                    .await
            }
            (Mode::Extended, _) => {
                let why = "extended headers were agreed on already";
                self.refuse(option, ReplyKind::ErrInvalid, why).await
            }
            (_, option) => {
                self.mode = match option {
                    OptionKind::ExtendedHeaders => Mode::Extended,
                    _ => Mode::Structured,
                };
                self.reply(option, ReplyKind::Ack, &[]).await?;
                Ok(Next::Option)
            }
        }
    }

    pub(super) async fn open(&self, name: &str) -> Result<Export> {
        let (exports, name) = (Arc::clone(&self.service.exports), name.to_owned());
        let (caller, origin) = (self.caller.clone(), self.origin.clone());
        blocking(move || {
            let opened = exports.open(&name, &caller);
            if let Err(error) = &opened {
                exports.note(&Opening {
                    name: &name,
                    caller: &caller,
                    origin: &origin,
                    is_write: None,
                    error: Some(error),
                });
            }
            opened
        })
        .await?
    }

    /// [`Handshake::admit`], noted: from here on the client has the export, or is refused it.
    async fn enter(&self, content: &Content, name: &str) -> Result<(Seat, Option<Connection>)> {
        let admission = self.admit(content, name);
        let (exports, name) = (Arc::clone(&self.service.exports), name.to_owned());
        let (caller, origin) = (self.caller.clone(), self.origin.clone());
        let is_write = matches!(content, Content::Write { .. });
        blocking(move || {
            exports.note(&Opening {
                name: &name,
                caller: &caller,
                origin: &origin,
                is_write: Some(is_write),
                error: admission.as_ref().err(),
            });
            admission
        })
        .await?
    }

    /// The export for which contexts were chosen, or else opened now.
    ///
    /// A point with chosen contexts stays that point, even when `latest` refers to another one now. A
    /// session's disk may have been replaced, or its session committed, since then: the name then refers to
    /// another export, and the contexts are dropped, as for any other name.
    async fn opened(&mut self, name: &str) -> Result<Export> {
        let Some(chosen) = self.chosen.take_if(|chosen| chosen.name == name) else {
            return self.open(name).await;
        };
        let opened = match &chosen.opened.content {
            Content::Read(_) => chosen.opened.clone(),
            Content::Write { .. } => self.open(name).await?,
        };
        if opened.content.is_same(&chosen.opened.content) {
            self.chosen = Some(chosen);
        }
        Ok(opened)
    }

    /// Takes a place at the export, and connects to the session.
    fn admit(&self, content: &Content, name: &str) -> Result<(Seat, Option<Connection>)> {
        let most = self.service.limits().export_connections;
        let seat = self.service.counts.seat(name, most).ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                format!("the export has {most} connections already"),
            )
        })?;
        Ok((seat, content.connect()?))
    }

    fn agreement(
        &mut self,
        content: Content,
        (seat, connection): (Seat, Option<Connection>),
        name: &str,
        block_bytes: u32,
    ) -> Agreement {
        let chosen = self.chosen.take().filter(|chosen| chosen.name == name);
        Agreement {
            content,
            connection,
            seat,
            name: name.to_owned(),
            mode: self.mode,
            contexts: chosen.map(|chosen| chosen.contexts).unwrap_or_default(),
            block_bytes,
        }
    }

    /// Handles the old option that chooses an export: an error ends the connection.
    async fn export_name(&mut self, data: &[u8]) -> Result<Next> {
        if self.mode == Mode::Extended {
            return Err(violation(
                "the client agreed on extended headers and chose the export the old way",
            ));
        }
        let name = text(data)?;
        let content = match self.opened(name).await {
            Ok(opened) => opened.content,
            // The error goes to the log, and a name may contain a session's token.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(violation("the client chose an export that is not there"));
            }
            Err(e) => return Err(e),
        };
        let admission = self.enter(&content, name).await?;
        let mut answer = content.bytes().size_bytes().to_be_bytes().to_vec();
        answer.extend(content.flags(self.mode.has_chunks()).bits().to_be_bytes());
        if !self.has_no_zeroes {
            answer.extend([0; 124]);
        }
        self.send(&answer).await?;
        let agreement = self.agreement(content, admission, name, 1);
        Ok(Next::Go(Box::new(agreement)))
    }

    async fn list(&mut self) -> Result<Next> {
        let gone = |_| Error::new(ErrorKind::Cancelled, "the server shuts down");
        // Few lists are made at a time, and their bytes count like those of any reply until they are sent.
        let turn = self.service.lists.acquire().await.map_err(gone)?;
        let exports = Arc::clone(&self.service.exports);
        let caller = self.caller.clone();
        let most = LIST_MAX.saturating_add(1);
        let bytes = blocking(move || encode_list(exports.list(&caller, most))).await?;
        let most = self.service.limits().bytes;
        let length = u32::try_from(bytes.len()).unwrap_or(most).min(most);
        let shared = &self.service.bytes;
        let _share = shared.acquire_many(length).await.map_err(gone)?;
        drop(turn);
        self.send(&bytes).await?;
        Ok(Next::Option)
    }

    async fn info(&mut self, option: OptionKind, data: &[u8]) -> Result<Next> {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(e) => return self.refuse(option, ReplyKind::ErrInvalid, e.what()).await,
        };
        let opened = match self.opened(&request.name).await {
            Ok(opened) => opened,
            Err(e) => return self.refuse(option, refusal(e.kind()), &e.report()).await,
        };
        let content = opened.content;
        // The place is taken before the client learns that it has the export.
        let admission = match option {
            OptionKind::Go => self.enter(&content, &request.name).await.map(Some),
            _ => Ok(None),
        };
        let admission = match admission {
            Ok(admission) => admission,
            Err(e) => return self.refuse(option, refusal(e.kind()), &e.report()).await,
        };
        let wants = |kind: u16| request.wanted.contains(&kind);
        let mut facts = vec![Info::Export {
            size_bytes: content.bytes().size_bytes(),
            flags: content.flags(self.mode.has_chunks()),
        }];
        if wants(Info::NAME) {
            facts.push(Info::Name(request.name.clone()));
        }
        if wants(Info::DESCRIPTION) && opened.description.len() <= STRING_BYTES_MAX {
            facts.push(Info::Description(opened.description.clone()));
        }
        if wants(Info::BLOCK_SIZE) {
            facts.push(Info::BlockSize(SIZES));
        }
        for fact in facts {
            self.reply(option, ReplyKind::Info, &fact.encode()).await?;
        }
        self.reply(option, ReplyKind::Ack, &[]).await?;
        let Some(admission) = admission else {
            return Ok(Next::Option);
        };
        let block_bytes = if wants(Info::BLOCK_SIZE) {
            SIZES.minimum
        } else {
            1
        };
        let agreement = self.agreement(content, admission, &request.name, block_bytes);
        Ok(Next::Go(Box::new(agreement)))
    }
}
