//! Maps a logical volume to its bytes: run maps over the devices below the physical volumes.
//!
//! # Invariants
//! - Volumes that consist of volumes end: depth is bounded, and so is the total number of runs.
//! - A volume with a missing part has no map at all.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::group::Group;
use super::segment::{Area, Layout, Segment};
use super::{raid, store, thin};
use crate::block::ReadAt;
use crate::block::run::{Run, RunMap, RunReader, Target};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::guest::cache::PageCache;
use crate::guest::remark::Remarks;
use crate::types::width::u64_from_usize;

/// LIMIT: nested volumes (LVM itself stacks up to 6: a snapshot of thin over RAID).
const DEPTH_MAX: u32 = 8;
/// LIMIT: bytes of cached metadata (a thin pool's tree, a snapshot's exceptions).
const CACHE_BYTES: u64 = 4 << 20;
/// LIMIT: runs of all volumes of a point (our limit; 40 bytes each): a striped volume has one for each
/// stripe.
const RUNS_MAX: u64 = 4_000_000;
/// LIMIT: total runs made and nodes read, including those of volumes that failed.
const WORK_MAX: u64 = 16_000_000;

/// Cost of one more volume, in runs.
const VOLUME_WORK: u64 = 32;

type Map = RunMap<usize>;

/// Physical volumes by identifier: the location of their bytes, or why none of them counts.
pub(crate) type Devices = BTreeMap<String, Result<Arc<Map>, String>>;

/// The remaining work budget of a point.
pub(crate) struct Budget {
    runs: Cell<u64>,
    work: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            runs: Cell::new(RUNS_MAX),
            work: Cell::new(WORK_MAX),
        }
    }
}

impl Budget {
    fn take(left: &Cell<u64>, cost: u64) -> Result<()> {
        let rest = left.get().checked_sub(cost).ok_or_else(|| {
            let what = format!("LVM volumes in more than {RUNS_MAX} pieces");
            Error::new(ErrorKind::LimitExceeded, what)
        })?;
        left.set(rest);
        Ok(())
    }

    fn run(&self) -> Result<()> {
        Self::take(&self.runs, 1)?;
        self.work(1)
    }

    fn work(&self, cost: u64) -> Result<()> {
        Self::take(&self.work, cost)
    }
}

/// Resolves volumes of a group whose physical volumes were searched.
pub(crate) struct Resolver<'a> {
    group: &'a Group,
    /// By identifier.
    devices: &'a Devices,
    sources: &'a [Arc<dyn ReadAt>],
    budget: &'a Budget,
    /// Finished volumes: many thin ones lie on one pool.
    known: RefCell<BTreeMap<String, Arc<Map>>>,
}

/// A map that is being built.
struct Builder<'a> {
    runs: Vec<Run<usize>>,
    end: u64,
    budget: &'a Budget,
}

impl Builder<'_> {
    fn push(&mut self, length_bytes: u64, target: Target<usize>) -> Result<()> {
        self.budget.run()?;
        let start = self.end;
        self.end = start
            .checked_add(length_bytes)
            .ok_or_else(|| Error::corrupt("the size of an LVM volume", "below 2^64", "more"))?;
        self.runs.push(Run {
            start,
            length_bytes,
            target,
        });
        Ok(())
    }

    fn hole(&mut self, length_bytes: u64) -> Result<()> {
        self.push(length_bytes, Target::Hole)
    }

    /// Appends `length` bytes of `below` from `offset` on.
    fn copy(&mut self, below: &Map, offset: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset.saturating_add(done);
            let Some(run) = below.run_at(at, length.saturating_sub(done)) else {
                let size = below.size_bytes();
                return Err(Error::corrupt(
                    "a part of an LVM volume",
                    format!("below {size}"),
                    at,
                ));
            };
            done = done.saturating_add(run.length_bytes);
            self.push(run.length_bytes, run.target)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Map> {
        RunMap::new(self.end, self.runs)
    }
}

fn whole(product: Option<u64>) -> Result<u64> {
    product.ok_or_else(|| Error::corrupt("a size in the LVM metadata", "below 2^64", "more"))
}

