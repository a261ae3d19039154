//! Attributes that tools set on the files of a session (chmod, chown, utimens). They are kept while the
//! session is open, and are not part of the point.

use jiff::Timestamp;

use crate::error::Result;
use crate::guest::fs::Time;
use crate::tree::Tree;
use crate::tree::attribute::{Attributes, Found, time};
use crate::tree::inode::Ino;
use crate::tree::refusal::not_permitted;
use crate::tree::session_node::{Part, SessionNode};

use super::write::with_writer;

/// Attributes to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewAttributes {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Last access.
    pub atime: Option<NewTime>,
    /// Last change.
    pub mtime: Option<NewTime>,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// The present time.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes that replace the tree's own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AttributeOverrides {
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    atime: Option<Time>,
    mtime: Option<Time>,
}

impl NewTime {
    const fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::At(at) => at,
        }
    }
}

impl AttributeOverrides {
    pub(super) fn put_on(&self, attributes: &mut Attributes) {
        attributes.mode = self.mode.unwrap_or(attributes.mode);
        attributes.uid = self.uid.unwrap_or(attributes.uid);
        attributes.gid = self.gid.unwrap_or(attributes.gid);
        attributes.atime = self.atime.unwrap_or(attributes.atime);
        attributes.mtime = self.mtime.unwrap_or(attributes.mtime);
    }

    fn take(&mut self, new: &NewAttributes, now: Timestamp, keeps_mtime: bool) {
        let shown = |new: Option<NewTime>| new.map(|new| time(new.at(now)));
        self.mode = new.mode.map(|mode| mode & 0o777).or(self.mode);
        self.uid = new.uid.or(self.uid);
        self.gid = new.gid.or(self.gid);
        self.atime = shown(new.atime).or(self.atime);
        if keeps_mtime {
            self.mtime = shown(new.mtime).or(self.mtime);
        }
    }
}

impl Tree {
    /// Sets attributes of a node of an open session. An explicit time on a disk declares it as finished.
    ///
    /// # Errors
    /// `ReadOnly` for committed nodes, `NotPermitted` for VMs; `Busy` when a disk is being written over NBD;
    /// `TooLarge`, `NoSpace`, `Io`.
    pub fn set_attributes(&self, ino: Ino, new: &NewAttributes) -> Result<Found> {
        let node = self.open_node(ino)?;
        let session = &node.session;
        Self::noted(session, session.enter_write().map(drop))?;
        if let Some(size_bytes) = new.size_bytes {
            Self::noted(session, self.resize(&node, size_bytes))?;
        }
        let is_timed = new.atime.is_some() || new.mtime.is_some();
        if let (Part::Disk(disk), true) = (&node.part, is_timed) {
            let timed = with_writer(&node, disk, |disk| {
                if let Some(at) = new.mtime {
                    disk.set_written_at(at.at(self.now()));
                }
                if !disk.is_finished() {
                    disk.set_finished(true);
                }
                Ok(())
            });
            Self::noted(session, timed)?;
        }
        let is_file = matches!(node.part, Part::File(_));
        self.open_sessions()?
            .overrides()
            .entry(ino)
            .or_default()
            .take(new, self.now(), is_file);
        let node = self.session_node(ino).unwrap_or(node);
        self.part_attributes(ino, &node)
    }

    fn resize(&self, node: &SessionNode, size_bytes: u64) -> Result<()> {
        match &node.part {
            Part::Disk(disk) => with_writer(node, disk, |disk| {
                let _writing = disk.begin_write()?;
                disk.set_size(size_bytes)?;
                disk.note_cut(size_bytes);
                Ok(())
            }),
            Part::File(name) => {
                node.session.resize_attached(name, size_bytes)?;
                self.wrote_attached(node)
            }
            Part::Status | Part::Targets => Err(not_permitted("this file is made by the daemon")),
            Part::Top | Part::Disks | Part::Attached => Err(crate::error::Error::new(
                crate::error::ErrorKind::IsADirectory,
                "it is a directory",
            )),
        }
    }

    /// Updates the time of an attached file after a write.
    pub(super) fn wrote_attached(&self, node: &SessionNode) -> Result<()> {
        let ino = self.part_ino(node)?;
        let mut all = self.open_sessions()?.overrides();
        let overrides = all.entry(ino).or_default();
        let mut now = time(self.now());
        if overrides.mtime == Some(now) {
            now.nanoseconds = (now.nanoseconds + 1) % 1_000_000_000;
        }
        overrides.mtime = Some(now);
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.open_sessions
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |open_sessions| {
                open_sessions.sessions().now()
            })
    }
}
