//! The transport of a connection.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// LIMIT: bytes that are received ahead: the headers and payloads of some small requests arrive in one call. Larger payloads are received
/// where they belong, but for what came with their header.
const AHEAD_BYTES: usize = 16 << 10;

/// The receiving side.
pub(super) type Receiving = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

/// The sending side.
pub(super) type Sending = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection.
pub(super) enum Stream {
    /// A Unix socket, whose peer was checked when it was accepted.
    Unix(UnixStream),
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The same connection, whose readiness the reactor of the present runtime watches. That of TLS stays with the reactor that it has.
    pub(super) fn moved_here(self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            tls @ Self::Tls(_) => tls,
        })
    }

    /// Splits the connection into both sides, one for each task.
    pub(super) fn split(self) -> (Receiving, Sending) {
        let (receiving, sending): (Box<dyn AsyncRead + Send + Unpin>, Sending) = match self {
            Self::Unix(stream) => {
                let (receiving, sending) = stream.into_split();
                (Box::new(receiving), Box::new(sending))
            }
            Self::Tcp(stream) => {
                let (receiving, sending) = stream.into_split();
                (Box::new(receiving), Box::new(sending))
            }
            Self::Tls(stream) => {
                let (receiving, sending) = tokio::io::split(*stream);
                (Box::new(receiving), Box::new(sending))
            }
        };
        (BufReader::with_capacity(AHEAD_BYTES, receiving), sending)
    }

    fn reader(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self {
            Self::Unix(stream) => Pin::new(stream),
            Self::Tcp(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Unix(stream) => Pin::new(stream),
            Self::Tcp(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.reader().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writer().poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.writer().poll_write_vectored(cx, bufs)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.writer().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.writer().poll_shutdown(cx)
    }
}
