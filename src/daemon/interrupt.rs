//! SIGINT and SIGTERM as a flag that long operations poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::signal::StopSignals;
use crate::error::{Error, Result};

/// Returns a flag that the first SIGINT or SIGTERM sets; the second one ends the process at once.
///
/// # Errors
/// `Io` when the thread or a signal handler cannot be set up.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| Error::io("cannot watch for signals", e))?;
    let mut signals = {
        let _inside = runtime.enter();
        StopSignals::watch()?
    };
    let work = move || {
        runtime.block_on(async move {
            loop {
                signals.next().await;
                if seen.swap(true, Ordering::SeqCst) {
                    // 128 + SIGINT, as a shell reports it.
                    std::process::exit(130);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(work)
        .map_err(|e| Error::io("cannot watch for signals", e))?;
    Ok(flag)
}
