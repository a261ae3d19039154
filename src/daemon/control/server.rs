//! The daemon's side of the control socket.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};

use super::crowd::{CONNECTIONS_MAX, Crowd, Place, is_own};
use super::hello::another_release;
use super::line::Lines;
use super::{Answer, Request, parse_request};
use crate::daemon::desk::Desk;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::Ending;
use crate::sys::socket::{self, SocketFile};

/// Listens on `path`; whoever can open the socket (mode 0660) may ask. Its file goes with the second of the answer.
pub(in crate::daemon) fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let (listener, file) = socket::listen(path, 0o660)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .or_io("cannot listen")
        .at_path(path)?;
    Ok((listener, file))
}

/// Answers until the daemon ends.
pub(in crate::daemon) async fn run(listener: UnixListener, desk: Arc<Desk>) {
    let crowd = Crowd::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(peer) = stream.peer_cred() else {
                    continue;
                };
                let Some(place) = crowd.enter(peer.uid()) else {
                    tracing::warn!(
                        user = peer.uid(),
                        "a command was turned away: too many at a time"
                    );
                    turn_away(stream);
                    continue;
                };
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    if let Err(e) = converse(stream, place, desk).await {
                        tracing::debug!(error = %e, "a control connection ended");
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a control connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Says why nobody answers. Nothing is waited for: what does not fit into the socket at once is not said.
fn turn_away(stream: UnixStream) {
    let error = Error::new(
        ErrorKind::LimitExceeded,
        format!("{CONNECTIONS_MAX} commands, or a quarter of them of one user, talk to the daemon already"),
    )
    .advise("try again when some of them have ended (ss -xp shows who they are)");
    if let Ok(bytes) = encode(&Answer::Error((&error).into()))
        && let Ok(mut stream) = stream.into_std()
    {
        // Whoever has gone already does not want to know.
        let _ = stream.write(&bytes);
    }
}

fn encode(answer: &Answer) -> std::io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    Ok(bytes)
}

async fn converse(mut stream: UnixStream, place: Place, desk: Arc<Desk>) -> std::io::Result<()> {
    let user = place.user();
    let mut lines = Lines::new(place);
    let mut is_ours = false;
    while let Some((line, descriptors)) = lines.next(&stream).await? {
        let answer = match parse_request(&line) {
            Ok(Request::Hello(hello)) => desk.welcome(&hello).and_then(|welcome| {
                is_ours = welcome.is_served;
                value(welcome)
            }),
            _ if !is_ours => Err(another_release(
                "which does not say which repository it means",
            )),
            Ok(request) => {
                let desk = Arc::clone(&desk);
                // Commits seal and fsync: not on a thread that serves others.
                match tokio::task::spawn_blocking(move || answer(&desk, user, request, descriptors))
                    .await
                {
                    Ok(answer) => answer,
                    Err(e) => Err(Error::new(
                        ErrorKind::Io,
                        "the request failed inside the daemon",
                    )
                    .caused_by(e)),
                }
            }
            Err(e) => Err(e),
        };
        let answer = match answer {
            Ok(value) => Answer::Ok(value),
            Err(e) => Answer::Error((&e).into()),
        };
        lines.answer(&mut stream, &encode(&answer)?).await?;
    }
    Ok(())
}

fn value(answer: impl Serialize) -> Result<Value> {
    serde_json::to_value(answer)
        .map_err(|e| Error::invalid("the answer cannot be encoded").caused_by(e))
}

fn answer(
    desk: &Desk,
    user: u32,
    request: Request,
    mut descriptors: Vec<OwnedFd>,
) -> Result<Value> {
    match request {
        Request::Hello(hello) => value(desk.welcome(&hello)?),
        Request::Status => value(desk.status()),
        Request::Begin(arguments) => value(desk.begin(&arguments.request()?)?),
        Request::Commit(arguments) => {
            value(desk.commit(&arguments.vm, &arguments.session, &arguments.request())?)
        }
        Request::Attach {
            vm,
            session,
            name,
            content,
        } => value(desk.attach(&vm, &session, &name, &content)?),
        Request::Abort {
            vm,
            session,
            failure,
        } => {
            let ending = failure.map_or_else(Ending::aborted, Ending::failed);
            value(desk.end(&vm, &session, &ending)?)
        }
        Request::Failed { vm, reason } => {
            desk.note_failure(&vm, &reason);
            value(())
        }
        Request::Sessions => value(desk.list()),
        Request::Mount(arguments) => {
            // A mount can remove points (allow_forget), which who may only ingest and read must not.
            require_own(user, "hand over a mount")?;
            let descriptor = descriptors
                .pop()
                .ok_or_else(|| Error::invalid("there is no descriptor with the request"))?;
            value(desk.mounts().adopt(&arguments, descriptor)?)
        }
        Request::RebuildCatalog => {
            // It reads every sidecar while commits wait.
            require_own(user, "rebuild the catalog")?;
            value(desk.sessions().engine().owner.rebuild_catalog()?)
        }
    }
}

/// Refuses who may only ingest and read.
fn require_own(user: u32, what: &str) -> Result<()> {
    if is_own(user) {
        return Ok(());
    }
    let what = format!("only root and the daemon's own user may {what}");
    Err(Error::new(ErrorKind::PermissionDenied, what))
}
