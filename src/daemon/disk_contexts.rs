//! Meta contexts of disks: `qemu:allocation-depth`, and the changes since an earlier point of the
//! same VM.

use std::collections::HashMap;
use std::sync::Arc;

use crate::chain::Disk;
use crate::error::Result;
use crate::ingest::DiskWriter;
use crate::nbd::server::{ContextExtent, ContextSource, MetaContexts};
use crate::point::{Difference, OpenLeaves};
use crate::repo::Slot;
use crate::repo::content::{REGION_BYTES, Region};
use crate::repo::leaves::Leaves;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::PointParent;
use crate::tree::{Tree, VmView};
use crate::types::{Digest, PointName, VmName};

const DEPTH: &str = "qemu:allocation-depth";
const CHANGED_SINCE: &str = "x-restorefs:changed-since:";

/// Bit 0: the range may differ from the earlier point.
const CHANGED: u32 = 1;

/// LIMIT: earlier points in a list of all contexts, nearest first. A client can request any other
/// point by its name.
const LISTED_MAX: usize = 256;

/// The disk that a context describes.
#[derive(Clone)]
pub(super) enum Subject {
    /// A disk of a point.
    Point {
        /// Its chain.
        disk: Arc<Disk>,
        /// Slot of its layer.
        slot: Slot,
        /// Its content.
        root: Digest,
        /// Position of the point in its VM.
        seq: u64,
    },
    /// A disk of an open session.
    Session(Arc<DiskWriter>),
}

/// The meta contexts of one disk.
pub(super) struct DiskContexts {
    /// The tree, which lists the points.
    pub(super) tree: Arc<Tree>,
    pub(super) leaves: Arc<OpenLeaves>,
    pub(super) vm: VmName,
    /// Stable key of the disk.
    pub(super) key: String,
    /// The point that the disk's point or session was compared with.
    pub(super) parent: Option<PointParent>,
    pub(super) subject: Subject,
}

impl DiskContexts {
    /// Points from the parent on, nearest first. Where a parent was forgotten, the walk goes on with the newest point before it that is
    /// left: contents are compared, so any earlier point will do.
    fn ancestors<'a>(&self, vm: &'a VmView) -> Vec<&'a PointEntry> {
        let entries = || vm.points.iter().map(|point| &point.entry);
        let by_id: HashMap<_, _> = entries().map(|entry| (entry.point_id, entry)).collect();
        let mut all: Vec<&PointEntry> = Vec::new();
        let mut next = self.parent.as_ref();
        let mut seq = match &self.subject {
            Subject::Point { seq, .. } => *seq,
            Subject::Session(_) => u64::MAX,
        };
        let newest_before = |seq| {
            let before = entries().filter(|entry| entry.seq < seq);
            before.max_by_key(|entry| entry.seq)
        };
        // A loop in an index would have more steps than there are points.
        while let Some(parent) = next
            && all.len() < vm.points.len()
        {
            let known = by_id.get(&parent.point_id).copied();
            let Some(point) = known.or_else(|| newest_before(seq)) else {
                break;
            };
            all.push(point);
            seq = point.seq;
            next = point.parent.as_ref();
        }
        all
    }

    /// Slot and content of this disk in an earlier point.
    fn earlier(&self, point: &PointEntry) -> Result<Option<(Slot, Digest)>> {
        let sidecar = self.tree.repository().point(&self.vm, point)?;
        let disk = sidecar.disks.iter().find(|disk| disk.key == self.key);
        Ok(disk.map(|disk| (disk.layer.clone(), disk.content_root)))
    }

    fn content(&self) -> Result<Content> {
        let open = |slot: &Slot, root| {
            let vm_id = self.tree.vm(&self.vm)?.vm_id;
            self.leaves
                .open(self.tree.repository(), &self.vm, vm_id, slot, root)
        };
        Ok(match &self.subject {
            Subject::Point { slot, root, .. } => Content {
                leaves: Some(open(slot, *root)?),
                held: None,
            },
            Subject::Session(disk) => {
                let parent = disk.meta().parent.as_ref();
                let leaves = parent.map(|parent| open(&parent.layer, parent.content_root));
                Content {
                    leaves: leaves.transpose()?,
                    held: Some(Arc::clone(disk)),
                }
            }
        })
    }
}

impl MetaContexts for DiskContexts {
    fn names(&self) -> Vec<String> {
        let mut names = vec![DEPTH.to_owned()];
        let Ok(vm) = self.tree.vm(&self.vm) else {
            return names;
        };
        let ancestors = self.ancestors(&vm).into_iter().take(LISTED_MAX);
        let with_disk = ancestors.filter(|point| matches!(self.earlier(point), Ok(Some(_))));
        names.extend(with_disk.map(|point| format!("{CHANGED_SINCE}{}", point.name)));
        names
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ContextSource>>> {
        if name == DEPTH {
            return Ok(Some(Arc::new(Depth(self.subject.clone()))));
        }
        let Some(point) = name.strip_prefix(CHANGED_SINCE) else {
            return Ok(None);
        };
        let Ok(point) = PointName::new(point) else {
            return Ok(None);
        };
        // A session can belong to a VM that has no points yet.
        let Ok(vm) = self.tree.vm(&self.vm) else {
            return Ok(None);
        };
        let ancestors = self.ancestors(&vm);
        let Some(point) = ancestors.into_iter().find(|p| p.name.same_as(&point)) else {
            return Ok(None);
        };
        let Some((slot, root)) = self.earlier(point)? else {
            return Ok(None);
        };
        let Content { leaves, held } = self.content()?;
        let since = self
            .leaves
            .open(self.tree.repository(), &self.vm, vm.vm_id, &slot, root)?;
        Ok(Some(Arc::new(Changed {
            difference: Difference::new(leaves, since),
            held,
        })))
    }
}

/// `qemu:allocation-depth`.
struct Depth(Subject);

impl ContextSource for Depth {
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<ContextExtent> {
        let (flags, length_bytes) = match &self.0 {
            Subject::Point { disk, .. } => disk.depth_at(offset, length_max)?,
            Subject::Session(disk) => disk.depth_at(offset, length_max)?,
        };
        Ok(ContextExtent {
            length_bytes,
            flags,
        })
    }
}

/// The present content of a disk.
struct Content {
    /// The leaves, for a session those of its parent; `None` stands for zeroes.
    leaves: Option<Arc<Leaves>>,
    /// The session's writer, whose clusters lie over the leaves.
    held: Option<Arc<DiskWriter>>,
}

/// `x-restorefs:changed-since:<point>`.
struct Changed {
    difference: Difference,
    /// The session's writer, whose clusters lie over the leaves.
    held: Option<Arc<DiskWriter>>,
}

impl ContextSource for Changed {
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<ContextExtent> {
        let extent = |is_changed, end: u64| {
            Ok(ContextExtent {
                length_bytes: end - offset,
                flags: if is_changed { CHANGED } else { 0 },
            })
        };
        let size = self.difference.since_bytes();
        let end = offset.saturating_add(length_max);
        // A range beyond the earlier disk's end counts as changed.
        if offset >= size {
            return extent(true, end);
        }
        let end = end.min(size);
        if let Some(disk) = &self.held {
            let earlier = self.difference.earlier(Region(offset / REGION_BYTES))?;
            if let Some((is_changed, end)) = disk.difference_at(offset, end, &earlier)? {
                return extent(is_changed, end);
            }
        }
        let (is_changed, end) = self.difference.differs(offset, end)?;
        extent(is_changed, end)
    }
}
