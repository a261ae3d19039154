//! The daemon's side of the control socket.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};

use super::hello::another_release;
use super::limits::{CONNECTIONS_MAX, ConnectionLimits};
use super::line::Lines;
use super::{Answer, Hello, Request, Welcome, parse_request};
use crate::access::{Caller, Door, Origin};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::check_attached_size;
use crate::service::{Follow, LocalService, OwnedRepository, Service};
use crate::sys::socket::{self, SocketFile};
use crate::types::width::usize_from_u64;

/// How long one wait for an event takes, so that the end of the daemon is never far.
const EVENT_WAIT: Duration = Duration::from_millis(500);

/// Listens on `path`; every process that can open the socket (mode 0660) may send requests.
/// Dropping the second value removes the socket's file.
///
/// # Errors
/// `NameTooLong`, `Busy`, `Io`.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let (listener, file) = socket::listen(path, 0o660)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .or_io("cannot listen")
        .at_path(path)?;
    Ok((listener, file))
}

/// Answers requests until the daemon ends.
pub async fn run(listener: UnixListener, served: Arc<OwnedRepository>) {
    let limits = ConnectionLimits::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(peer) = stream.peer_cred() else {
                    continue;
                };
                let Some(place) = limits.enter(peer.uid()) else {
                    tracing::warn!(
                        user = peer.uid(),
                        "a command was turned away: too many at a time"
                    );
                    turn_away(stream);
                    continue;
                };
                let Ok(caller) = Caller::of_socket(&stream) else {
                    continue;
                };
                let origin = match peer.pid() {
                    Some(process) => Origin::at(Door::Control, format!("pid {process}")),
                    None => Origin::of(Door::Control),
                };
                let service = Arc::new(served.of_caller(caller, origin));
                let conversation = Conversation {
                    stream,
                    lines: Lines::new(place),
                    service: Arc::clone(&service),
                    is_ours: false,
                };
                tokio::spawn(async move {
                    if let Err(e) = conversation.run().await {
                        tracing::debug!(error = %e, "a control connection ended");
                    }
                    // Its tasks end with it, which writes to the history.
                    let _ = tokio::task::spawn_blocking(move || service.leave()).await;
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a control connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Sends the reason why the connection is closed. The call does not wait: bytes that do not fit
/// into the socket at once are not sent.
fn turn_away(stream: UnixStream) {
    let error = Error::new(
        ErrorKind::LimitExceeded,
        format!("{CONNECTIONS_MAX} commands, or a quarter of them of one user, talk to the daemon already"),
    )
    .advise("try again when some of them have ended (ss -xp shows their processes)");
    if let Ok(bytes) = encode(Err(error))
        && let Ok(mut stream) = stream.into_std()
    {
        // The client may have closed the connection already.
        let _ = stream.write(&bytes);
    }
}

/// Encodes an answer as a line. Commands of releases before protocol 3 find an error by its
/// `message`.
fn encode(answer: Result<Value>) -> std::io::Result<Vec<u8>> {
    let mut message = None;
    let answer = match answer {
        Ok(value) => Answer::Ok(value),
        Err(error) => {
            message = Some(error.report());
            Answer::Error((&error).into())
        }
    };
    let mut answer = serde_json::to_value(&answer).map_err(std::io::Error::other)?;
    if let Some(error) = answer.get_mut("error").and_then(Value::as_object_mut) {
        error.insert("message".to_owned(), message.into());
    }
    let mut bytes = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn value(answer: impl Serialize) -> Result<Value> {
    serde_json::to_value(answer)
        .map_err(|e| Error::invalid("the answer cannot be encoded").caused_by(e))
}

/// A connection and its rights. Its uses of points end with it.
struct Conversation {
    stream: UnixStream,
    lines: Lines,
    service: Arc<LocalService>,
    /// Whether the client has named this repository.
    is_ours: bool,
}

impl Conversation {
    async fn run(mut self) -> std::io::Result<()> {
        while let Some((line, descriptors)) = self.lines.next(&self.stream).await? {
            let answer = match parse_request(&line) {
                Ok(Request::Hello(hello)) => self.welcome(&hello).and_then(value),
                _ if !self.is_ours => Err(another_release("which names no repository")),
                Ok(Request::Follow { since }) => return self.follow(since.as_deref()).await,
                Ok(request) => {
                    let content = match request {
                        Request::Attach { length_bytes, .. } => {
                            if let Err(error) = check_attached_size(length_bytes) {
                                // What follows is not received: the connection ends after the answer.
                                let answer = encode(Err(error))?;
                                return self.lines.answer(&mut self.stream, &answer).await;
                            }
                            let length = usize_from_u64(length_bytes);
                            self.lines.bytes(&self.stream, length).await?
                        }
                        _ => Vec::new(),
                    };
                    self.execute(request, content, descriptors).await
                }
                Err(e) => Err(e),
            };
            self.lines
                .answer(&mut self.stream, &encode(answer)?)
                .await?;
        }
        Ok(())
    }

    fn welcome(&mut self, hello: &Hello) -> Result<Welcome> {
        let welcome = hello.answer(self.service.site())?;
        self.is_ours = welcome.is_served;
        Ok(welcome)
    }

    /// Sends events until the client ends the connection or sends something.
    async fn follow(mut self, since: Option<&str>) -> std::io::Result<()> {
        let mut follow = Follow::new(Arc::clone(&self.service), since);
        let ready = encode(Ok(Value::String(follow.position())))?;
        self.lines.answer(&mut self.stream, &ready).await?;
        loop {
            let waiting = tokio::task::spawn_blocking(move || {
                let events = follow.next(EVENT_WAIT);
                (follow, events)
            });
            let events;
            tokio::select! {
                _ = self.lines.next(&self.stream) => return Ok(()),
                waited = waiting => (follow, events) = waited.map_err(std::io::Error::other)?,
            }
            for event in events {
                let line = encode(value(event))?;
                self.lines.answer(&mut self.stream, &line).await?;
            }
        }
    }

    async fn execute(
        &self,
        request: Request,
        content: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Value> {
        let service = Arc::clone(&self.service);
        // Commits seal and fsync, so they must not run on a thread that serves other connections.
        let work = move || execute(&service, request, &content, descriptors);
        match tokio::task::spawn_blocking(work).await {
            Ok(answer) => answer,
            Err(e) => {
                Err(Error::new(ErrorKind::Io, "the request failed inside the daemon").caused_by(e))
            }
        }
    }
}

fn execute(
    service: &LocalService,
    request: Request,
    content: &[u8],
    mut descriptors: Vec<OwnedFd>,
) -> Result<Value> {
    match request {
        Request::Hello(_) | Request::Follow { .. } => {
            Err(Error::invalid("the connection answers that itself"))
        }
        Request::Status => value(service.status()?),
        Request::Begin(request) => value(service.begin(&request)?),
        Request::Commit { session, request } => value(service.commit(&session, &request)?),
        Request::Attach { session, name, .. } => value(service.attach(&session, &name, content)?),
        Request::Renew { session } => value(service.renew(&session)?),
        Request::Abort { session, failure } => value(service.abort(&session, failure.as_deref())?),
        Request::Forget {
            vm,
            points,
            is_retention,
        } => value(service.forget(&vm, &points, is_retention)?),
        Request::Label { vm, point, change } => value(service.label(&vm, &point, &change)?),
        Request::RenameVm { vm, to } => value(service.rename_vm(&vm, &to)?),
        Request::RemoveVm { vm } => value(service.remove_vm(&vm)?),
        Request::Undelete { vm, point } => value(service.undelete(&vm, &point)?),
        Request::NoteChecks { vm, notes } => value(service.note_checks(&vm, &notes)?),
        Request::NoteCopies { vm, copies } => value(service.note_copies(&vm, &copies)?),
        Request::BeginArrival(arrival) => value(service.begin_arrival(&arrival)?),
        Request::Arrive { vm, session } => value(service.arrive(&vm, &session)?),
        Request::Adopt { vm } => value(service.adopt(&vm)?),
        Request::ChangePolicy { policy } => value(service.change_policy(&policy)?),
        Request::EmptyTrash => value(service.empty_trash()?),
        Request::Hold { vm, point, holder } => value(service.hold(&vm, &point, &holder)?),
        Request::HoldStill { holder } => value(service.hold_still(&holder)?),
        Request::NoteFailure { kind, vm, reason } => {
            value(service.note_failure(kind, vm.as_ref(), &reason)?)
        }
        Request::Sessions => value(service.sessions()?),
        Request::Tasks => value(service.tasks()?),
        Request::Replace(replacement) => value(service.replace(&replacement)?),
        Request::PutBack(what) => value(service.put_back(&what)?),
        Request::BeginTask(request) => value(service.begin_task(&request)?),
        Request::TellTask { task, disks } => value(service.tell_task(task, &disks)?),
        Request::EndTask {
            task,
            state,
            reason,
        } => value(service.end_task(task, state, reason.as_deref())?),
        Request::Cancel { task } => value(service.cancel(task)?),
        Request::Login => value(service.login()?),
        Request::Verify(request) => value(service.start_verify(&request)?),
        Request::Copy(request) => value(service.copy(&request)?),
        Request::ForgetBy { vm, request } => value(service.forget_by(&vm, &request)?),
        Request::RebuildCatalog => value(service.rebuild_catalog()?),
        Request::Mount(request) => value(service.adopt_mount(&request, descriptors.pop())?),
    }
}
