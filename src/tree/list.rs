//! Listings, streamed with attributes.
//!
//! # Invariants
//! A cookie names the position after an entry, and stays valid while entries come and go: in directories that
//! change it is computed from the serial, which only grows; in committed ones it is the position.

use std::sync::Arc;

use super::Tree;
use super::attribute::Found;
use super::entry::{COOKIE_FIRST, DirEntry, Each, offer};
use super::files;
use super::inode::{self, Ino, low};
use super::node::{GuestNode, Node};
use super::refusal::no_directory;
use super::session_node::SUFFIX;
use super::snapshot::PointView;
use super::volume::Name;
use crate::error::Result;
use crate::guest::fs::FileType;
use crate::ingest::Session;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Names of a point that precede its file trees.
const COOKIES_OWN: u64 = 5;

impl Tree {
    /// Passes the entries of a directory after the cookie `after` (0: from the beginning) to `each`. `each`
    /// returns `false` when it did not take the entry, which ends the listing.
    ///
    /// # Errors
    /// `NotADirectory`; `Stale` when it is gone; errors of the guest's reader.
    pub fn entries(&self, ino: Ino, after: u64, each: Each<'_>) -> Result<()> {
        let node = self.node(ino)?;
        match &node {
            Node::Root => {
                for vm in self.snapshot().vms() {
                    let cookie = COOKIE_FIRST + u64::from(vm.serial);
                    let node = Node::Vm(Arc::clone(vm));
                    if cookie > after
                        && !offer(
                            each,
                            vm.name.as_str().as_bytes(),
                            vm.ino(),
                            self.found(vm.ino(), &node),
                            cookie,
                        )
                    {
                        break;
                    }
                }
                Ok(())
            }
            Node::Vm(vm) => {
                if let (Some(latest), true) = (vm.latest(), after < COOKIE_FIRST) {
                    let ino = latest.ino(low::LATEST);
                    let found = self.found(ino, &Node::Latest(Arc::clone(latest)));
                    if !offer(each, b"latest", ino, found, COOKIE_FIRST) {
                        return Ok(());
                    }
                }
                let sessions = self.sessions_of(vm);
                let mut sessions = sessions.iter().peekable();
                for point in &vm.points {
                    let serial = point.entry.serial;
                    while let Some(session) = sessions.next_if(|s| s.serial() < serial) {
                        if !self.session_entry(session, after, each) {
                            return Ok(());
                        }
                    }
                    let cookie = COOKIE_FIRST + u64::from(serial);
                    if cookie <= after {
                        continue;
                    }
                    let ino = point.ino(low::SELF);
                    let found = self.found(ino, &Node::Point(Arc::clone(point)));
                    let name = point.entry.name.as_str().as_bytes();
                    if !offer(each, name, ino, found, cookie) {
                        return Ok(());
                    }
                }
                for session in sessions {
                    if !self.session_entry(session, after, each) {
                        break;
                    }
                }
                Ok(())
            }
            Node::Session(node) => self.session_entries(node, after, each),
            Node::Point(point) => {
                self.point_entries(point, after, each);
                Ok(())
            }
            Node::AttachedDir(point) => {
                let facts = self.shared.disks.facts(point);
                let files: Vec<_> = facts.attached.iter().enumerate().collect();
                self.by_position(&files, after, each, |(at, file)| {
                    let ino = point.ino(low::ATTACHED_FILE | inode::index_bits(*at).unwrap_or(0));
                    let node = Node::Attached(Arc::clone(point), *at);
                    (file.name.as_bytes(), ino, self.found(ino, &node))
                });
                Ok(())
            }
            Node::DisksDir(point) => {
                let facts = self.shared.disks.facts(point);
                let disks: Vec<_> = facts
                    .disks
                    .iter()
                    .map(|disk| format!("{}.raw", disk.name))
                    .enumerate()
                    .collect();
                self.by_position(&disks, after, each, |(at, name)| {
                    let ino = point.ino(low::DISK | inode::index_bits(*at).unwrap_or(0));
                    let node = Node::Disk(Arc::clone(point), *at);
                    (name.as_bytes(), ino, self.found(ino, &node))
                });
                Ok(())
            }
            Node::Volumes(point, volumes, path) => {
                let children = volumes.children(path);
                self.by_position(&children, after, each, |(name, kind)| {
                    let ino = match kind {
                        Name::Root(volume) => volume
                            .number
                            .map_or(Ino(0), |n| Ino::pack(point.entry.serial, n, 0)),
                        _ => Ino(0),
                    };
                    let found = self.volume_child(point, volumes, path, name);
                    (name.as_bytes(), ino, found)
                });
                Ok(())
            }
            Node::Files(point, volumes, position) => {
                self.by_position(volumes.several(*position), after, each, |(name, at)| {
                    (
                        name.as_bytes(),
                        Ino(0),
                        self.instance_found(point, volumes, *at),
                    )
                });
                Ok(())
            }
            Node::Guest(directory) => self.guest_entries(directory, ino, after, each),
            Node::Latest(_)
            | Node::Info(_)
            | Node::VolumesJson(_)
            | Node::Attached(..)
            | Node::Disk(..)
            | Node::VolumeRaw(..) => Err(no_directory()),
        }
    }

