//! Long commands run in steps: a command over many GiB takes turns with all others, and ends when its client
//! is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::handshake::blocking;
use super::reply::{Outcome, PendingReply};
use super::work::ConnectionState;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::CommandFlags;

/// LIMIT: bytes discarded or zeroed in one step.
const ZERO_STEP_BYTES: u64 = 1 << 30;

/// LIMIT: bytes that CACHE reads in one step.
const CACHE_STEP_BYTES: u64 = 64 << 20;

/// Bytes of one step of a command; `None` for commands with a single step.
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

/// Splits a request into its next step and the rest.
fn split(rest: Request) -> (Request, Option<Request>) {
    let step = step_bytes(rest.command).unwrap_or(u64::MAX);
    if rest.length_bytes <= step {
        return (rest, None);
    }
    let mut now = rest;
    now.length_bytes = step;
    // The FUA of the last step also makes the earlier steps durable.
    now.flags.remove(CommandFlags::FUA);
    let later = Request {
        offset: rest.offset.saturating_add(step),
        length_bytes: rest.length_bytes.saturating_sub(step),
        ..rest
    };
    (now, Some(later))
}

/// Runs a long request step by step, each on a blocking thread and in its turn.
pub(super) async fn run(
    state: Arc<ConnectionState>,
    workers: Arc<Semaphore>,
    mut request: Request,
    pending: PendingReply,
) {
    let mut result = Ok(());
    if request.flags.contains(CommandFlags::FAST_ZERO) {
        // Either the whole range is zero, or nothing is changed.
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
