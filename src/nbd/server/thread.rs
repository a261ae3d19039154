//! A thread of its own for a connection that writes.
//!
//! # Why
//! A small write takes some microseconds. Handed from the thread that receives it to one that works, and from there to one that answers, it
//! takes ten times as long, most of it waking threads. On a thread of its own a connection may block: it
//! executes small writes itself, between receiving and answering, and nobody waits for it but its client.

use std::future::Future;

use tokio::sync::oneshot;
use tracing::Instrument;

use crate::error::{Error, ErrorKind, Result};

/// Drives what `work` makes to its end, on a new thread with a runtime of one thread. The thread's name is `nbd-writer`.
///
/// # Errors
/// Those of the work; `Io` when there is no further thread; `Cancelled` when the work panicked.
pub(super) async fn on_own_thread<T, W, F>(work: W) -> Result<T>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<T>>,
{
    let span = tracing::Span::current();
    let (sender, ended) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let result = match runtime {
            // The work is made within the runtime, whose reactor its sockets then have.
            Ok(runtime) => runtime.block_on(async { work().await }.instrument(span)),
            Err(e) => Err(Error::io("cannot start a runtime for a connection", e)),
        };
        // Nobody waits any more when the server has cut the connection off.
        let _ = sender.send(result);
    };
    std::thread::Builder::new()
        .name("nbd-writer".to_owned())
        .spawn(run)
        .map_err(|e| Error::io("cannot start a thread for a connection", e))?;
    ended.await.map_err(|_| {
        // The panic hook has logged the panic.
        Error::new(ErrorKind::Cancelled, "the thread of the connection ended")
    })?
}
