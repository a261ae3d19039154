//! Documents and tops of file trees: shown once the volumes of a point are known, from this process or an
//! earlier one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Tree;
use super::attribute::{Found, NodeLook};
use super::document::{self, Tops};
use super::files::Top;
use super::inode::{self, Ino, low};
use super::node::{Node, Point};
use super::refusal::{absent, stale};
use super::snapshot::PointView;
use super::stat::{committed, document_attributes};
use crate::error::Result;
use crate::guest::volume::Volume;
use crate::types::width::u64_from_usize;

/// Time before a state without volumes is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The volumes in a state, and when it was read.
pub(super) type Kept = (Instant, Option<Arc<Tops>>);

/// The findings on the disks of a point.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbedPoint {
    /// The content of `volumes.json`.
    pub value: Value,
    /// Whether all disks were readable; otherwise another probe may find more.
    pub complete: bool,
}

impl Tree {
    /// The top of the tree at that position. The state of an earlier probe suffices for its attributes:
    /// nothing is opened.
    pub(super) fn files_found(&self, point: &Point, position: usize) -> Result<Found> {
        let position_bits = inode::index_bits(position).ok_or_else(absent)?;
        let ino = point.ino(low::FILES | position_bits);
        if let Some(tops) = self.kept_tops(point) {
            return match tops.files.get(position).map(|top| &top.attributes) {
                Some(Some(kept)) => Ok(committed(self.options.guest(ino, kept))),
                // A directory of the tree itself, for several filesystems or for none.
                Some(None) => Ok(self.own(ino, NodeLook::Directory, point)),
                None if position == 0 => Ok(self.own(ino, NodeLook::Directory, point)),
                None => Err(absent()),
            };
        }
        match self.files(point, position)? {
            Node::Guest(node) => self.place_found(point, &node.volumes, &node.place, node.ino),
            _ => Ok(self.own(ino, NodeLook::Directory, point)),
        }
    }

    /// Names of a point's file trees.
    pub(super) fn file_trees(&self, point: &Point) -> Result<Vec<String>> {
        if let Some(tops) = self.kept_tops(point) {
            return Ok(tops.files.iter().map(|top| top.name.clone()).collect());
        }
        let volumes = self.shared.scanner.volumes(point)?;
        Ok(volumes
            .files
            .trees
            .iter()
            .map(|tree| tree.name.clone())
            .collect())
    }

    /// Names of the file trees, if they are known without opening anything.
    pub(super) fn known_file_trees(&self, point: &Point) -> Vec<String> {
        if self.is_probed(point) {
            return self.file_trees(point).unwrap_or_default();
        }
        Vec::new()
    }

    /// Names and attributes of the trees' tops from the point's state; `None` where this process has probed
    /// the point itself, or no process has.
    fn kept_tops(&self, point: &PointView) -> Option<Arc<Tops>> {
        match self.shared.scanner.known(point) {
            Some(_) => None,
            None => self.kept(point),
        }
    }

    /// The result of an earlier probe in the point's state.
    fn kept(&self, point: &PointView) -> Option<Arc<Tops>> {
        let load = || {
            let tops = self.repository.volumes_in_short(&point.vm, &point.entry)?;
            Ok((Instant::now(), tops.map(Arc::new)))
        };
        let is_valid = |(at, kept): &Kept| kept.is_some() || at.elapsed() < LOOK_AGAIN;
        self.shared
            .kept
            .get_or(point.entry.point_id, is_valid, load)
            .ok()?
            .1
    }

    /// The present version of a document. It is kept, because a lookup by name usually precedes a read.
    pub(super) fn document_found(&self, point: &Point, base: u32) -> Result<Found> {
        let bytes = self.make_document(point, base)?;
        let found = self.document_listed(point, base, &bytes);
        let ino = found.attributes.ino;
        self.shared
            .documents
            .put(ino, bytes.as_slice().into(), bytes.len());
        Ok(found)
    }

    /// A document as it appears in listings.
    pub(super) fn document_entry(&self, point: &Point, base: u32) -> Result<Found> {
        let bytes = self.make_document(point, base)?;
        Ok(self.document_listed(point, base, &bytes))
    }

    fn document_listed(&self, point: &Point, base: u32, bytes: &[u8]) -> Found {
        let ino = point.ino(base | (inode::hash(bytes) & low::DOCUMENT_MASK));
        let length = u64_from_usize(bytes.len());
        document_attributes(self.options.own(
            ino,
            NodeLook::File,
            length,
            length.div_ceil(512),
            point.time(),
        ))
    }

    fn make_document(&self, point: &Point, base: u32) -> Result<Vec<u8>> {
        if base == low::INFO {
            let state = self.repository.state(&point.vm, &point.entry);
            let stored = self.repository.stored_bytes(&point.vm, &point.entry);
            return Ok(document::info(
                point,
                &self.shared.disks.point(point),
                &state,
                &stored,
                &self.read_paths(point),
            ));
        }
        // A probe of this process is newer than the state.
        let kept = match self.shared.scanner.known(point) {
            Some(_) => None,
            None => {
                let state = self.repository.state(&point.vm, &point.entry);
                state.ok().and_then(|state| state.volumes)
            }
        };
        match kept {
            Some(kept) => Ok(document::bytes(&kept)),
            None => Ok(document::bytes(&self.probe(point)?.value)),
        }
    }

    /// Whether `volumes.json` can be generated without opening anything.
    pub(super) fn is_probed(&self, point: &PointView) -> bool {
        self.shared.scanner.known(point).is_some() || self.kept(point).is_some()
    }

    /// Probes the volumes of a point and opens their filesystems, unless that is done already.
    ///
    /// # Errors
    /// `Io`. Damage is reported in the returned value.
    pub fn probe(&self, point: &Point) -> Result<ProbedPoint> {
        let volumes = self.shared.scanner.volumes(point)?;
        let trouble = |volume: &Volume| self.shared.scanner.open_now(point, volume)?.trouble();
        let attributes = |position: usize| match volumes.files.trees.get(position)?.top {
            Top::Instance(at) => {
                let (at, ino) = volumes.top(at).ok()?;
                let volume = &volumes.files.instance(at)?.volume.volume;
                let fs = self.shared.scanner.filesystem(point, volume).ok()?;
                serde_json::to_value(fs.attributes(ino).ok()?).ok()
            }
            Top::Several(_) => None,
        };
        Ok(ProbedPoint {
            value: document::volumes(&volumes, trouble, attributes),
            complete: volumes.complete,
        })
    }

    /// The bytes of a version of a document: cached, or generated again if it is still the present one.
    pub(super) fn document(&self, ino: Ino, point: &Point) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.shared.documents.get(&ino) {
            return Ok(bytes);
        }
        let base = ino.low() & !low::DOCUMENT_MASK;
        let bytes: Arc<[u8]> = self.make_document(point, base)?.into();
        if base | (inode::hash(&bytes) & low::DOCUMENT_MASK) != ino.low() {
            return Err(stale());
        }
        self.shared.documents.put(ino, bytes.clone(), bytes.len());
        Ok(bytes)
    }
}
