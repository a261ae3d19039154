//! Long commands in steps: one of many GiB takes turns with all others, and ends when its client is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::handshake::blocking;
use super::reply::{Outcome, PendingReply};
use super::work::ConnectionState;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::CommandFlags;

/// LIMIT: bytes that are discarded or zeroed in one step.
const ZERO_STEP_BYTES: u64 = 1 << 30;

/// LIMIT: bytes that are read in one step of CACHE.
const CACHE_STEP_BYTES: u64 = 64 << 20;

/// Bytes of one step of a command; `None` where it has one step only.
const fn step_bytes(command: Command) -> Option<u64> {
    match command {
        Command::Trim | Command::WriteZeroes => Some(ZERO_STEP_BYTES),
        Command::Cache => Some(CACHE_STEP_BYTES),
        _ => None,
    }
}

/// Whether a request takes more than one step.
pub(super) fn is_long(request: &Request) -> bool {
    step_bytes(request.command).is_some_and(|step| request.length_bytes > step)
}

/// The next step of what is left of a request, and what is left then.
fn split(rest: Request) -> (Request, Option<Request>) {
    let step = step_bytes(rest.command).unwrap_or(u64::MAX);
    if rest.length_bytes <= step {
        return (rest, None);
    }
    let mut now = rest;
    now.length_bytes = step;
    // What makes the last step durable makes those before it durable as well.
    now.flags.remove(CommandFlags::FUA);
    let later = Request {
        offset: rest.offset.saturating_add(step),
        length_bytes: rest.length_bytes.saturating_sub(step),
        ..rest
    };
    (now, Some(later))
}

/// Does a long request, a step at a time, each on a blocking thread and when it is its turn.
pub(super) async fn run(
    state: Arc<ConnectionState>,
    workers: Arc<Semaphore>,
    mut request: Request,
    pending: PendingReply,
) {
    let mut result = Ok(());
    if request.flags.contains(CommandFlags::FAST_ZERO) {
        // All of it is free or none of it is touched.
        request.flags.remove(CommandFlags::FAST_ZERO);
        result = each(&state, &workers, request, ConnectionState::check_free).await;
    }
    if result.is_ok() {
        result = each(&state, &workers, request, |state, step| {
            state.run(step).map(|_| ())
        })
        .await;
    }
    pending.answer(result.map(|()| Outcome::Done));
}

async fn each(
    state: &Arc<ConnectionState>,
    workers: &Arc<Semaphore>,
    request: Request,
    work: fn(&ConnectionState, &Request) -> Result<()>,
) -> Result<()> {
    let mut rest = Some(request);
    while let Some(request) = rest {
        let (now, later) = split(request);
        let turn = Arc::clone(workers)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the server shuts down"))?;
        if state.is_over.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the connection has ended"));
        }
        let state = Arc::clone(state);
        blocking(move || {
            let _turn = turn;
            work(&state, &now)
        })
        .await??;
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ZERO_STEP_BYTES, is_long, split};
    use crate::nbd::proto::command::{Command, Request};
    use crate::nbd::proto::flag::CommandFlags;

    #[test]
    fn steps_cover_the_request_and_the_last_one_is_forced() {
        let length_bytes = 3 * ZERO_STEP_BYTES + 512;
        let whole = Request {
            flags: CommandFlags::FUA,
            command: Command::Trim,
            cookie: 1,
            offset: 4096,
            length_bytes,
        };
        assert!(is_long(&whole));
        let (mut rest, mut at, mut forced) = (Some(whole), 4096, Vec::new());
        while let Some(request) = rest {
            let (now, later) = split(request);
            assert_eq!(now.offset, at);
            at += now.length_bytes;
            forced.push(now.flags.contains(CommandFlags::FUA));
            rest = later;
        }
        assert_eq!(at, 4096 + length_bytes);
        assert_eq!(forced, [false, false, false, true]);
    }
}