    /// The entry of a session in its VM's listing; `false` when the reply is full.
    fn session_entry(&self, session: &Arc<Session>, after: u64, each: Each<'_>) -> bool {
        let cookie = COOKIE_FIRST + u64::from(session.serial());
        if cookie <= after {
            return true;
        }
        let name = format!("{}{}", session.name(), SUFFIX);
        let found = self.session_found(session);
        offer(each, name.as_bytes(), Ino(0), found, cookie)
    }

    fn by_position<'t, T>(
        &self,
        entries: &'t [T],
        after: u64,
        each: Each<'_>,
        show: impl Fn(&'t T) -> (&'t [u8], Ino, Result<Found>),
    ) {
        let first = usize_from_u64(after.saturating_sub(COOKIE_FIRST - 1));
        for (entry, position) in entries.iter().zip(0u64..).skip(first) {
            let (name, ino, found) = show(entry);
            if !offer(each, name, ino, found, COOKIE_FIRST + position) {
                return;
            }
        }
    }

    /// The names of a point. Each has its own position, even when others are hidden.
    fn point_entries(&self, point: &Arc<PointView>, after: u64, each: Each<'_>) {
        let names = ["info.json", "attached", "disks", "volumes.json", "volumes"];
        for (name, cookie) in names.into_iter().zip(COOKIE_FIRST..) {
            // Listed once its content is known: a listing opens nothing. A lookup by name always finds it.
            let is_shown = name != "volumes.json" || self.is_probed(point);
            if cookie <= after || !is_shown {
                continue;
            }
            let found = match name {
                "info.json" => self.document_entry(point, low::INFO),
                "volumes.json" => self.document_entry(point, low::VOLUMES_JSON),
                _ => self.point_child(point, name),
            };
            if !offer(each, name.as_bytes(), Ino(0), found, cookie) {
                return;
            }
        }
        let mut trees = self.known_file_trees(point);
        let is_known = !trees.is_empty();
        if !is_known {
            trees.push(files::NAME.to_owned());
        }
        for ((position, name), cookie) in trees.iter().enumerate().zip(COOKIE_FIRST + COOKIES_OWN..)
        {
            if cookie <= after {
                continue;
            }
            let bits = inode::index_bits(position).unwrap_or(0);
            let taken = if is_known {
                offer(
                    each,
                    name.as_bytes(),
                    point.ino(low::FILES | bits),
                    self.files_found(point, position),
                    cookie,
                )
            } else {
                // Its attributes are those of the guest's directory; a lookup finds them.
                each(&DirEntry {
                    name: name.as_bytes(),
                    ino: point.ino(low::FILES),
                    found: None,
                    file_type: FileType::Directory,
                    cookie,
                })
            };
            if !taken {
                return;
            }
        }
    }

    fn guest_entries(
        &self,
        directory: &GuestNode,
        ino: Ino,
        after: u64,
        each: Each<'_>,
    ) -> Result<()> {
        let entries = directory.fs.entries(directory.ino)?;
        let first = usize_from_u64(after.saturating_sub(COOKIE_FIRST - 1));
        for (position, entry) in entries.iter().enumerate().skip(first) {
            let child = self.guest_ino(
                &directory.point,
                &directory.volumes,
                &directory.place,
                entry.ino,
            )?;
            let found = self.guest_found(directory, ino, entry.ino);
            let cookie = COOKIE_FIRST + u64_from_usize(position);
            if !offer(each, &entry.name, child, found, cookie) {
                return Ok(());
            }
        }
        Ok(())
    }
}
