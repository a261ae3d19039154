//! Whether a connection has a request under way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::types::sync::Mutex;

struct State {
    /// Requests whose answers have not ended.
    running: usize,
    /// When the last of them ended, or the connection began.
    since: Instant,
}

/// The requests of one connection.
pub(super) struct Activity(Mutex<State>);

/// A request that is under way until this is dropped.
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            running: 0,
            since: Instant::now(),
        })))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.0.lock().running += 1;
        Busy(Arc::clone(self))
    }

    /// For how long no request has been under way; `None` while one is.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.0.lock();
        (state.running == 0).then(|| state.since.elapsed())
    }

    /// Waits until no request has been under way for so long.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let idle = self.idle().unwrap_or_default();
            match limit.checked_sub(idle).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.running -= 1;
        state.since = Instant::now();
    }
}

/// The body of an answer, whose request is under way until it is sent.
pub(super) struct Sent {
    body: Body,
    _busy: Busy,
}

impl Sent {
    pub(super) const fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::Activity;

    #[test]
    fn a_connection_is_idle_between_its_requests() {
        let activity = Activity::new();
        assert!(activity.idle().is_some());
        let (one, two) = (activity.begin(), activity.begin());
        drop(one);
        assert!(activity.idle().is_none());
        drop(two);
        assert!(activity.idle().is_some());
    }
}
