//! Names, listings and attributes in a session.

use std::sync::Arc;

use crate::block::ReadAt;
use crate::error::Result;
use crate::ingest::Session;
use crate::tree::Tree;
use crate::tree::attribute::{Found, NodeLook, Ttl, time};
use crate::tree::entry::{COOKIE_FIRST, Each, offer};
use crate::tree::inode::{self, Ino, low};
use crate::tree::refusal::{absent, no_directory, stale};
use crate::tree::session_node::{DISK_SUFFIX, Part, SUFFIX, SessionNode};
use crate::types::width::u64_from_usize;

/// The names directly in a session, in listing order.
pub(super) const NAMES: [&str; 4] = ["status", "nbd-targets", "attached", "disks"];

impl Tree {
    /// The directory of a session.
    pub(in crate::tree) fn session_found(&self, session: &Arc<Session>) -> Result<Found> {
        self.part_found(&SessionNode {
            session: Arc::clone(session),
            part: Part::Top,
        })
    }

    /// The session of a name in a VM's directory, if it is one.
    pub(in crate::tree) fn session_named(&self, vm: &str, text: &str) -> Option<Arc<Session>> {
        let name = text.strip_suffix(SUFFIX)?;
        let sessions = self.open_sessions.as_ref()?.sessions().all();
        sessions
            .into_iter()
            .find(|session| session.vm().as_str() == vm && session.name().as_str() == name)
    }

    fn is_hidden(&self, serial: u32, name: &str) -> bool {
        let Some(open_sessions) = &self.open_sessions else {
            return false;
        };
        open_sessions
            .hidden()
            .iter()
            .any(|(of, n)| *of == serial && *n == name)
    }

    /// A name in one of a session's directories.
    pub(in crate::tree) fn session_child(&self, node: &SessionNode, name: &str) -> Result<Found> {
        self.part_found(&self.session_part(node, name)?)
    }

    /// The node of a name in one of a session's directories.
    pub(super) fn session_part(&self, node: &SessionNode, name: &str) -> Result<SessionNode> {
        let part = match &node.part {
            Part::Top if self.is_hidden(node.serial(), name) => return Err(absent()),
            Part::Top => match name {
                "status" => Part::Status,
                "nbd-targets" => Part::Targets,
                "attached" => Part::Attached,
                "disks" => Part::Disks,
                _ => return Err(absent()),
            },
            Part::Disks => {
                let mut files = node.session.files().into_iter();
                let found = files.find(|(temporary, disk)| match temporary {
                    Some(temporary) => temporary == name,
                    None => name.strip_suffix(DISK_SUFFIX) == Some(disk.meta().name.as_str()),
                });
                Part::Disk(found.ok_or_else(absent)?.1)
            }
            Part::Attached => {
                let files = node.session.attached()?;
                let is_there = files
                    .iter()
                    .any(|file| file.name == name && !file.is_prefix);
                if !is_there {
                    return Err(absent());
                }
                Part::File(name.to_owned())
            }
            Part::Disk(_) | Part::File(_) | Part::Status | Part::Targets => {
                return Err(no_directory());
            }
        };
        Ok(SessionNode {
            session: Arc::clone(&node.session),
            part,
        })
    }

    /// The number of a node; for a document, that of its present version.
    pub(in crate::tree) fn part_ino(&self, node: &SessionNode) -> Result<Ino> {
        let low = match &node.part {
            Part::Top => low::SELF,
            Part::Disks => low::DISKS,
            Part::Attached => low::ATTACHED,
            Part::Disk(disk) => low::DISK | disk.meta().number,
            Part::File(name) => {
                let open_sessions = self.open_sessions.as_ref().ok_or_else(stale)?;
                let position = open_sessions.position_of(node.serial(), name);
                low::ATTACHED_FILE | inode::index_bits(position).ok_or_else(stale)?
            }
            Part::Status | Part::Targets => return Ok(self.session_document(node, None).0),
        };
        Ok(node.ino(low))
    }

