//! From a plain connection to TLS (proto.md, "FORCEDTLS mode").
//!
//! # Invariants
//! - Before TLS the server reveals nothing about exports: it answers each option but STARTTLS and ABORT with
//!   ERR_TLS_REQD, unread.
//! - No state from before TLS is kept. No byte is read ahead, so a cleartext byte cannot be taken for one
//!   that came through TLS.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use super::handshake::{SKIP_BYTES_MAX, greet, receive_option, send, skip};
use super::lobby::{Inside, Seat};
use super::stream::Stream;
use crate::access::Caller;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::authentication::{self, Door};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::ClientFlags;
use crate::nbd::proto::option::{OptionHeader, OptionKind, ReplyKind, encode_reply};
use crate::tls::{self, ServerTls};

/// LIMIT: options before TLS.
const OPTIONS_MAX: u32 = 16;

/// A TLS connection, its caller, and the client's flags.
pub(super) type Secured = (Stream, Caller, ClientFlags);

/// Greets a client that has a seat in the lobby, establishes TLS within `timeout`, and gives the client a
/// place inside; `None` when it leaves properly.
pub(super) async fn enter(
    stream: Stream,
    tls: &ServerTls,
    seat: Seat,
    timeout: Duration,
) -> Result<Option<(Secured, Inside)>> {
    let begun = tokio::select! {
        begun = tokio::time::timeout(timeout, begin(stream, tls, &seat)) => begun
            .map_err(|_| Error::new(ErrorKind::TimedOut, "the client did not begin TLS in time"))??,
        () = seat.taken() => return Err(Error::new(
            ErrorKind::LimitExceeded,
            "it made room for another connection",
        )),
    };
    let Some(secured) = begun else {
        return Ok(None);
    };
    match seat.pass() {
        Some(inside) => Ok(Some((secured, inside))),
        None => Err(Error::new(
            ErrorKind::LimitExceeded,
            "there are too many connections of clients with certificates",
        )),
    }
}

async fn begin(mut stream: Stream, tls: &ServerTls, seat: &Seat) -> Result<Option<Secured>> {
    let Some(answer) = greet(&mut stream).await? else {
        return Ok(None);
    };
    seat.speaks();
    if !wait_for_start(&mut stream).await? {
        return Ok(None);
    }
    let Stream::Tcp(stream) = stream else {
        return Err(Error::unsupported("TLS is for TCP"));
    };
    let stream = TlsAcceptor::from(tls.config())
        .accept(stream)
        .await
        .map_err(|e| {
            if is_of_certificate(&e) {
                authentication::note_failure(Door::Nbd);
            }
            violation("TLS with the client failed").caused_by(e)
        })?;
    let certificate = stream.get_ref().1.peer_certificates();
    let names = certificate
        .and_then(|all| all.first())
        .map(tls::names)
        .ok_or_else(|| violation("the client has no certificate"))?;
    tracing::debug!(?names, "the client speaks TLS");
    let caller = Caller::Certified(Arc::from(names));
    Ok(Some((Stream::Tls(Box::new(stream)), caller, answer)))
}

/// Whether TLS has failed because the client's certificate is missing or not accepted. Bytes that are not TLS are no attempt to prove an
/// identity.
fn is_of_certificate(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}

/// Answers options until the client requests TLS; `false` when it leaves.
async fn wait_for_start(stream: &mut Stream) -> Result<bool> {
    for _ in 0..OPTIONS_MAX {
        let Some(OptionHeader { kind, length_bytes }) = receive_option(stream).await? else {
            return Ok(false);
        };
        if length_bytes > SKIP_BYTES_MAX || kind == OptionKind::ExportName {
            return Err(violation("the client does not begin with TLS"));
        }
        skip(stream, u64::from(length_bytes)).await?;
        let (reply, why) = match kind {
            OptionKind::StartTls if length_bytes > 0 => {
                (ReplyKind::ErrInvalid, "the option has no data")
            }
            OptionKind::StartTls | OptionKind::Abort => (ReplyKind::Ack, ""),
            _ => (ReplyKind::ErrTlsRequired, "TLS comes first"),
        };
        let sent = send(stream, &encode_reply(kind, reply, why.as_bytes())).await;
        if kind == OptionKind::Abort {
            // Many clients do not wait for the reply.
            return Ok(false);
        }
        sent?;
        if reply == ReplyKind::Ack {
            return Ok(true);
        }
    }
    Err(Error::new(
        ErrorKind::LimitExceeded,
        "the client does not come to an end with its options",
    ))
}

#[cfg(test)]
mod tests {
    use super::is_of_certificate;
    use std::io::{Error, ErrorKind};

    #[test]
    fn only_certificates_are_attempts_to_prove_an_identity() {
        let of = |inner| is_of_certificate(&Error::new(ErrorKind::InvalidData, inner));
        assert!(of(rustls::Error::NoCertificatesPresented));
        assert!(of(rustls::CertificateError::Revoked.into()));
        assert!(!of(rustls::Error::DecryptError));
        assert!(!is_of_certificate(&ErrorKind::UnexpectedEof.into()));
    }
}
