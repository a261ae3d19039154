//! Scans points and opens their filesystems, a bounded number at a time.
//!
//! # Concurrency
//! One thread scans a point, and other callers that need the point wait for it. Several threads open its
//! filesystems. No lock is held that another point needs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Probed, Volumes};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{GuestFs, VolumeState};
use crate::guest::system::{Obstacle, VolumeFacts, left_out, plan_files};
use crate::guest::volume::{Known, Origin, Volume, scan_point};
use crate::guest::worker::{Limits, Opening, Readers};
use crate::metrics::cache::Cache;
use crate::tree::attribute::TreeOptions;
use crate::tree::cache::Flights;
use crate::tree::disk::Disks;
use crate::tree::files::Files;
use crate::tree::snapshot::PointView;
use crate::tree::volume_node::VolumeNode;
use crate::types::PointId;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;

/// LIMIT: points whose volumes are cached.
const SCANS_KEPT: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// An incomplete scan is repeated after this time, which doubles with each failure.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// LIMIT: number of doublings.
const DOUBLED_MAX: u32 = 8;
/// LIMIT: filesystems of a point that are opened at the same time.
const OPENERS: usize = 4;

/// Scans points and opens their filesystems.
pub(in crate::tree) struct Scanner {
    disks: Arc<Disks>,
    scans: Flights<PointId, Arc<Volumes>>,
    filesystems: Flights<(PointId, String), CachedOpening>,
    readers: Readers,
}

/// Facts about a volume for the plan of the guest's tree; those from its reader win over those from its magic
/// number.
fn facts(point: &PointView, keys: &[String], node: &VolumeNode) -> VolumeFacts {
    let mut facts = VolumeFacts::from(&node.volume);
    if let Some(info) = &node.info {
        facts.label = info.label.clone().or(facts.label);
        facts.uuid = info.uuid.clone().or(facts.uuid);
        facts.format = Some(info.format.to_owned());
    }
    if let Origin::Disk(disk)
    | Origin::Partition {
        disk: Some(disk), ..
    } = &node.volume.origin
    {
        // The key of a disk without a serial number is its name.
        let name = point.entry.disks.get(*disk).map(|disk| disk.name.as_str());
        let key = keys.get(*disk).filter(|key| Some(key.as_str()) != name);
        facts.serial = key.cloned();
    }
    facts.may_open = node.state == VolumeState::Readable && !node.volume.is_left_over;
    facts.opened(&node.state);
    if node.volume.is_left_over {
        let why = "only a copy of the partition table at the end of the disk knows it";
        facts.obstacle = Some(Obstacle::Other(why.to_owned()));
    }
    // A whole disk with unknown data is unreadable, whatever it contains.
    if let (Origin::Disk(disk), Known::NoFilesystem, None) =
        (&node.volume.origin, &node.volume.known, &facts.format)
    {
        let entry = point.entry.disks.get(*disk);
        let is_blank = entry.is_some_and(|entry| entry.data_bytes == 0);
        facts.obstacle = Some(if is_blank {
            Obstacle::Other("it is empty".to_owned())
        } else {
            let why = "it has no filesystem and no partition table that is known";
            Obstacle::Unreadable(why.to_owned())
        });
    }
    facts
}

/// Remarks about filesystems whose journal must be replayed but lies on another volume of the point.
fn journals(nodes: &[Arc<VolumeNode>]) -> Vec<String> {
    let uuid = |node: &VolumeNode| node.volume.content.as_ref()?.uuid.clone();
    let mut notes = Vec::new();
    for node in nodes {
        let VolumeState::Unsupported(what) = &node.state else {
            continue;
        };
        let holds = |other: &&Arc<VolumeNode>| {
            !Arc::ptr_eq(other, node) && uuid(other).is_some_and(|uuid| what.contains(&uuid))
        };
        if let Some(journal) = nodes.iter().find(holds) {
            let (path, journal) = (&node.volume.path, &journal.volume.path);
            notes.push(format!("{path}: its journal is {journal}"));
        }
    }
    notes
}

/// A filesystem that was opened, or the error.
#[derive(Clone)]
struct CachedOpening {
    opening: Arc<Opening>,
    at: Instant,
}

impl CachedOpening {
    fn is_valid(&self) -> bool {
        !self.opening.passing || self.at.elapsed() < RETRY_AFTER
    }
}

impl Scanner {
    pub(in crate::tree) fn new(disks: &Arc<Disks>, options: &TreeOptions) -> Self {
        let memory = options.memory;
        let open = NonZeroUsize::new(usize_from_u64(memory.readers()));
        Self {
            disks: Arc::clone(disks),
            scans: Flights::new(SCANS_KEPT, Cache::TreeScans),
            filesystems: Flights::new(open.unwrap_or(NonZeroUsize::MIN), Cache::TreeFilesystems),
            readers: Readers::new(
                options.isolation.clone(),
                Limits::default(),
                usize_from_u64(memory.record_bytes()),
            ),
        }
    }