    /// A node with its present attributes.
    pub(super) fn part_found(&self, node: &SessionNode) -> Result<Found> {
        let ino = self.part_ino(node)?;
        self.part_attributes(ino, node)
    }

    /// Attributes of the node with this number.
    pub(in crate::tree) fn part_attributes(&self, ino: Ino, node: &SessionNode) -> Result<Found> {
        let changed_at = time(node.session.changed_at());
        let own = |look, size, blocks, at| self.options.own(ino, look, size, blocks, at);
        let mut attributes = match &node.part {
            Part::Top | Part::Disks | Part::Attached => own(NodeLook::Directory, 0, 0, changed_at),
            Part::Disk(disk) => {
                let size = disk.source_bytes();
                let at = time(disk.written_at());
                own(
                    NodeLook::OpenDisk,
                    size,
                    disk.data_bytes().div_ceil(512),
                    at,
                )
            }
            Part::File(name) => {
                let size = node.session.read_attached(name)?.size_bytes();
                own(NodeLook::OpenFile, size, size.div_ceil(512), changed_at)
            }
            Part::Status | Part::Targets => {
                let size = u64_from_usize(self.session_document(node, Some(ino)).1.len());
                own(NodeLook::OpenFile, size, size.div_ceil(512), changed_at)
            }
        };
        if let Some(open_sessions) = &self.open_sessions
            && let Some(overrides) = open_sessions.overrides().get(&ino)
        {
            overrides.put_on(&mut attributes);
        }
        Ok(Found {
            attributes,
            entry_ttl: Ttl::Nothing,
            attribute_ttl: Ttl::Nothing,
        })
    }

    /// The entries of one of a session's directories.
    pub(in crate::tree) fn session_entries(
        &self,
        node: &SessionNode,
        after: u64,
        each: Each<'_>,
    ) -> Result<()> {
        let mut names: Vec<(u64, String)> = match &node.part {
            Part::Top => NAMES
                .iter()
                .zip(COOKIE_FIRST..)
                .map(|(name, cookie)| (cookie, (*name).to_owned()))
                .collect(),
            Part::Disks => {
                let files = node.session.files().into_iter();
                let names = files.map(|(temporary, disk)| {
                    let cookie = COOKIE_FIRST + u64::from(disk.meta().number);
                    let name =
                        temporary.unwrap_or_else(|| format!("{}{DISK_SUFFIX}", disk.meta().name));
                    (cookie, name)
                });
                names.collect()
            }
            Part::Attached => {
                let open_sessions = self.open_sessions.as_ref().ok_or_else(stale)?;
                let files = node.session.attached()?.into_iter();
                let names = files.filter(|file| !file.is_prefix).map(|file| {
                    let position = open_sessions.position_of(node.serial(), &file.name);
                    (COOKIE_FIRST + u64_from_usize(position), file.name)
                });
                names.collect()
            }
            Part::Disk(_) | Part::File(_) | Part::Status | Part::Targets => {
                return Err(no_directory());
            }
        };
        names.sort_unstable();
        for (cookie, name) in names.into_iter().filter(|(cookie, _)| *cookie > after) {
            let found = match self.session_child(node, &name) {
                Ok(found) => Ok(found),
                // The entry is gone meanwhile, or hidden.
                Err(_) => continue,
            };
            if !offer(each, name.as_bytes(), Ino(0), found, cookie) {
                break;
            }
        }
        Ok(())
    }

    /// The directory that contains a node of a session.
    pub(in crate::tree) fn session_parent(&self, node: &SessionNode) -> Result<Ino> {
        match &node.part {
            Part::Top => self
                .snapshot()
                .vm(node.session.vm().as_str())
                .map(|vm| vm.ino())
                .ok_or_else(stale),
            Part::Disks | Part::Attached | Part::Status | Part::Targets => Ok(node.ino(low::SELF)),
            Part::Disk(_) => Ok(node.ino(low::DISKS)),
            Part::File(_) => Ok(node.ino(low::ATTACHED)),
        }
    }
}
