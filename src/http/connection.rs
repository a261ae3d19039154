//! One connection: HTTP/1.1 or HTTP/2 within time limits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;

use super::activity::{Activity, Sent};
use super::host::Hosts;
use super::patience::Patient;
use super::peer::Peer;

/// LIMIT: how long the head of a request may take, the time between two requests included.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// LIMIT: bytes of the head of a request.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// LIMIT: requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 32;
/// LIMIT: how long a client may take nothing of what it is sent. Longer than a download's window: that one names who is ended.
const WRITE_PATIENCE: Duration = Duration::from_secs(90);
/// LIMIT: how long a connection may have no request: one that has sent no byte yet has no head that could be late, and pings alone would
/// keep one of HTTP/2 for ever.
const IDLE_PATIENCE: Duration = Duration::from_secs(20);
/// How often an HTTP/2 connection without traffic is asked whether it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Serves a connection until it ends; `watcher` lets it end after its running requests when the server stops.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    peer: Peer,
    hosts: Arc<Hosts>,
    watcher: Watcher,
    activity: Arc<Activity>,
) {
    let requests = Arc::clone(&activity);
    let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(Arc::clone(&hosts));
        let (busy, answer) = (requests.begin(), router.clone().oneshot(request));
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(response.map(|body| Body::new(Sent::new(body, busy))))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(HEAD_PATIENCE);
    let stream = TokioIo::new(Patient::new(stream, WRITE_PATIENCE));
    let connection = builder.serve_connection(stream, TowerToHyperService::new(service));
    tokio::select! {
        ended = watcher.watch(connection.into_owned()) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP connection ended");
            }
        }
        () = activity.idle_for(IDLE_PATIENCE) => {
            tracing::debug!("an HTTP connection without requests is closed");
        }
    }
}
