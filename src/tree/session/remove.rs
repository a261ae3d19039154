//! Removes names. Every name in a session can be removed, and finally the session itself: that aborts it.
//!
//! # Invariants
//! A removal that is interrupted leaves a session that cannot be committed: the removal of a name that is not
//! a disk marks it as being dismantled, and the commit misses a removed disk with which the session began.

use super::entry::NAMES;
use super::make::text;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::Tree;
use crate::tree::inode::Ino;
use crate::tree::node::Node;
use crate::tree::refusal::{absent, no_directory, read_only};
use crate::tree::session_node::{Part, SessionNode};

impl Tree {
    /// Removes a file of a session.
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`; `ReadOnly` for committed nodes; `NotPermitted`; `Busy`; `Io`.
    pub fn remove_file(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let directory = self.open_node(parent)?;
        let name = text(name)?;
        let node = self.session_part(&directory, name)?;
        let session = &node.session;
        let removed = match &node.part {
            Part::Disk(disk) => session.unlink(disk),
            Part::File(file) => session.remove_attached(file).map(|()| {
                if let Some(open_sessions) = &self.open_sessions {
                    open_sessions.moved(node.serial(), file, None);
                }
            }),
            Part::Status | Part::Targets => self.hide(&node, name),
            Part::Top | Part::Disks | Part::Attached => {
                Err(Error::new(ErrorKind::IsADirectory, "it is a directory"))
            }
        };
        Self::noted(session, removed)
    }

    /// Hides one of the names that every session has.
    fn hide(&self, node: &SessionNode, name: &str) -> Result<()> {
        let name = NAMES.into_iter().find(|own| *own == name);
        let name = name.ok_or_else(absent)?;
        node.session.dismantle()?;
        self.open_sessions()?.hidden().insert((node.serial(), name));
        node.session.note_change();
        Ok(())
    }

    /// Removes a directory: a session is aborted with everything in it; a VM is removed if it has no point.
    ///
    /// # Errors
    /// `NotEmpty`, `NotADirectory`, `NotFound`; `NotPermitted` for a committed point (retention removes
    /// points), unless the mount allows it; `ReadOnly` below a point; `Busy`; `Io`.
    pub fn remove_directory(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let open_sessions = self.open_sessions()?;
        let name = text(name)?;
        match self.node(parent)? {
            Node::Root => {
                let snapshot = self.snapshot();
                let vm = snapshot.vm(name).ok_or_else(absent)?;
                if !vm.points.is_empty() || !self.sessions_of(vm).is_empty() {
                    return Err(Error::new(ErrorKind::NotEmpty, "the VM has restore points"));
                }
                open_sessions.sessions().remove_vm(&vm.name)?;
                self.refresh_quietly()
            }
            Node::Vm(vm) => {
                if let Some(session) = self.session_named(vm.name.as_str(), name) {
                    return open_sessions.sessions().abort(&session);
                }
                let point = vm.point(name).ok_or_else(|| match name {
                    "latest" => no_directory(),
                    _ => absent(),
                })?;
                open_sessions
                    .sessions()
                    .forget(&vm.name, &point.entry.name)?;
                self.refresh_quietly()
            }
            Node::Session(node) => {
                let child = self.session_part(&node, name)?;
                let is_empty = match &child.part {
                    Part::Disks => child.session.files().is_empty(),
                    Part::Attached => child.session.attached()?.is_empty(),
                    _ => return Err(no_directory()),
                };
                if !is_empty {
                    return Err(Error::new(
                        ErrorKind::NotEmpty,
                        "the directory is not empty",
                    ));
                }
                self.hide(&child, name)
            }
            _ => Err(read_only()),
        }
    }
}
