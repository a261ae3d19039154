//! Open sessions in the tree: restore points that are being written, as directories `<vm>/<name>.partial`.
//!
//! ```text
//! /web01/nightly.partial/{status, nbd-targets, attached/, disks/vda.raw, disks/.vda.raw.XyZ123}
//! ```
//!
//! # Invariants
//! - Nothing here may be cached: names, attributes and listings have no time to live, and the time of a
//!   directory changes whenever one of its names is added or removed.
//! - A session's inode numbers differ from those of the point that it becomes.
//! - `status` comes first in a listing: a removal that is interrupted has already removed it, and the session
//!   cannot be committed after that.
//!
//! # Concurrency
//! The kernel holds the lock of a directory during a call. So no code here waits for the kernel to process a
//! notification, which could need that lock.

mod declaration;
mod entry;
mod make;
mod overrides;
mod remove;
mod rename;
mod sessions;
mod status;
mod write;

pub use overrides::{NewAttributes, NewTime};
pub use sessions::Sessions;
pub use write::Allocation;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard};

use super::Tree;
use super::bytes::Bytes;
use super::inode::{Ino, low};
use super::node::Node;
use super::refusal::{directory, not_permitted, read_only, stale};
use super::session_node::{Part, SUFFIX, SessionNode};
use super::snapshot::VmView;
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::ingest::{Session, SessionState};
use crate::types::PointName;
use crate::types::sync::Mutex;
use overrides::AttributeOverrides;
use write::WriterContent;

/// A session as it was reported last.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    vm: String,
    serial: u32,
}

/// The writable side of a tree.
pub(super) struct OpenSessions {
    sessions: Arc<dyn Sessions>,
    /// Attributes that tools have set.
    overrides: Mutex<HashMap<Ino, AttributeOverrides>>,
    /// Removed names of sessions, by serial.
    hidden: Mutex<HashSet<(u32, &'static str)>>,
    /// Attached files by serial; a position is never reused.
    attached: Mutex<HashMap<u32, Vec<String>>>,
    seen: Mutex<Vec<Seen>>,
}

impl OpenSessions {
    pub(super) fn new(sessions: Arc<dyn Sessions>) -> Self {
        Self {
            sessions,
            overrides: Mutex::default(),
            hidden: Mutex::default(),
            attached: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn sessions(&self) -> &dyn Sessions {
        self.sessions.as_ref()
    }

    fn overrides(&self) -> MutexGuard<'_, HashMap<Ino, AttributeOverrides>> {
        self.overrides.lock()
    }

    fn hidden(&self) -> MutexGuard<'_, HashSet<(u32, &'static str)>> {
        self.hidden.lock()
    }

    /// The position of an attached file in the numbers of its session.
    fn position_of(&self, serial: u32, name: &str) -> usize {
        let mut attached = self.attached.lock();
        let names = attached.entry(serial).or_default();
        if let Some(at) = names.iter().position(|known| known == name) {
            return at;
        }
        names.push(name.to_owned());
        names.len() - 1
    }

    /// Removes a name; its position then stands for nothing, or for the new name.
    fn moved(&self, serial: u32, from: &str, to: Option<&str>) {
        let mut attached = self.attached.lock();
        for name in attached.entry(serial).or_default() {
            if Some(name.as_str()) == to {
                name.clear();
            } else if name == from {
                *name = to.unwrap_or_default().to_owned();
            }
        }
    }

    fn name_at(&self, serial: u32, position: usize) -> Option<String> {
        let attached = self.attached.lock();
        let name = attached.get(&serial)?.get(position)?;
        (!name.is_empty()).then(|| name.clone())
    }

    /// Directories in which sessions were added or removed since the last call. Drops the state of removed
    /// sessions.
    pub(super) fn changes(&self, vm: impl Fn(&str) -> Option<Ino>) -> Vec<Ino> {
        let sessions = self.sessions().all();
        let now: Vec<Seen> = sessions
            .iter()
            .map(|session| Seen {
                vm: session.vm().to_string(),
                serial: session.serial(),
            })
            .collect();
        let mut seen = self.seen.lock();
        let mut changes = Vec::new();
        let gone = seen.iter().filter(|old| !now.contains(old));
        let new = now.iter().filter(|new| !seen.contains(new));
        for one in gone.chain(new) {
            changes.extend(vm(&one.vm));
        }
        if !changes.is_empty() {
            let open = |serial: u32| now.iter().any(|one| one.serial == serial);
            self.overrides().retain(|ino, _| open(ino.serial()));
            self.hidden().retain(|(serial, _)| open(*serial));
            let mut attached = self.attached.lock();
            attached.retain(|serial, _| open(*serial));
        }
        *seen = now;
        changes
    }
}

impl Tree {
    pub(super) fn open_sessions(&self) -> Result<&OpenSessions> {
        self.open_sessions.as_ref().ok_or_else(read_only)
    }

