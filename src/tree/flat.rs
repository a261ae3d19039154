//! Flat disks of a mount with passthrough: opened where they are there, and made in the background where a disk is read.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use super::Tree;
use super::document::ReadPath;
use super::inode::Ino;
use super::node::Node;
use super::snapshot::PointView;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::point::FlatDisks;
use crate::repo::sidecar::index::DiskEntry;
use crate::types::PointId;
use crate::types::sync::Mutex;

/// LIMIT: flat disks that wait to be made, one after the other.
const WAITING_MAX: usize = 16;

type DiskPlace = (PointId, usize);

/// What is known of the flat disks of this process.
#[derive(Default)]
pub(super) struct Flats {
    /// Why disks have none, by point and position of the disk.
    reasons: Mutex<HashMap<DiskPlace, Reason>>,
    waiting: Mutex<HashSet<DiskPlace>>,
    /// Held while one is made.
    turn: Mutex<()>,
}

struct Reason {
    text: String,
    /// Whether another attempt would fail as well.
    is_final: bool,
}

impl Flats {
    /// Why a disk has no flat disk.
    pub(super) fn reason(&self, point: PointId, at: usize) -> Option<String> {
        let reasons = self.reasons.lock();
        reasons.get(&(point, at)).map(|reason| reason.text.clone())
    }

    fn note(&self, place: DiskPlace, error: &Error) {
        let is_final = matches!(
            error.kind(),
            ErrorKind::Unsupported | ErrorKind::LimitExceeded
        );
        let reason = Reason {
            text: error.report(),
            is_final,
        };
        self.reasons.lock().insert(place, reason);
    }

    fn is_hopeless(&self, place: DiskPlace) -> bool {
        let reasons = self.reasons.lock();
        reasons.get(&place).is_some_and(|reason| reason.is_final)
    }
}

impl Tree {
    /// The point and the position of a whole disk that passthrough can serve; `None` for all other nodes.
    fn whole_disk(&self, ino: Ino) -> Option<(Arc<PointView>, usize)> {
        if ino.volume() != 0 {
            return None;
        }
        match self.node(ino) {
            Ok(Node::Disk(point, at)) => Some((point, at)),
            _ => None,
        }
    }

    /// Whether an inode is a whole disk of a committed point.
    #[must_use]
    pub fn is_whole_disk(&self, ino: Ino) -> bool {
        self.whole_disk(ino).is_some()
    }

    /// The flat disk of a whole disk, open for reading; `None` where there is none.
    #[must_use]
    pub fn flat_disk(&self, ino: Ino) -> Option<File> {
        let (point, at) = self.whole_disk(ino)?;
        let place = (point.entry.point_id, at);
        let found = self.find_flat(&point, at);
        found
            .inspect_err(|e| {
                tracing::warn!(point = %format!("{}@{}", point.vm, point.entry.name), error = %e.report(), "a disk is read without passthrough");
                self.shared.flats.note(place, e);
            })
            .ok()
            .flatten()
    }

    fn find_flat(&self, point: &PointView, at: usize) -> Result<Option<File>> {
        let entry = self.shared.disks.entry(point, at)?;
        if entry.source_bytes != entry.size_bytes {
            return Err(Error::unsupported(
                "the disk's source has no whole number of sectors, and its flat disk has",
            ));
        }
        let disk = self.shared.disks.disk(point, at)?;
        FlatDisks::new(&self.repository).open(point.vm_id, &entry.layer, &disk)
    }

    /// Makes the flat disk of a whole disk on a thread of its own. Failures are logged, and `info.json` has the reason.
    pub fn make_flat(self: &Arc<Self>, ino: Ino) {
        let Some((point, at)) = self.whole_disk(ino) else {
            return;
        };
        let place = (point.entry.point_id, at);
        if self.shared.flats.is_hopeless(place) {
            return;
        }
        {
            let mut waiting = self.shared.flats.waiting.lock();
            if waiting.len() >= WAITING_MAX || !waiting.insert(place) {
                return;
            }
        }
        let tree = Arc::clone(self);
        let work = move || {
            let turn = tree.shared.flats.turn.lock();
            let made = tree.make_flat_of(&point, at);
            drop(turn);
            if let Err(error) = made {
                tracing::warn!(point = %format!("{}@{}", point.vm, point.entry.name), error = %error.report(), "a disk gets no flat disk; it is read without passthrough");
                tree.shared.flats.note(place, &error);
            }
            tree.shared.flats.waiting.lock().remove(&place);
        };
        let thread = std::thread::Builder::new().name("flat-disk".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "no thread for a flat disk");
            self.shared.flats.waiting.lock().remove(&place);
        }
    }

    fn make_flat_of(&self, point: &PointView, at: usize) -> Result<()> {
        if self.find_flat(point, at)?.is_some() {
            return Ok(());
        }
        let entry = self.shared.disks.entry(point, at)?;
        let disk = self.shared.disks.disk(point, at)?;
        let flats = FlatDisks::new(&self.repository);
        let made = flats
            .make(point.vm_id, &entry.layer, &disk)
            .at_path(format!("disks/{}.raw", entry.name))?;
        let place = (point.entry.point_id, at);
        self.shared.flats.reasons.lock().remove(&place);
        tracing::info!(disk = %entry.name, steps = made.steps, above = ?made.above, "a flat disk was made; the next open reads by passthrough");
        Ok(())
    }

    /// How the disks of a point are read, in their order.
    pub(super) fn read_paths(&self, point: &PointView) -> Vec<ReadPath> {
        let disks = self.shared.disks.facts(point).disks;
        let path = |(at, disk): (usize, &DiskEntry)| {
            let found = self.repository.flat_disk_bytes(point.vm_id, &disk.layer);
            let flat_bytes = found.unwrap_or_else(|e| {
                tracing::warn!(error = %e.report(), "the flat disks cannot be listed");
                None
            });
            let is_whole = disk.source_bytes == disk.size_bytes;
            let passthrough = self.options.passthrough && is_whole && flat_bytes.is_some();
            let reason = self.shared.flats.reason(point.entry.point_id, at);
            ReadPath {
                flat_bytes,
                passthrough,
                reason: reason.filter(|_| self.options.passthrough && !passthrough),
            }
        };
        disks.iter().enumerate().map(path).collect()
    }
}
