//! Files of sessions, which the owner makes, rewrites and removes.

use super::cleanup;
use super::job::{Ending, Job};
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::sidecar::encode;
use super::sidecar::session::Session;
use crate::error::Result;
use crate::store::PutMode;
use crate::types::{PointName, VmName};

impl Owner {
    /// Makes a session's directory in the workspace, without the sidecar that makes it a session.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn prepare_session(&self, vm: &VmName, name: &PointName) -> Result<()> {
        let (keys, stage) = (VmKeys::new(vm)?, self.repository().stage());
        // A separate workspace may not have the VM's directories yet.
        stage.make_prefix(&keys.layers()?)?;
        stage.make_prefix(&keys.session(name)?.join(layout::ATTACHED)?)
    }

    /// Writes a session's sidecar after all its other files: from now on the session survives a crash.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    pub fn create_session(&self, session: &Session) -> Result<()> {
        let keys = VmKeys::new(&session.vm)?;
        let stage = self.repository().stage();
        let dir = keys.session(&session.name)?;
        stage.sync_prefix(&keys.layers()?)?;
        stage.sync_prefix(&dir)?;
        stage.put(
            &dir.join(layout::SESSION_FILE)?,
            &encode(session)?,
            PutMode::Create,
        )?;
        stage.sync_prefix(&keys.points()?)
    }

    /// Rewrites the sidecar of an open session.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn replace_session(&self, session: &Session) -> Result<()> {
        let key = VmKeys::new(&session.vm)?.session_file(&session.name)?;
        let bytes = encode(session)?;
        self.repository()
            .stage()
            .put(&key, &bytes, PutMode::Replace)
    }

    /// Removes all files of a session that could not begin, or that its own process ends.
    ///
    /// # Errors
    /// `Io`: the next owner removes the rest.
    pub fn discard_session(&self, session: &Session) -> Result<()> {
        let done = self.with_room(|| cleanup::remove_files(self.repository(), session));
        self.restock();
        done
    }

    /// Removes a session with its unpublished layers. Their space is free afterwards.
    ///
    /// # Errors
    /// `Io`: the next owner removes the rest.
    pub fn remove_session(&self, vm: &VmName, name: &PointName) -> Result<()> {
        let done = self.with_room(|| cleanup::remove_session(self.repository(), vm, name));
        self.restock();
        done
    }

    /// [`Owner::remove_session`] for a session that no process has open; it also records the end in the
    /// history.
    ///
    /// # Errors
    /// `NotFound` naming the session; `Corrupt` when its sidecar cannot be read; `Io`.
    pub fn end_session(&self, vm: &VmName, name: &PointName, ending: &Ending) -> Result<()> {
        let entry = self.vm(vm).ok();
        // A copy that just becomes a point is not removed half-way.
        let held = entry.as_ref().map(|entry| entry.lock());
        let session = self.repository().session(vm, name)?;
        self.remove_session(vm, name)?;
        drop(held);
        let job = Job::of_session(&session, ending, self.clock().now());
        self.keep_job(&job);
        Ok(())
    }
}
