//! Signals of commands: as a flag that long operations poll, or passed on to a child.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use super::signal::{StopSignals, watch_for};
use crate::error::{Error, Result};

/// Returns a flag that the first SIGINT or SIGTERM sets; the second one ends the process at once.
///
/// # Errors
/// `Io` when the thread or a signal handler cannot be set up.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    on_thread(StopSignals::watch, async move |mut signals| {
        loop {
            signals.next().await;
            if seen.swap(true, Ordering::SeqCst) {
                // 128 + SIGINT, as a shell reports it.
                std::process::exit(130);
            }
        }
    })?;
    Ok(flag)
}

/// Calls `act` for each SIGINT, SIGTERM and SIGHUP, which then do not end the process.
///
/// # Errors
/// As [`flag`].
pub fn each(act: impl Fn(Signal) + Send + 'static) -> Result<()> {
    let watch = || Ok((StopSignals::watch()?, watch_for(SignalKind::hangup())?));
    on_thread(watch, async move |(mut stop, mut hangup)| {
        loop {
            act(tokio::select! {
                name = stop.next() => match name {
                    "SIGINT" => Signal::INT,
                    _ => Signal::TERM,
                },
                _ = hangup.recv() => Signal::HUP,
            });
        }
    })
}

/// Starts to watch, and then handles the signals on a thread of their own.
fn on_thread<S, F>(watch: impl FnOnce() -> Result<S>, handle: F) -> Result<()>
where
    S: Send + 'static,
    F: AsyncFnOnce(S) + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| Error::io("cannot watch for signals", e))?;
    let signals = {
        let _inside = runtime.enter();
        watch()?
    };
    let work = move || runtime.block_on(handle(signals));
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(work)
        .map_err(|e| Error::io("cannot watch for signals", e))?;
    Ok(())
}
