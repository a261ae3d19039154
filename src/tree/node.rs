//! Nodes: the objects behind inode numbers.

use std::sync::Arc;

use super::Tree;
use super::files::{Files, Top};
use super::inode::{Far, Ino, low};
use super::location::GuestLocation;
use super::refusal::stale;
use super::session_node::SessionNode;
use super::snapshot::{Holder, PointView, VmView};
use super::volume::{Name, Volumes};
use super::volume_node::VolumeNode;
use crate::error::Result;
use crate::guest::fs::{GuestFs, GuestIno};
use crate::types::width::usize_from_u32;

pub(super) type Point = Arc<PointView>;

/// A guest's file, with the objects that are needed to read it.
pub(super) struct GuestNode {
    pub(super) point: Point,
    pub(super) volumes: Arc<Volumes>,
    pub(super) place: GuestLocation,
    pub(super) fs: Arc<dyn GuestFs>,
    pub(super) ino: GuestIno,
}

/// The object behind an inode number.
pub(super) enum Node {
    Root,
    Vm(Arc<VmView>),
    Latest(Point),
    Point(Point),
    Info(Point),
    VolumesJson(Point),
    AttachedDir(Point),
    Attached(Point, usize),
    DisksDir(Point),
    Disk(Point, usize),
    /// A directory at this path below `volumes/`; empty: `volumes/` itself.
    Volumes(Point, Arc<Volumes>, String),
    VolumeRaw(Point, Arc<VolumeNode>),
    /// The top of the tree at this position, where that is a directory of the tree itself.
    Files(Point, Arc<Volumes>, usize),
    Guest(GuestNode),
    /// A node of an open session.
    Session(SessionNode),
}

impl Tree {
    /// The object behind a number.
    pub(super) fn node(&self, ino: Ino) -> Result<Node> {
        if ino == Ino::ROOT {
            return Ok(Node::Root);
        }
        if ino.is_from_table() {
            let far = self.shared.table.get(ino).ok_or_else(stale)?;
            let point = self.point_of(far.serial)?;
            let volumes = self.shared.scanner.volumes(&point)?;
            let place = match far.instance() {
                Some(at) => volumes.instance(at)?,
                None => GuestLocation::Volume(Arc::clone(volumes.at_path(&far.volume)?)),
            };
            return self.guest(&point, &volumes, place, GuestIno(far.ino));
        }
        if ino.volume() != 0 {
            let point = self.point_of(ino.serial())?;
            let volumes = self.shared.scanner.volumes(&point)?;
            let place = if Files::is_number(ino.volume()) {
                let at = volumes.files.numbered(ino.volume()).ok_or_else(stale)?;
                volumes.instance(at)?
            } else {
                GuestLocation::Volume(Arc::clone(volumes.numbered(ino.volume())?))
            };
            return self.guest(&point, &volumes, place, GuestIno(ino.low().into()));
        }
        let snapshot = self.snapshot();
        let Some(holder) = snapshot.holder(ino.serial()) else {
            return self.session_node(ino).map(Node::Session);
        };
        let point = match holder {
            Holder::Vm(vm) if ino.low() == low::SELF => return Ok(Node::Vm(Arc::clone(vm))),
            Holder::Vm(_) => return Err(stale()),
            Holder::Point(point) => Arc::clone(point),
        };
        let low = ino.low();
        let position = usize_from_u32(low & low::INDEX_MASK);
        Ok(match low {
            low::SELF => Node::Point(point),
            low::LATEST => Node::Latest(point),
            low::ATTACHED => Node::AttachedDir(point),
            low::DISKS => Node::DisksDir(point),
            low::VOLUMES => self.volumes_dir(point, String::new())?,
            _ if low & !low::DOCUMENT_MASK == low::INFO => Node::Info(point),
            _ if low & !low::DOCUMENT_MASK == low::VOLUMES_JSON => Node::VolumesJson(point),
            _ => match low & !low::INDEX_MASK {
                low::ATTACHED_FILE => Node::Attached(point, position),
                low::DISK => Node::Disk(point, position),
                low::FILES => self.files(&point, position)?,
                low::VOLUME_DIR => {
                    let volumes = self.shared.scanner.volumes(&point)?;
                    let path = volumes.path_of(low)?.to_owned();
                    Node::Volumes(point, volumes, path)
                }
                low::VOLUME_RAW => {
                    let volumes = self.shared.scanner.volumes(&point)?;
                    match volumes.name(volumes.path_of(low)?) {
                        Some(Name::Raw(volume)) => Node::VolumeRaw(point, Arc::clone(volume)),
                        _ => return Err(stale()),
                    }
                }
                _ => return Err(stale()),
            },
        })
    }

    fn volumes_dir(&self, point: Point, path: String) -> Result<Node> {
        let volumes = self.shared.scanner.volumes(&point)?;
        Ok(Node::Volumes(point, volumes, path))
    }

    pub(super) fn point_of(&self, serial: u32) -> Result<Point> {
        match self.snapshot().holder(serial) {
            Some(Holder::Point(point)) => Ok(Arc::clone(point)),
            _ => Err(stale()),
        }
    }

    pub(super) fn guest(
        &self,
        point: &Point,
        volumes: &Arc<Volumes>,
        place: GuestLocation,
        ino: GuestIno,
    ) -> Result<Node> {
        let fs = self
            .shared
            .scanner
            .filesystem(point, &place.volume().volume)?;
        Ok(Node::Guest(GuestNode {
            point: Arc::clone(point),
            volumes: Arc::clone(volumes),
            place,
            fs,
            ino,
        }))
    }

    /// The top of a file tree of a point.
    pub(super) fn files(&self, point: &Point, position: usize) -> Result<Node> {
        let volumes = self.shared.scanner.volumes(point)?;
        match volumes.files.trees.get(position).map(|tree| &tree.top) {
            Some(Top::Instance(at)) => {
                let (at, ino) = volumes.top(*at)?;
                self.guest(point, &volumes, volumes.instance(at)?, ino)
            }
            Some(Top::Several(_)) => Ok(Node::Files(Arc::clone(point), volumes, position)),
            // `files` always exists, and may be empty.
            None if position == 0 => Ok(Node::Files(Arc::clone(point), volumes, position)),
            None => Err(stale()),
        }
    }

    /// The number of an inode of a guest.
    pub(super) fn guest_ino(
        &self,
        point: &PointView,
        volumes: &Volumes,
        place: &GuestLocation,
        ino: GuestIno,
    ) -> Result<Ino> {
        let (number, path) = match place {
            GuestLocation::Volume(volume) => (volume.number, volume.volume.path.clone()),
            GuestLocation::Files(at, instance) => {
                if let Some(position) = volumes.is_top(*at, ino) {
                    return Ok(point.ino(low::FILES | position));
                }
                (instance.number, Far::of_instance(*at))
            }
        };
        match (number, u32::try_from(ino.0)) {
            (Some(number), Ok(low)) => Ok(Ino::pack(point.entry.serial, number, low)),
            _ => self.shared.table.number(Far {
                serial: point.entry.serial,
                ino: ino.0,
                volume: path,
            }),
        }
    }
}
