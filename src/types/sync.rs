//! Locks without poisoning: when a thread panics while it holds a lock, the panic is logged, and
//! other threads continue to use the guarded value.
//!
//! # Why
//! No invariant of this program can be broken by a panic: each operation changes the state only
//! after the steps that can fail. `std`'s poisoned locks would turn one caught panic (of a guest's
//! reader, of a request) into a failure of everything after it.

use std::sync::{LockResult, PoisonError, WaitTimeoutResult};
use std::time::Duration;

pub use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

fn held<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// [`std::sync::Mutex`] without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex over a value.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        held(self.0.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        held(self.0.lock())
    }

    /// Takes the lock, if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value; the exclusive reference makes the lock unnecessary.
    pub fn get_mut(&mut self) -> &mut T {
        held(self.0.get_mut())
    }
}

/// [`std::sync::RwLock`] without poisoning.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock over a value.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for a lock to read.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        held(self.0.read())
    }

    /// Waits for the lock to write.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        held(self.0.write())
    }
}

/// [`std::sync::Condvar`] for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    /// A condition.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    /// Waits for a notification.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        held(self.0.wait(guard))
    }

    /// Waits while the condition holds, for at most the given time.
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
        is_so: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        held(self.0.wait_timeout_while(guard, time, is_so))
    }

    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Mutex;
    use std::sync::Arc;

    #[test]
    fn what_a_panic_leaves_can_be_used() {
        let shared = Arc::new(Mutex::new(1));
        let other = Arc::clone(&shared);
        let ended = std::thread::spawn(move || {
            *other.lock() = 2;
            let _held = other.lock();
            panic!("with the lock held");
        });
        ended.join().unwrap_err();
        assert_eq!(*shared.lock(), 2);
        assert!(shared.try_lock().is_some());
    }
}
