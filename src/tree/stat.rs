//! Attributes of nodes.

use super::Tree;
use super::attribute::{Attributes, Found, NodeLook, Ttl};
use super::inode::{Ino, low};
use super::node::Node;
use super::refusal::stale;
use super::snapshot::PointView;
use super::volume_node::VolumeNode;
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u32};

impl Tree {
    /// Attributes of a node.
    ///
    /// # Errors
    /// `Stale` when it is gone; errors of the guest's reader.
    pub fn attributes(&self, ino: Ino) -> Result<Found> {
        if ino.volume() == 0 && ino.low() & !low::INDEX_MASK == low::FILES && ino.serial() != 0 {
            let position = usize_from_u32(ino.low() & low::INDEX_MASK);
            return self.files_found(&self.point_of(ino.serial())?, position);
        }
        if ino.volume() == 0 && ino.low() == low::VOLUMES && ino.serial() != 0 {
            let point = self.point_of(ino.serial())?;
            return Ok(self.own(ino, NodeLook::Directory, &point));
        }
        self.found(ino, &self.node(ino)?)
    }

    pub(super) fn own(&self, ino: Ino, look: NodeLook, point: &PointView) -> Found {
        committed(self.options.own(ino, look, 0, 0, point.time()))
    }

    pub(super) fn raw_found(&self, ino: Ino, point: &PointView, volume: &VolumeNode) -> Found {
        let size = volume.volume.map.size_bytes();
        // An upper bound: counting the volume's own clusters would resolve the whole chain.
        let facts = self.shared.disks.facts(point);
        let data: u64 = facts.disks.iter().map(|disk| disk.data_bytes).sum();
        let blocks = data.min(size).div_ceil(512);
        committed(
            self.options
                .own(ino, NodeLook::Disk, size, blocks, point.time()),
        )
    }

    pub(super) fn found(&self, ino: Ino, node: &Node) -> Result<Found> {
        let changing = |attributes: Attributes| Found {
            attributes,
            entry_ttl: Ttl::Changing,
            attribute_ttl: Ttl::Changing,
        };
        let own = |look, size, blocks, time| self.options.own(ino, look, size, blocks, time);
        Ok(match node {
            Node::Root => {
                let mut root = own(NodeLook::Directory, 0, 0, self.snapshot().time());
                root.mode = 0o755;
                changing(root)
            }
            Node::Vm(vm) => {
                let mut time = vm.time();
                // Sessions come and go without a commit: the changed time shows clients with a cached listing
                // that it is old.
                time.nanoseconds = (time.nanoseconds + self.sessions_generation()) % 1_000_000_000;
                changing(own(NodeLook::VmDirectory, 0, 0, time))
            }
            Node::Session(node) => return self.part_attributes(ino, node),
            Node::Latest(point) => {
                let length = u64_from_usize(point.entry.name.as_str().len());
                let attributes = own(NodeLook::Symlink, length, 0, point.time());
                // No lifetime: no notification would be quick enough for a user who commits and looks.
                Found {
                    attributes,
                    entry_ttl: Ttl::Nothing,
                    attribute_ttl: Ttl::Committed,
                }
            }
            Node::Point(point) => {
                let mut found = self.own(ino, NodeLook::Directory, point);
                // Once its volumes are known it has more names: the changed time shows clients with a cached
                // listing that it is old.
                if self.is_probed(point) {
                    let time = &mut found.attributes.mtime;
                    time.nanoseconds = (time.nanoseconds + 1).min(999_999_999);
                    found.attributes.ctime = *time;
                }
                found.entry_ttl = Ttl::Changing;
                found.attribute_ttl = Ttl::Changing;
                found
            }
            Node::Info(point) | Node::VolumesJson(point) => {
                let length = u64_from_usize(self.document(ino, point)?.len());
                document_attributes(own(
                    NodeLook::File,
                    length,
                    length.div_ceil(512),
                    point.time(),
                ))
            }
            Node::AttachedDir(point)
            | Node::DisksDir(point)
            | Node::Volumes(point, ..)
            | Node::Files(point, ..) => self.own(ino, NodeLook::Directory, point),
            Node::Attached(point, at) => {
                let facts = self.shared.disks.facts(point);
                let file = facts.attached.get(*at).ok_or_else(stale)?;
                let blocks = file.size_bytes.div_ceil(512);
                committed(own(NodeLook::File, file.size_bytes, blocks, point.time()))
            }
            Node::Disk(point, at) => {
                let disk = self.shared.disks.entry(point, *at).map_err(|_| stale())?;
                let blocks = disk.data_bytes.div_ceil(512);
                committed(own(NodeLook::Disk, disk.source_bytes, blocks, point.time()))
            }
            Node::VolumeRaw(point, volume) => self.raw_found(ino, point, volume),
            Node::Guest(node) => committed(self.options.guest(ino, &node.fs.attributes(node.ino)?)),
        })
    }
}

pub(super) fn committed(attributes: Attributes) -> Found {
    Found {
        attributes,
        entry_ttl: Ttl::Committed,
        attribute_ttl: Ttl::Committed,
    }
}

pub(super) fn document_attributes(attributes: Attributes) -> Found {
    Found {
        attributes,
        entry_ttl: Ttl::Nothing,
        attribute_ttl: Ttl::Nothing,
    }
}
