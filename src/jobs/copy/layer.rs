//! The bytes of one layer: sums, tables, then data, in the order in which it lies in the file.
//!
//! # Why
//! Sums and tables come first and are proved, so that the place of each cluster is known to be right before its data is
//! compared with its leaf, on the way. What no cluster and no table takes is a hole in the source and stays one.
//!
//! # Concurrency
//! Threads copy the pieces of a batch. While a batch is made durable, the next one is copied: a copy that is killed sends two
//! batches again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};

use super::alive::Alive;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::verify::piece::{Piece, RUN_CLUSTERS, Run, pieces};
use crate::qcow2::{Image, Mapping};
use crate::repo::Repository;
use crate::repo::arrived::Arrived;
use crate::repo::content::{CLUSTER_BYTES, Region, leaf_of};
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::arriving::ArrivingLayer;
use crate::repo::sums::{LayerSums, Sums};
use crate::store::Key;
use crate::task::{Monitor, Pace, on_threads, threads};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, PointName, VmId, VmName};

/// Bytes of data that are made durable at once.
const BATCH_BYTES: u64 = 128 << 20;
/// LIMIT: threads that read, hash and write.
const THREADS_MAX: usize = 4;
/// LIMIT: bytes of sums that are copied at once.
const SUMS_PIECE_BYTES: u64 = 1 << 20;

/// The copy of one layer.
pub(super) struct LayerCopy<'a> {
    pub(super) source: &'a Repository,
    pub(super) vm: &'a VmName,
    pub(super) vm_id: VmId,
    pub(super) target: &'a Repository,
    pub(super) to_vm: &'a VmName,
    pub(super) session: &'a PointName,
    pub(super) layer: &'a ArrivingLayer,
    pub(super) pace: &'a Pace,
    pub(super) monitor: &'a Monitor,
    pub(super) alive: &'a Alive<'a>,
    /// Counts the bytes that are written.
    pub(super) sent: &'a AtomicU64,
}

/// An error of reading the source: what cannot be read there is damage of the source, not of the target.
fn of_source(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::InvalidInput => {
            error.with_kind(ErrorKind::Corrupt)
        }
        _ => error,
    }
}

/// The pieces of a layer's data, in their order.
struct Feed<'a> {
    image: &'a Image,
    sums: &'a LayerSums,
    regions: VecDeque<Region>,
    waiting: VecDeque<Piece>,
}

impl Feed<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Ok(Some(piece));
            }
            let Some(region) = self.regions.pop_front() else {
                return Ok(None);
            };
            let Some(touched) = self.sums.load_region(region)? else {
                continue;
            };
            let mut fault = |_, e| Err(of_source(e));
            self.waiting = pieces(self.image, &Arc::new(touched), &mut fault)?.into();
        }
    }
}

struct Buffers {
    run: Vec<u8>,
    packed: Vec<u8>,
}