    /// The open sessions of a VM, by serial.
    pub(super) fn sessions_of(&self, vm: &VmView) -> Vec<Arc<Session>> {
        let Some(open_sessions) = &self.open_sessions else {
            return Vec::new();
        };
        let mut sessions = open_sessions.sessions().of_vm(&vm.name);
        sessions.sort_by_key(|session| session.serial());
        sessions
    }

    /// Counts added and removed sessions, for the times of directories.
    pub(super) fn sessions_generation(&self) -> u32 {
        let generation = self
            .open_sessions
            .as_ref()
            .map(|open_sessions| open_sessions.sessions().generation());
        u32::try_from(generation.unwrap_or(0) % 1_000_000_000).unwrap_or(0)
    }

    /// The content of a file of a session.
    pub(super) fn session_content(&self, ino: Ino, node: &SessionNode) -> Result<Arc<dyn ReadAt>> {
        Ok(match &node.part {
            Part::Disk(disk) => Arc::new(WriterContent(Arc::clone(disk))),
            Part::File(name) => node.session.read_attached(name)?,
            Part::Status | Part::Targets => {
                Arc::new(Bytes(self.session_document(node, Some(ino)).1))
            }
            Part::Top | Part::Disks | Part::Attached => return Err(directory()),
        })
    }

    /// The node of a number whose serial belongs to a session.
    pub(super) fn session_node(&self, ino: Ino) -> Result<SessionNode> {
        let open_sessions = self.open_sessions.as_ref().ok_or_else(stale)?;
        let session = open_sessions
            .sessions()
            .by_serial(ino.serial())
            .filter(|session| self.options.shows(&session.vm()))
            .ok_or_else(stale)?;
        let low = ino.low();
        let index = low & low::INDEX_MASK;
        let part = match low {
            low::SELF => Part::Top,
            low::DISKS => Part::Disks,
            low::ATTACHED => Part::Attached,
            _ if low & !low::DOCUMENT_MASK == low::INFO => Part::Status,
            _ if low & !low::DOCUMENT_MASK == low::VOLUMES_JSON => Part::Targets,
            _ => match low & !low::INDEX_MASK {
                low::DISK => Part::Disk(session.numbered(index).ok_or_else(stale)?),
                low::ATTACHED_FILE => {
                    let position = usize::try_from(index).map_err(|_| stale())?;
                    let name = open_sessions.name_at(ino.serial(), position);
                    Part::File(name.ok_or_else(stale)?)
                }
                _ => return Err(stale()),
            },
        };
        Ok(SessionNode { session, part })
    }

    /// The node in an open session that an operation will change; an error for all other nodes.
    fn open_node(&self, ino: Ino) -> Result<SessionNode> {
        let open_sessions = self.open_sessions()?;
        if ino != Ino::ROOT
            && ino.volume() == 0
            && let Some((_, state)) = open_sessions.sessions().ended(ino.serial())
        {
            return Err(match state {
                SessionState::Committed(_) => read_only(),
                _ => stale(),
            });
        }
        match self.node(ino)? {
            Node::Session(node) => Ok(node),
            Node::Root | Node::Vm(_) => Err(not_permitted(
                "only VMs and sessions (NAME.partial) can be made here",
            )),
            _ => Err(read_only()),
        }
    }

    /// Records the reason of a refusal in `status`, and returns the result.
    fn noted<T>(session: &Session, result: Result<T>) -> Result<T> {
        match &result {
            Err(e) if e.kind() != ErrorKind::NotFound => session.note_error(result),
            _ => result,
        }
    }

    /// All nodes of a session that may have dirty pages in the kernel's page cache.
    #[must_use]
    pub fn session_files(&self, session: &Session) -> Vec<Ino> {
        let serial = session.serial();
        let mut all: Vec<Ino> = session
            .files()
            .iter()
            .map(|(_, disk)| Ino::pack(serial, 0, low::DISK | disk.meta().number))
            .collect();
        if let Some(open_sessions) = &self.open_sessions {
            let attached = open_sessions.attached.lock();
            let count = attached.get(&serial).map_or(0, Vec::len);
            let positions = (0..count).filter_map(super::inode::index_bits);
            all.extend(positions.map(|bits| Ino::pack(serial, 0, low::ATTACHED_FILE | bits)));
        }
        all
    }
}

/// The name of the session, if the directory name has its form.
fn session_of(text: &str) -> Option<Result<PointName>> {
    Some(PointName::new(text.strip_suffix(SUFFIX)?))
}
