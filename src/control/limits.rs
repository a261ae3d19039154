//! Limits of the control socket: connections, and long lines that are received at the same time.
//!
//! # Invariants
//! Root and the daemon's own user have reserved places. Of the places for all other users, one user
//! can take at most a quarter.

use std::collections::HashMap;
use std::sync::Arc;

use crate::access::Caller;
use crate::types::sync::Mutex;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// LIMIT: simultaneous connections of root and the daemon's own user, and of all other users.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// LIMIT: simultaneous connections of one of the other users.
const OF_USER_MAX: usize = CONNECTIONS_MAX / 4;
/// LIMIT: long lines that are received at the same time, for each of the two kinds of users.
const LONG_LINES_MAX: usize = 4;

/// The places for one kind of users.
struct Side {
    places: Arc<Semaphore>,
    long_lines: Arc<Semaphore>,
}

impl Side {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            long_lines: Arc::new(Semaphore::new(LONG_LINES_MAX)),
        }
    }
}

/// The places for connections and for long lines: some for the daemon's own user and root, the
/// others for all other users.
pub(super) struct ConnectionLimits {
    own: Side,
    others: Side,
    /// Connections of each of the other users.
    of_user: Mutex<HashMap<u32, usize>>,
}

impl ConnectionLimits {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            own: Side::new(),
            others: Side::new(),
            of_user: Mutex::default(),
        })
    }

    /// Takes a place for a connection of `user`; `None` when there are too many.
    pub(super) fn enter(self: &Arc<Self>, user: u32) -> Option<ConnectionPermit> {
        let side = if is_own(user) {
            &self.own
        } else {
            &self.others
        };
        let permit = Arc::clone(&side.places).try_acquire_owned().ok()?;
        let mut of_user = self.of_user.lock();
        let count = of_user.entry(user).or_default();
        if !is_own(user) && *count >= OF_USER_MAX {
            return None;
        }
        *count += 1;
        Some(ConnectionPermit {
            limits: Arc::clone(self),
            user,
            long_lines: Arc::clone(&side.long_lines),
            _permit: permit,
        })
    }
}

/// The place of a connection.
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    user: u32,
    /// The places for long lines; used by [`super::line`].
    long_lines: Arc<Semaphore>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    /// Whether the place belongs to root or the daemon's own user.
    pub(super) fn is_own(&self) -> bool {
        is_own(self.user)
    }

    /// Takes a place for a long line; waits until another long line has been answered.
    pub(super) async fn long_line(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.long_lines).acquire_owned().await.ok()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let limits = &self.limits.of_user;
        let mut of_user = limits.lock();
        if let Some(count) = of_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                of_user.remove(&self.user);
            }
        }
    }
}

/// Whether the user is root or the daemon's own user, who may also send the descriptor of a mount.
fn is_own(user: u32) -> bool {
    matches!(Caller::user(user), Caller::User { is_own: true, .. })
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS_MAX, ConnectionLimits, OF_USER_MAX};

    const MEMBER: u32 = 4_000_000_000;

    #[test]
    fn one_user_takes_no_places_of_others_and_others_none_of_ours() {
        let limits = ConnectionLimits::new();
        let ours = rustix::process::geteuid().as_raw();
        let mut places: Vec<_> = (0..OF_USER_MAX).map(|_| limits.enter(MEMBER)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(limits.enter(MEMBER).is_none());
        places.pop();
        assert!(limits.enter(MEMBER).is_some());
        for user in 1..4 {
            places.extend((0..OF_USER_MAX).map(|_| limits.enter(MEMBER + user)));
        }
        places.push(limits.enter(MEMBER));
        assert!(places.iter().all(Option::is_some));
        assert!(limits.enter(MEMBER + 9).is_none());
        let own: Vec<_> = (0..CONNECTIONS_MAX).map(|_| limits.enter(ours)).collect();
        assert!(own.iter().all(Option::is_some));
        assert!(limits.enter(ours).is_none());
        drop((places, own));
        assert!(limits.of_user.lock().is_empty());
    }
}
