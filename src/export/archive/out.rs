//! The output of an archive: plain, or through zstd.
//!
//! # Invariants
//! - A stream that is dropped before [`Out::finish`] has no end mark: a tar has no two empty blocks, a zstd
//!   frame no checksum.

use std::fmt;
use std::io::{BufWriter, Write};

use zstd::stream::write::Encoder;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The default level of `zstd`.
const LEVEL: i32 = 3;
/// LIMIT: compressing threads; each holds some MiB.
const THREADS_MAX: usize = 4;
const BUFFER_BYTES: usize = 256 << 10;

/// The cause of an error when the reader of the archive has ended before the archive did: it needs no more.
#[derive(Debug)]
pub struct ReaderGone;

impl ReaderGone {
    /// Whether this caused an error.
    #[must_use]
    pub fn caused(error: &Error) -> bool {
        let source = std::error::Error::source(error);
        source.is_some_and(|source| source.is::<Self>())
    }
}

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its reader has ended")
    }
}

impl std::error::Error for ReaderGone {}

/// The output stream.
pub(super) enum Out<'a> {
    Plain(BufWriter<Box<dyn Write + 'a>>),
    Zstd(BufWriter<Encoder<'static, Box<dyn Write + 'a>>>),
}

impl<'a> Out<'a> {
    pub(super) fn plain(sink: Box<dyn Write + 'a>) -> Self {
        Self::Plain(BufWriter::with_capacity(BUFFER_BYTES, sink))
    }

    /// # Errors
    /// `Io` when zstd cannot be initialised.
    pub(super) fn zstd(sink: Box<dyn Write + 'a>) -> Result<Self> {
        let mut encoder = Encoder::new(sink, LEVEL).or_io("cannot start zstd")?;
        encoder.include_checksum(true).or_io("cannot start zstd")?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        encoder
            .multithread(u32::try_from(threads.min(THREADS_MAX)).unwrap_or(1))
            .or_io("cannot start zstd")?;
        Ok(Self::Zstd(BufWriter::with_capacity(BUFFER_BYTES, encoder)))
    }

    /// # Errors
    /// `Disconnected` when the reader is gone; `NoSpace`, `Io`.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(failed)
    }

    /// # Errors
    /// As [`Out::put`].
    pub(super) fn finish(self) -> Result<()> {
        let mut sink = match self {
            Self::Plain(buffer) => buffer.into_inner().map_err(|e| e.into_error()),
            Self::Zstd(buffer) => buffer
                .into_inner()
                .map_err(|e| e.into_error())
                .and_then(Encoder::finish),
        }
        .map_err(failed)?;
        sink.flush().map_err(failed)
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(buffer) => buffer.write(bytes),
            Self::Zstd(buffer) => buffer.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(buffer) => buffer.flush(),
            Self::Zstd(buffer) => buffer.flush(),
        }
    }
}

/// Translates an error of the stream.
pub(super) fn failed(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        let what = "the reader of the archive has closed the pipe";
        return Error::new(ErrorKind::Disconnected, what).caused_by(ReaderGone);
    }
    Error::io("cannot write the archive", error)
}
