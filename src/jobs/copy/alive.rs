//! The session of a copy, which may be aborted while it is written.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::types::sync::Mutex;
use crate::types::{PointName, VmName};

/// How often the copy looks whether its session was aborted.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the session into which a copy writes is still there.
pub(super) struct Alive<'a> {
    target: &'a Repository,
    vm: &'a VmName,
    session: &'a PointName,
    looked: Mutex<Instant>,
    gone: OnceLock<()>,
}

impl<'a> Alive<'a> {
    pub(super) fn new(target: &'a Repository, vm: &'a VmName, session: &'a PointName) -> Self {
        Self {
            target,
            vm,
            session,
            looked: Mutex::new(Instant::now()),
            gone: OnceLock::new(),
        }
    }

    /// Looks, if the last look is a while ago.
    ///
    /// # Errors
    /// `Cancelled` when it was aborted; `Io`.
    pub(super) fn check(&self) -> Result<()> {
        let Some(mut looked) = self.looked.try_lock() else {
            return Ok(());
        };
        if looked.elapsed() < LOOK && self.gone.get().is_none() {
            return Ok(());
        }
        *looked = Instant::now();
        self.check_now()
    }

    /// Looks now.
    ///
    /// # Errors
    /// As [`Alive::check`].
    pub(super) fn check_now(&self) -> Result<()> {
        match self.target.session(self.vm, self.session) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let _ = self.gone.set(());
                Err(Error::new(
                    ErrorKind::Cancelled,
                    format!(
                        "the copy {}/{} was aborted at the target",
                        self.vm, self.session
                    ),
                ))
            }
            other => other.map(drop),
        }
    }
}
