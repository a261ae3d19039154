//! Ends a session whose mount fuser has made.
//!
//! # Why
//! fuser 0.18 unmounts by path whenever a [`BackgroundSession`] is dropped, even after the kernel has
//! unmounted it (`mnt::is_mounted` takes POLLERR, which means that the connection is gone, for "mounted"). At
//! that path there can then be another mount: a newer one, or the one that ours covered. So an unmounted
//! session is leaked, at the price of its descriptor.

use fuser::BackgroundSession;

/// Waits for the end of a session. After a failure it unmounts the session if it is unused.
///
/// # Errors
/// The error that ended the session; it may then still be mounted.
pub(super) fn join(mut session: BackgroundSession) -> std::io::Result<()> {
    let Ok(nobody) = std::thread::Builder::new().spawn(|| Ok(())) else {
        return session.join();
    };
    let threads = std::mem::replace(&mut session.guard, nobody);
    let panicked = |_| Err(std::io::Error::other("a thread of the mount has panicked"));
    // The threads end without an error only when the kernel has removed the mount.
    threads.join().unwrap_or_else(panicked)?;
    std::mem::forget(session);
    Ok(())
}

/// Leaves a lazily unmounted session to its remaining users.
pub(super) fn leave(session: BackgroundSession) {
    std::mem::forget(session);
}
