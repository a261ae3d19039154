//! The end of a session whose mount fuser has made.
//!
//! # Why
//! fuser 0.18 unmounts by path whenever a [`BackgroundSession`] is dropped, also after the kernel has unmounted it (`mnt::is_mounted` takes
//! POLLERR, which says that the connection is gone, for "mounted"). At that path there can be another mount by then: one that somebody has
//! made meanwhile, or what our mount lay on. So a session that was unmounted is forgotten, at the price of its descriptor.

use fuser::BackgroundSession;

/// Waits for the end of a session. When it has failed, it is unmounted if nobody uses it.
///
/// # Errors
/// What made it fail; then it may be mounted still.
pub(super) fn join(mut session: BackgroundSession) -> std::io::Result<()> {
    let Ok(nobody) = std::thread::Builder::new().spawn(|| Ok(())) else {
        return session.join();
    };
    let threads = std::mem::replace(&mut session.guard, nobody);
    let panicked = |_| Err(std::io::Error::other("a thread of the mount has panicked"));
    // It ends well only when the kernel has taken the mount away.
    threads.join().unwrap_or_else(panicked)?;
    std::mem::forget(session);
    Ok(())
}

/// Leaves a session that has been unmounted lazily to those who use it still.
pub(super) fn leave(session: BackgroundSession) {
    std::mem::forget(session);
}
