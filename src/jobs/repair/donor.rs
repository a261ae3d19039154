//! Who has the content of damaged clusters: copies at other repositories, and other points of the same VM.
//!
//! # Invariants
//! What is given has the hash that was asked for. What cannot be read elsewhere is passed over.

use std::sync::Arc;

use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::merge::Donor;
use crate::point::{ProvedDisk, RegionLeaves};
use crate::repo::layer_file::LayerFile;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Repository, Slot};
use crate::task::Monitor;
use crate::types::sync::Mutex;
use crate::types::{Digest, GuestCluster, VmId, VmName};

/// LIMIT: disks that are open at once; each keeps the sums of its chain open.
const OPEN_MAX: usize = 4;

/// A VM in a repository, which may have content.
#[derive(Clone)]
pub struct Place {
    /// The repository.
    pub repository: Arc<Repository>,
    /// What people call it.
    pub label: String,
    /// The VM's name there.
    pub vm: VmName,
}

/// A disk that may have content.
struct Candidate {
    place: Place,
    vm_id: VmId,
    what: What,
}

/// Which disk it is.
enum What {
    /// The disk as of the layer in the same slot, whether a point has it or not.
    Slot(Slot),
    /// The disk of a point.
    Point(Box<PointEntry>),
}

struct OpenDisk {
    candidate: usize,
    disk: ProvedDisk,
    leaves: RegionLeaves,
}

/// Candidates for one disk, by its stable key.
pub(super) struct Donors<'a> {
    candidates: Vec<Candidate>,
    key: String,
    pool: Arc<Pool>,
    monitor: &'a Monitor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that gave last is first.
    open: Vec<OpenDisk>,
    /// Candidates that cannot be opened.
    closed: Vec<usize>,
    /// Where content came from.
    given: Vec<String>,
}

impl<'a> Donors<'a> {
    /// The layer in `slot` at these places, then all points of these places, in their order, the newest first.
    pub(super) fn new(
        places: &[Place],
        slot: &Slot,
        key: &str,
        pool: &Arc<Pool>,
        monitor: &'a Monitor,
    ) -> Result<Self> {
        let (mut candidates, mut points) = (Vec::new(), Vec::new());
        for place in places {
            let index = place.repository.index(&place.vm)?;
            let candidate = |what| Candidate {
                place: place.clone(),
                vm_id: index.vm_id,
                what,
            };
            candidates.push(candidate(What::Slot(slot.clone())));
            let of_place = index.points.iter().rev();
            points.extend(of_place.map(|point| candidate(What::Point(Box::new(point.clone())))));
        }
        candidates.append(&mut points);
        Ok(Self {
            candidates,
            key: key.to_owned(),
            pool: Arc::clone(pool),
            monitor,
            state: Mutex::default(),
        })
    }

    /// Where content came from: a repository, or `REPOSITORY: POINT`.
    pub(super) fn given(&self) -> Vec<String> {
        self.state.lock().given.clone()
    }

    fn open(&self, number: usize) -> Result<ProvedDisk> {
        let candidate = self.candidates.get(number);
        let candidate = candidate.ok_or_else(|| Error::invalid("no such candidate"))?;
        let (place, vm) = (&candidate.place.repository, &candidate.place.vm);
        let point = match &candidate.what {
            What::Point(point) => place.point(vm, point)?,
            What::Slot(slot) => {
                let file = LayerFile::open(place, vm, slot)?;
                let root = file.prove_header(place, vm, slot)?;
                let (root, size) = (root.summary().content_root(), root.summary().size_bytes);
                let (top, name) = ((slot, root), slot.to_string());
                return ProvedDisk::of_layer(
                    place,
                    &self.pool,
                    vm,
                    candidate.vm_id,
                    top,
                    size,
                    name,
                );
            }
        };
        let disk = point.disks.iter().find(|disk| disk.key == self.key);
        let disk = disk.ok_or_else(|| Error::not_found("the point does not have the disk"))?;
        ProvedDisk::open(place, &self.pool, vm, candidate.vm_id, disk)
    }
}

impl State {
    /// Whether an open disk has the content; an error of it is as good as none.
    fn ask(open: &mut OpenDisk, cluster: GuestCluster, leaf: &Digest, bytes: &mut [u8]) -> bool {
        match open.disk.find(cluster, leaf, &mut open.leaves, bytes) {
            Ok(found) => found,
            Err(e) => {
                tracing::debug!(error = %e.report(), "a candidate for a repair cannot be read");
                false
            }
        }
    }
}

impl Donor for Donors<'_> {
    fn give(&self, cluster: GuestCluster, leaf: &Digest, bytes: &mut [u8]) -> Result<bool> {
        let mut state = self.state.lock();
        let state = &mut *state;
        for position in 0..state.open.len() {
            let Some(open) = state.open.get_mut(position) else {
                break;
            };
            if State::ask(open, cluster, leaf, bytes) {
                let open = state.open.remove(position);
                state.open.insert(0, open);
                return Ok(true);
            }
        }
        for number in 0..self.candidates.len() {
            self.monitor.check()?;
            let is_tried = state.open.iter().any(|open| open.candidate == number);
            if is_tried || state.closed.contains(&number) {
                continue;
            }
            let disk = match self.open(number) {
                Ok(disk) => disk,
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(_) => {
                    state.closed.push(number);
                    continue;
                }
            };
            let mut open = OpenDisk {
                candidate: number,
                disk,
                leaves: RegionLeaves::default(),
            };
            let is_given = State::ask(&mut open, cluster, leaf, bytes);
            if is_given || state.open.len() < OPEN_MAX {
                let place = if is_given { 0 } else { state.open.len() };
                state.open.insert(place, open);
                state.open.truncate(OPEN_MAX);
            }
            if is_given {
                if let Some(from) = self.candidates.get(number) {
                    let from = match &from.what {
                        What::Slot(_) => from.place.label.clone(),
                        What::Point(point) => format!("{}: {}", from.place.label, point.name),
                    };
                    if !state.given.contains(&from) {
                        state.given.push(from);
                    }
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}