impl<'a> Resolver<'a> {
    /// A resolver for `group`; `devices` are its available physical volumes by identifier, over `sources`.
    pub(crate) fn new(
        group: &'a Group,
        devices: &'a Devices,
        sources: &'a [Arc<dyn ReadAt>],
        budget: &'a Budget,
    ) -> Self {
        Self {
            group,
            devices,
            sources,
            budget,
            known: RefCell::new(BTreeMap::new()),
        }
    }

    /// The map of the volume `name`. Remarks for people go to `notes`.
    ///
    /// # Errors
    /// `Corrupt`, also when a physical volume is missing; `Unsupported` naming the segment type; `LimitExceeded`; `Io`.
    pub(crate) fn map(&self, name: &str, notes: &mut Remarks) -> Result<Arc<Map>> {
        let runs = self.budget.runs.get();
        let map = match self.group.snapshot(name) {
            Some(segment) => self.snapshot(segment, DEPTH_MAX, notes).map(Arc::new),
            None => self.volume(name, DEPTH_MAX, notes),
        };
        if map.is_err() {
            // The runs of a failed volume are free again for other volumes.
            self.budget.runs.set(runs);
            self.known.borrow_mut().clear();
        }
        map
    }

    fn builder(&self) -> Builder<'_> {
        Builder {
            runs: Vec::new(),
            end: 0,
            budget: self.budget,
        }
    }

    fn reader(&self, map: Arc<Map>) -> PageCache {
        let reader = RunReader::new(map, self.sources.to_vec(), None);
        PageCache::new(Arc::new(reader), CACHE_BYTES)
    }

    fn bytes(&self, extents: u64) -> Result<u64> {
        whole(extents.checked_mul(self.group.extent_bytes))
    }

    fn volume(&self, name: &str, depth: u32, notes: &mut Remarks) -> Result<Arc<Map>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Ok(Arc::clone(known));
        }
        let depth = depth.checked_sub(1).ok_or_else(|| {
            Error::corrupt(
                "LVM volumes",
                "an end",
                "volumes that consist of each other",
            )
        })?;
        // Empty volumes that name each other many times are also charged.
        self.budget.work(VOLUME_WORK)?;
        let mut out = self.builder();
        for segment in self.group.segments(name)? {
            self.segment(&mut out, segment, depth, notes)?;
        }
        let map = Arc::new(out.finish()?);
        self.known
            .borrow_mut()
            .insert(name.to_owned(), Arc::clone(&map));
        Ok(map)
    }

    fn physical(&self, area: &Area) -> Result<Option<(Arc<Map>, u64)>> {
        let Some(physical) = self.group.physical(&area.name) else {
            return Ok(None);
        };
        let device = self
            .devices
            .get(&physical.id)
            .filter(|_| !physical.is_missing);
        let device = match device {
            Some(Ok(device)) => device,
            Some(Err(why)) => return Err(Error::new(ErrorKind::Corrupt, why.clone())),
            None => {
                let what = format!("PV {} ({}) is missing", physical.id, physical.key);
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
        };
        let offset = self.bytes(area.extent)?.checked_add(physical.start_bytes);
        Ok(Some((Arc::clone(device), whole(offset)?)))
    }

    /// The map below an area, and the offset in it at which the area begins.
    fn area(&self, area: &Area, depth: u32, notes: &mut Remarks) -> Result<(Arc<Map>, u64)> {
        if let Some(found) = self.physical(area)? {
            return Ok(found);
        }
        let map = self.volume(&area.name, depth, notes)?;
        Ok((map, self.bytes(area.extent)?))
    }

    fn segment(
        &self,
        out: &mut Builder<'_>,
        segment: &Segment,
        depth: u32,
        notes: &mut Remarks,
    ) -> Result<()> {
        let length = self.bytes(segment.extents)?;
        match &segment.layout {
            Layout::Striped {
                stripe_bytes,
                areas,
            } => {
                let maps = areas
                    .iter()
                    .map(|area| self.area(area, depth, notes))
                    .collect::<Result<Vec<_>>>()?;
                striped(out, &maps, *stripe_bytes, length)
            }
            Layout::Raid0 {
                stripe_bytes,
                images,
            } => {
                let maps = images
                    .iter()
                    .map(|image| Ok((self.volume(&image.data, depth, notes)?, 0)))
                    .collect::<Result<Vec<_>>>()?;
                striped(out, &maps, *stripe_bytes, length)
            }
            Layout::Mirror { legs } => {
                let maps = legs.iter().map(|leg| {
                    let found = self.area(leg, depth, &mut Remarks::default());
                    (leg.name.clone(), found)
                });
                let (map, offset) = first_leg(maps, "mirror", notes)?;
                out.copy(&map, offset, length)
            }
            Layout::Raid1 { images } => {
                let state = |name: &str| {
                    let map = self.volume(name, depth, &mut Remarks::default()).ok()?;
                    raid::load_state(&self.reader(map))
                };
                let legs = raid::order(images, state, notes).into_iter().map(|image| {
                    let map = self.volume(&image.data, depth, &mut Remarks::default());
                    (image.data.clone(), map.map(|map| (map, 0)))
                });
                let (map, offset) = first_leg(legs, "raid1", notes)?;
                out.copy(&map, offset, length)
            }
            Layout::Thin {
                pool,
                device,
                external_origin,
            } => {
                let origin = external_origin.as_deref();
                self.thin(out, pool, *device, origin, length, depth, notes)
            }
            Layout::ThinPool { data, .. } => {
                let data = self.volume(data, depth, notes)?;
                out.copy(&data, 0, length)
            }
            Layout::Snapshot { .. } => out.copy(&self.snapshot(segment, depth, notes)?, 0, length),
            Layout::Zero => out.hole(length),
            Layout::Other(kind) => Err(Error::unsupported(format!("LVM segment type {kind}"))),
        }
    }

    /// Bytes of an external origin, followed by zeroes.
    fn beneath(
        out: &mut Builder<'_>,
        origin: Option<&Map>,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let there = origin.map_or(0, |map| map.size_bytes().saturating_sub(offset).min(length));
        if let (Some(map), true) = (origin, there > 0) {
            out.copy(map, offset, there)?;
        }
        match length.saturating_sub(there) {
            0 => Ok(()),
            rest => out.hole(rest),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a segment")]
    fn thin(
        &self,
        out: &mut Builder<'_>,
        pool: &str,
        device: u64,
        external_origin: Option<&str>,
        length: u64,
        depth: u32,
        notes: &mut Remarks,
    ) -> Result<()> {
        let layout = self
            .group
            .segments(pool)?
            .first()
            .map(|segment| &segment.layout);
        let Some(Layout::ThinPool {
            metadata,
            data,
            chunk_bytes,
            transaction,
            is_pending,
        }) = layout
        else {
            return Err(Error::corrupt(
                "an LVM volume",
                format!("a thin pool named {pool}"),
                "none",
            ));
        };
        let data = self.volume(data, depth, notes)?;
        let reader = self.reader(self.volume(metadata, depth, notes)?);
        let origin = match external_origin {
            Some(name) => Some(self.volume(name, depth, notes)?),
            None => None,
        };
        let metadata = thin::Metadata::load(&reader)?;
        if metadata.chunk_bytes != *chunk_bytes {
            let what = "bytes of a thin pool's chunk";
            return Err(Error::corrupt(what, chunk_bytes, metadata.chunk_bytes));
        }
        // Like LVM, which does not activate a pool whose metadata are older or newer than the group's text.
        let is_one_behind =
            *is_pending && metadata.transaction.checked_add(1) == Some(*transaction);
        if metadata.transaction != *transaction && !is_one_behind {
            let what = "the transaction of a thin pool's metadata";
            return Err(Error::corrupt(what, transaction, metadata.transaction));
        }
        if metadata.needs_check {
            notes.push(
                "thin: the pool's metadata is marked as needing a check (thin_check)".to_owned(),
            );
        }
        let chunk_bytes = metadata.chunk_bytes;
        let mut done = 0;
        let pieces = metadata.pieces(device, length.div_ceil(chunk_bytes))?;
        self.budget.work(metadata.nodes_read())?;
        for piece in pieces {
            let start = whole(piece.chunk.checked_mul(chunk_bytes))?;
            Self::beneath(out, origin.as_deref(), done, start.saturating_sub(done))?;
            let bytes = whole(piece.chunks.checked_mul(chunk_bytes))?;
            let bytes = bytes.min(length.saturating_sub(start));
            out.copy(&data, whole(piece.at.checked_mul(chunk_bytes))?, bytes)?;
            done = start.saturating_add(bytes);
        }
        Self::beneath(out, origin.as_deref(), done, length.saturating_sub(done))
    }

    /// A thick snapshot: the origin, except for the saved chunks.
    fn snapshot(&self, segment: &Segment, depth: u32, notes: &mut Remarks) -> Result<Map> {
        let Layout::Snapshot { origin, store, .. } = &segment.layout else {
            return Err(Error::corrupt(
                "an LVM snapshot",
                "a snapshot segment",
                "another",
            ));
        };
        let depth = depth.checked_sub(1).ok_or_else(|| {
            Error::corrupt(
                "LVM volumes",
                "an end",
                "volumes that consist of each other",
            )
        })?;
        let origin = self.volume(origin, depth, notes)?;
        let length = self.bytes(segment.extents)?.min(origin.size_bytes());
        let store = self.volume(store, depth, notes)?;
        let exceptions = store::load(&self.reader(Arc::clone(&store)))
            .or_io("the snapshot's store cannot be read")?;
        self.budget.work(u64_from_usize(exceptions.chunks.len()))?;
        let mut out = self.builder();
        for (old, new) in exceptions.chunks {
            let start = old.saturating_mul(exceptions.chunk_bytes);
            if start >= length {
                break;
            }
            let done = out.end;
            out.copy(&origin, done, start.saturating_sub(done))?;
            let bytes = exceptions.chunk_bytes.min(length.saturating_sub(start));
            out.copy(&store, new.saturating_mul(exceptions.chunk_bytes), bytes)?;
        }
        let done = out.end;
        out.copy(&origin, done, length.saturating_sub(done))?;
        out.finish()
    }
}

/// `length` bytes in stripes of `stripe_bytes` over `maps`, each from its offset on.
fn striped(
    out: &mut Builder<'_>,
    maps: &[(Arc<Map>, u64)],
    stripe_bytes: u64,
    length: u64,
) -> Result<()> {
    if let [(map, offset)] = maps {
        return out.copy(map, *offset, length);
    }
    let width = stripe_bytes.saturating_mul(u64_from_usize(maps.len()));
    if length.checked_rem(width) != Some(0) {
        return Err(Error::corrupt(
            "a striped LVM segment",
            format!("a multiple of {width}"),
            length,
        ));
    }
    let end = out.end.saturating_add(length);
    let mut row = 0u64;
    while out.end < end {
        let below = row.saturating_mul(stripe_bytes);
        for (map, offset) in maps {
            out.copy(map, offset.saturating_add(below), stripe_bytes)?;
        }
        row = row.saturating_add(1);
    }
    Ok(())
}

/// The first available leg; missing ones are noted.
fn first_leg(
    legs: impl Iterator<Item = (String, Result<(Arc<Map>, u64)>)>,
    kind: &str,
    notes: &mut Remarks,
) -> Result<(Arc<Map>, u64)> {
    let mut missing = None;
    for (name, leg) in legs {
        match leg {
            Ok(found) => {
                notes.push(format!("{kind}: read from its leg {name}"));
                return Ok(found);
            }
            Err(error) => {
                notes.push(format!("{kind}: leg {name}: {}", error.report()));
                missing = missing.or(Some(error));
            }
        }
    }
    Err(missing.unwrap_or_else(|| {
        Error::corrupt("an LVM mirror", "a leg that is current", "none that is")
    }))
}