impl LayerCopy<'_> {
    /// Copies what is not there yet; then all of it is durable and proved.
    ///
    /// # Errors
    /// `Stale` when the source has another layer in the slot; `NotFound` when it is gone; `Corrupt` naming file and offset when
    /// it is not what was committed; `Busy` while another process copies it; `Cancelled`; `NoSpace`, `ReadOnly`, `Io`.
    pub(super) fn copy(&self) -> Result<()> {
        let (slot, id) = (&self.layer.slot, self.layer.layer_id);
        let place = VmKeys::new(self.vm)?.layer(slot)?;
        let source = LayerFile::seek(self.source, self.vm, self.vm_id, slot)?;
        if source.layer != id {
            let what = format!("the layer {slot} of {} has been replaced", self.vm);
            return Err(Error::new(ErrorKind::Stale, what));
        }
        let keys = VmKeys::new(self.to_vm)?;
        let key = keys.arriving(self.session, slot, id)?;
        let file = self.open_or_create(&key)?;
        let stage = self.target.stage();
        let held = stage.hold_file(&key)?;
        let _held = held.ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                format!("another process copies the layer {slot} at this moment"),
            )
            .advise("wait until it has ended: restorefs jobs")
        })?;
        let recorded = self
            .target
            .arrived(self.to_vm, self.session, slot, id)
            .at_path(key.as_str())?;
        let sums = self.sums(&source, &keys)?;
        // A record of another file than the one that is there says nothing.
        let arrived = match file.size_bytes() == sums.summary().layer_bytes {
            true => recorded,
            false => Arrived::default(),
        };
        if arrived.is_whole {
            self.monitor.advance(self.layer.held_bytes);
            return Ok(());
        }
        source
            .prove_header_with(self.vm, slot, &sums)
            .map_err(of_source)?;
        if arrived.batches == 0 {
            file.set_size(0)?;
        }
        file.set_size(sums.summary().layer_bytes)?;
        self.tables(&source, &sums, file.as_ref())
            .at_path(place.as_str())?;
        let to: Arc<dyn ReadAt> = Arc::clone(&file) as Arc<dyn ReadAt>;
        let proved = LayerFile::of(Arc::clone(&to), slot)?;
        if (proved.layer, &proved.below) != (id, &self.layer.below) {
            let what = format!("the layer {slot} of {} has been replaced", self.vm);
            return Err(Error::new(ErrorKind::Stale, what));
        }
        let images = (Image::open(Arc::clone(&source.file))?, Image::open(to)?);
        self.data(&images, &sums, &file, arrived)
            .at_path(place.as_str())?;
        file.flush().at_path(key.as_str())?;
        let arrived = Arrived {
            is_whole: true,
            ..arrived
        };
        self.target
            .note_arrived(self.to_vm, self.session, (slot, id), arrived)
    }

    fn open_or_create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.alive.check_now()?;
        let stage = self.target.stage();
        match stage.open(key) {
            Err(e) if e.kind() == ErrorKind::NotFound => match stage.create(key) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => stage.open(key),
                other => other,
            },
            other => other,
        }
    }

    /// The sums at the target, copied if they are not there, and proved.
    fn sums(&self, source: &LayerFile, keys: &VmKeys) -> Result<LayerSums> {
        let (slot, id) = (&self.layer.slot, self.layer.layer_id);
        let key = keys.arriving_sums(self.session, slot, id)?;
        let file = self.open_or_create(&key)?;
        let open = || -> Result<LayerSums> {
            let file: Arc<dyn ReadAt> = Arc::clone(&file) as Arc<dyn ReadAt>;
            let sums = Sums::open(file)?;
            sums.verify()?;
            let found = (sums.summary().layer_id, sums.summary().content_root());
            if found == (id, self.layer.content_root) {
                return Ok(sums);
            }
            let what = "the sums of a layer are of another layer or content";
            Err(Error::corrupt(what, self.layer.content_root, found.1))
        };
        if let Ok(sums) = open() {
            return Ok(sums);
        }
        let from = source.seek_sums_file(self.source, self.vm, self.vm_id, slot)?;
        file.set_size(0)?;
        let (mut at, size) = (0, from.size_bytes());
        let mut bytes = Vec::new();
        while at < size {
            let length = (size - at).min(SUMS_PIECE_BYTES);
            self.turn(length)?;
            bytes.resize(usize_from_u64(length), 0);
            from.read_at(at, &mut bytes).map_err(of_source)?;
            self.write(file.as_ref(), at, &bytes)?;
            at += length;
        }
        file.flush()?;
        open().at_path(VmKeys::new(self.vm)?.sums(slot, id)?.as_str())
    }

    /// Waits for the turn of the next `bytes`.
    fn turn(&self, bytes: u64) -> Result<()> {
        self.monitor.check()?;
        self.alive.check()?;
        self.pace.wait_for(bytes, self.monitor)
    }

    fn write(&self, to: &dyn WriteAt, at: u64, bytes: &[u8]) -> Result<()> {
        to.write_at(at, bytes)?;
        self.sent
            .fetch_add(u64_from_usize(bytes.len()), Ordering::Relaxed);
        Ok(())
    }

    /// Copies header, tables and refcounts.
    fn tables(&self, source: &LayerFile, sums: &LayerSums, to: &dyn WriteAt) -> Result<()> {
        let mut bytes = vec![0; usize_from_u64(CLUSTER_BYTES)];
        for (cluster, stated) in &sums.summary().metadata {
            self.turn(CLUSTER_BYTES)?;
            let at = cluster.0.saturating_mul(CLUSTER_BYTES);
            source.file.read_at(at, &mut bytes).map_err(of_source)?;
            let found = Digest::of(&bytes);
            if found != *stated {
                let what = "header, tables or refcounts of a layer are damaged";
                return Err(Error::corrupt(what, stated, found).at_offset(at));
            }
            self.write(to, at, &bytes)?;
        }
        Ok(())
    }

    /// Copies the data, but for the batches that have arrived.
    fn data(
        &self,
        (source, target): &(Image, Image),
        sums: &LayerSums,
        to: &Arc<dyn WriteAt>,
        arrived: Arrived,
    ) -> Result<()> {
        let mut feed = Feed {
            image: target,
            sums,
            regions: sums.touched().map(|(region, _)| region).collect(),
            waiting: VecDeque::new(),
        };
        let name = (&self.layer.slot, self.layer.layer_id);
        thread::scope(|scope| {
            let mut syncing: Option<ScopedJoinHandle<'_, Result<()>>> = None;
            let mut batch = 0;
            loop {
                let is_there = batch < arrived.batches;
                let copied = self.batch(&mut feed, source, to.as_ref(), is_there);
                if let Some(before) = syncing.take() {
                    let synced = before.join();
                    synced.unwrap_or_else(|_| {
                        Err(Error::new(ErrorKind::Io, "a working thread panicked"))
                    })?;
                }
                // The last batch is made durable with the whole layer.
                if copied? {
                    return Ok(());
                }
                batch += 1;
                if is_there {
                    continue;
                }
                syncing = Some(scope.spawn(move || {
                    to.flush()?;
                    let arrived = Arrived {
                        batches: batch,
                        is_whole: false,
                    };
                    self.target
                        .note_arrived(self.to_vm, self.session, name, arrived)
                }));
            }
        })
    }

    /// Copies one batch, or passes over one that is there; returns whether it was the last.
    fn batch(
        &self,
        feed: &mut Feed<'_>,
        source: &Image,
        to: &dyn WriteAt,
        is_there: bool,
    ) -> Result<bool> {
        let (mut bytes, mut is_last) = (0, false);
        let mut next = || -> Result<Option<Piece>> {
            if bytes >= BATCH_BYTES {
                return Ok(None);
            }
            let piece = feed.next()?;
            is_last = piece.is_none();
            bytes += piece.as_ref().map_or(0, Piece::bytes);
            Ok(piece)
        };
        if is_there {
            while let Some(piece) = next()? {
                self.monitor.advance(piece.bytes());
            }
            return Ok(is_last);
        }
        on_threads(
            threads(None, THREADS_MAX),
            self.monitor,
            next,
            || Buffers {
                run: vec![0; RUN_CLUSTERS * usize_from_u64(CLUSTER_BYTES)],
                packed: Vec::new(),
            },
            |buffers, piece: Piece| {
                for run in &piece.runs {
                    self.run(&piece, *run, source, to, buffers)?;
                }
                Ok(())
            },
        )?;
        Ok(is_last)
    }

    fn run(
        &self,
        piece: &Piece,
        run: Run,
        source: &Image,
        to: &dyn WriteAt,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let cluster = usize_from_u64(CLUSTER_BYTES);
        let length = u64_from_usize(run.count) * CLUSTER_BYTES;
        let Buffers { run: bytes, packed } = buffers;
        let bytes = bytes.get_mut(..run.count * cluster);
        let bytes = bytes.ok_or_else(|| Error::invalid("a run is longer than its buffer"))?;
        match run.mapping {
            Mapping::Data(host) => {
                self.turn(length)?;
                source.read_data(host, bytes).map_err(of_source)?;
            }
            Mapping::Zero { .. } => bytes.fill(0),
            Mapping::Compressed(place) => {
                self.turn(u64::from(place.length_bytes))?;
                source
                    .read_packed(place, packed, bytes)
                    .map_err(of_source)?;
            }
            Mapping::Unallocated | Mapping::Subclusters { .. } => {
                return Err(Error::corrupt(
                    "a layer does not hold a cluster of which it has sums",
                    "data, zeroes or a compressed cluster",
                    "none",
                ));
            }
        }
        let leaves = bytes.chunks_exact(cluster).zip(piece.leaves(&run));
        for (n, (bytes, stated)) in leaves.enumerate() {
            if leaf_of(bytes).0 != stated {
                let damaged = Error::new(
                    ErrorKind::Corrupt,
                    "a cluster of a layer is not what was committed",
                );
                return Err(match run.single(n).host() {
                    Some(at) => damaged.at_offset(at),
                    None => damaged,
                });
            }
        }
        match run.mapping {
            Mapping::Data(host) => self.write(to, host.get(), bytes)?,
            Mapping::Compressed(place) => self.write(to, place.host.get(), packed)?,
            Mapping::Zero { .. } | Mapping::Unallocated | Mapping::Subclusters { .. } => {}
        }
        self.monitor.advance(length);
        Ok(())
    }
}