    /// The volumes of a point; scans it if that was not done yet.
    pub(in crate::tree) fn volumes(&self, point: &Arc<PointView>) -> Result<Arc<Volumes>> {
        let failures = self.known(point).map_or(0, |known| known.failures);
        self.scans.get_or(
            point.entry.point_id,
            |known| {
                known.complete
                    || known.at.elapsed() < RETRY_AFTER * 2u32.pow(known.failures.min(DOUBLED_MAX))
            },
            || Ok(Arc::new(self.scan(point, failures))),
        )
    }

    fn scan(&self, point: &Arc<PointView>, failures: u32) -> Volumes {
        let sources = self.disks.all(point);
        let names = point
            .entry
            .disks
            .iter()
            .map(|disk| disk.name.as_str().to_owned());
        let scan = scan_point(&names.zip(sources).collect::<Vec<_>>());
        let next = AtomicUsize::new(0);
        let probed: Vec<Mutex<Option<Probed>>> =
            scan.volumes.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for _ in 0..OPENERS.min(scan.volumes.len()) {
                scope.spawn(|| {
                    while let Some((volume, slot)) = {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        scan.volumes.get(at).zip(probed.get(at))
                    } {
                        *slot.lock() = Some(self.probe(point, volume));
                    }
                });
            }
        });
        let probed = probed
            .into_iter()
            .map(|slot| slot.into_inner().unwrap_or_default())
            .collect();
        let mut volumes = Volumes::new(point, scan, probed, failures + 1);
        let journals = journals(&volumes.nodes);
        volumes.notes.extend(journals);
        let keys: Vec<String> = self.disks.point(point).map_or_else(
            |_| Vec::new(),
            |point| point.disks.iter().map(|disk| disk.key.clone()).collect(),
        );
        let nodes = volumes.nodes.iter();
        let facts: Vec<VolumeFacts> = nodes.map(|node| facts(point, &keys, node)).collect();
        let open = |at: usize| match volumes.nodes.get(at) {
            Some(node) => self.filesystem(point, &node.volume),
            None => Err(Error::not_found("no such volume")),
        };
        let plan = plan_files(&facts, &open);
        let left_out = left_out(&facts, &plan);
        volumes.files = Files::new(plan, left_out, &volumes.nodes, volumes.complete);
        volumes
    }

    /// Tries to open a volume's filesystem.
    fn probe(&self, point: &Arc<PointView>, volume: &Volume) -> Probed {
        let mut found = None;
        let state = volume.state(|| {
            let opened = self.opened(point, volume);
            let state = opened.state.clone();
            found = Some(opened);
            state
        });
        let found = found.as_ref();
        Probed {
            state,
            info: found.and_then(|opened| Some(opened.fs.as_ref()?.info().clone())),
            passing: found.is_some_and(|opened| opened.passing),
        }
    }

    /// The volumes of a point, if they are known; opens nothing.
    pub(in crate::tree) fn known(&self, point: &PointView) -> Option<Arc<Volumes>> {
        self.scans.peek(&point.entry.point_id)
    }

    /// The bytes of a volume.
    pub(in crate::tree) fn raw(&self, point: &Arc<PointView>, volume: &Volume) -> Arc<dyn ReadAt> {
        volume.reader(&self.disks.all(point))
    }

    fn opened(&self, point: &Arc<PointView>, volume: &Volume) -> Arc<Opening> {
        let open = || {
            Ok(CachedOpening {
                opening: Arc::new(self.readers.open(volume.devices(&self.disks.all(point)))),
                at: Instant::now(),
            })
        };
        let key = (point.entry.point_id, volume.path.clone());
        match self.filesystems.get_or(key, CachedOpening::is_valid, open) {
            Ok(opened) => opened.opening,
            // This opening never fails; the branch satisfies the compiler.
            Err(error) => Arc::new(Opening {
                state: VolumeState::Damaged(error.report()),
                fs: None,
                passing: true,
            }),
        }
    }

    /// The filesystem on a volume.
    pub(in crate::tree) fn filesystem(
        &self,
        point: &Arc<PointView>,
        volume: &Volume,
    ) -> Result<Arc<dyn GuestFs>> {
        let place = || format!("{}@{}/volumes/{}", point.vm, point.entry.name, volume.path);
        let opened = self.opened(point, volume);
        match (&opened.state, &opened.fs) {
            (VolumeState::Readable, Some(fs)) => Ok(Arc::clone(fs)),
            (VolumeState::Unsupported(what), _) => {
                Err(Error::unsupported(what.clone()).at_path(place()))
            }
            (VolumeState::Damaged(what), _) => {
                Err(Error::new(ErrorKind::Corrupt, what.clone()).at_path(place()))
            }
            (VolumeState::NoFilesystem | VolumeState::Readable, _) => {
                Err(Error::not_found("there is no filesystem on this volume").at_path(place()))
            }
        }
    }

    /// The filesystem on a volume if it is open; opens nothing.
    pub(in crate::tree) fn open_now(
        &self,
        point: &PointView,
        volume: &Volume,
    ) -> Option<Arc<dyn GuestFs>> {
        let key = (point.entry.point_id, volume.path.clone());
        self.filesystems.peek(&key)?.opening.fs.clone()
    }
}
