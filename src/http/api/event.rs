//! Events, as they happen (server-sent events, HTML Living Standard, 9.2).
//!
//! # Why
//! Events are for displays: they are looked for a few times a second, without a thread for each client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use crate::access::LiveAccess;
use crate::error::{Error, ErrorKind};
use crate::http::call::Call;
use crate::http::fault::Fault;
use crate::http::reply::Answer;
use crate::http::standing::Standing;
use crate::service::{Event, Follow, Happening};
use crate::types::RepositoryName;

/// How often events are looked for.
const LOOK: Duration = Duration::from_millis(200);
/// Looks without an event after which a comment shows that the connection is alive.
const QUIET_LOOKS: u32 = 75;
/// LIMIT: events of a repository that one look passes on.
const EVENTS_MAX: usize = 256;

/// One repository that is followed.
struct Followed {
    name: RepositoryName,
    follow: Follow,
    /// The id of the last event that was passed on.
    passed: String,
}

/// The event with its repository.
#[derive(Serialize)]
struct Told<'a> {
    repository: &'a RepositoryName,
    #[serde(flatten)]
    happening: &'a Happening,
}

struct Events {
    followed: Vec<Followed>,
    look: Pin<Box<Interval>>,
    quiet: u32,
    access: Arc<LiveAccess>,
    standing: Standing,
    _place: OwnedSemaphorePermit,
}

impl Events {
    /// The position in all repositories: `<boot>-<n>` of each, joined by dots.
    fn position(&self) -> String {
        let all = self.followed.iter();
        let all: Vec<&str> = all.map(|one| one.passed.as_str()).collect();
        all.join(".")
    }

    fn gather(&mut self) -> String {
        let mut told: Vec<(RepositoryName, Event, String)> = Vec::new();
        for n in 0..self.followed.len() {
            for _ in 0..EVENTS_MAX {
                let Some(one) = self.followed.get_mut(n) else {
                    break;
                };
                let before = one.follow.position();
                let events = one.follow.next(Duration::ZERO);
                // An event that the caller may not see is passed, too.
                let is_new = one.follow.position() != before;
                one.passed = one.follow.position();
                let name = one.name.clone();
                // A client that has one event and loses the connection gets the next one when it comes back.
                let position = self.position();
                let events = events.into_iter();
                told.extend(events.map(|event| (name.clone(), event, position.clone())));
                if !is_new {
                    break;
                }
            }
        }
        let mut text = String::new();
        for (repository, event, position) in told {
            let kind = match &event.happening {
                Happening::Task { .. } => "task",
                Happening::Session { .. } => "session",
                Happening::Point { .. } => "point",
                Happening::Repository { .. } => "repository",
                Happening::Reset => "reset",
            };
            let data = serde_json::to_string(&Told {
                repository: &repository,
                happening: &event.happening,
            });
            if let Ok(data) = data {
                text.push_str(&format!("event: {kind}\nid: {position}\ndata: {data}\n\n"));
            }
        }
        text
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.look.poll_tick(context).is_ready() {
            if !self.standing.holds(&self.access.fresh()) {
                return Poll::Ready(None);
            }
            let text = self.gather();
            if !text.is_empty() {
                self.quiet = 0;
                return Poll::Ready(Some(Ok(Frame::data(text.into()))));
            }
            self.quiet += 1;
            if self.quiet >= QUIET_LOOKS {
                self.quiet = 0;
                // The id makes a client that has seen no event yet come back to here.
                let text = format!(": alive\nid: {}\n\n", self.position());
                return Poll::Ready(Some(Ok(Frame::data(text.into()))));
            }
        }
        Poll::Pending
    }
}

/// Events as they happen: `task`, `session`, `point`, `repository`, each with an id; after `reset` the client reads everything again.
/// A client that comes back names the last id in `Last-Event-ID`.
#[utoipa::path(get, path = "/api/v1/events", tag = "jobs", operation_id = "followEvents",
    params(("repository" = Option<String>, Query), ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, description = "A stream that does not end", content_type = "text/event-stream", body = String)))]
pub(in crate::http) async fn follow(call: Call) -> Answer {
    let one = call.query(&["repository"])?.text("repository")?;
    let place = Arc::clone(&call.site.followers)
        .try_acquire_owned()
        .map_err(|_| {
            Fault::from(Error::new(
                ErrorKind::LimitExceeded,
                "too many clients follow the events",
            ))
        })?;
    let views = match &one {
        Some(name) => vec![call.view_of(name)?],
        None => call.views(),
    };
    let since = call.headers.get("last-event-id");
    let since: Option<Vec<&str>> = since
        .and_then(|id| id.to_str().ok())
        .map(|id| id.split('.').collect());
    let is_known = since
        .as_ref()
        .is_none_or(|since| since.len() == views.len());
    let followed = views.iter().enumerate().map(|(n, view)| {
        let of_this = since.as_ref().map(|since| match is_known {
            true => since.get(n).copied().unwrap_or_default(),
            // The repositories are others now: an id of another process says so.
            false => "",
        });
        let follow = Follow::new(Arc::clone(view.local()), of_this);
        Followed {
            name: view.name().clone(),
            passed: follow.position(),
            follow,
        }
    });
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        followed: followed.collect(),
        look: Box::pin(look),
        quiet: QUIET_LOOKS,
        standing: Standing::of(&call.caller, &call.site.access.fresh()),
        access: Arc::clone(&call.site.access),
        _place: place,
    };
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
