//! Reading a disk of a session: gathered bytes lie over the layer's, and those over the parent's.

use super::DiskWriter;
use crate::block::{Extent, ExtentKind, ReadAt, check_range};
use crate::error::Result;
use crate::qcow2::Mapping;
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::content::{CLUSTER, REGION_BYTES, Region};
use crate::types::GuestCluster;
use crate::types::width::{u64_from_usize, usize_from_u64};

impl DiskWriter {
    /// Reads bytes of one cluster from below the gathered ones.
    fn read_base(
        &self,
        cluster: GuestCluster,
        held: Mapping,
        from: usize,
        part: &mut [u8],
    ) -> Result<()> {
        match held {
            Mapping::Data(host) => {
                let place = crate::types::HostOffset(host.0 + u64_from_usize(from));
                self.draft.read_data(place, part)
            }
            Mapping::Unallocated => {
                self.read_parent(cluster.0 * CLUSTER_BYTES + u64_from_usize(from), part)
            }
            held => {
                let mut whole = vec![0; usize_from_u64(CLUSTER_BYTES)];
                self.draft.read_held(held, &mut whole)?;
                if let Some(bytes) = whole.get(from..from + part.len()) {
                    part.copy_from_slice(bytes);
                }
                Ok(())
            }
        }
    }

    fn read_parent(&self, offset: u64, part: &mut [u8]) -> Result<()> {
        match &self.parent {
            Some(parent) => parent.read(offset, part),
            None => {
                part.fill(0);
                Ok(())
            }
        }
    }
}

impl ReadAt for DiskWriter {
    fn size_bytes(&self) -> u64 {
        Self::size_bytes(self)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = u64_from_usize(buf.len());
        check_range(Self::size_bytes(self), offset, length)?;
        let end = offset + length;
        // Gathered parts are collected before the layer is read: a part that is stored meanwhile is
        // then seen twice rather than never.
        let gathered = if self.gather.is_empty() {
            Vec::new()
        } else {
            self.gather
                .within(offset / CLUSTER_BYTES, end.div_ceil(CLUSTER_BYTES))
        };
        let mut at = offset;
        while at < end {
            let cluster = GuestCluster(at / CLUSTER_BYTES);
            let held = self.draft.mapping(cluster)?;
            // Clusters that only the parent has are read in one request.
            let mut stop = ((cluster.0 + 1) * CLUSTER_BYTES).min(end);
            if held == Mapping::Unallocated {
                while stop < end
                    && self.draft.mapping(GuestCluster(stop / CLUSTER_BYTES))?
                        == Mapping::Unallocated
                {
                    stop = (stop + CLUSTER_BYTES).min(end);
                }
            }
            let part = buf
                .get_mut(usize_from_u64(at - offset)..usize_from_u64(stop - offset))
                .unwrap_or_default();
            self.read_base(cluster, held, usize_from_u64(CLUSTER.within(at)), part)?;
            at = stop;
        }
        for (cluster, partial) in gathered {
            let start = cluster * CLUSTER_BYTES;
            let (a, b) = (start.max(offset), (start + CLUSTER_BYTES).min(end));
            if let Some(part) = buf.get_mut(usize_from_u64(a - offset)..usize_from_u64(b - offset))
            {
                partial.lay_over_part(usize_from_u64(a - start), part);
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(Self::size_bytes(self), offset, length_max)?;
        if length_max == 0 {
            return Err(
                crate::error::Error::invalid("an extent of no bytes was asked for")
                    .at_offset(offset),
            );
        }
        let end = offset + length_max;
        let mut found: Option<ExtentKind> = None;
        let mut at = offset;
        while at < end {
            let cluster = GuestCluster(at / CLUSTER_BYTES);
            let region = Region::of(cluster);
            // A region in which nothing was mapped is the parent's as a whole, so terabytes of
            // holes pass quickly.
            let (held, mut stop) = if self.draft.holds_nothing_of(region)? {
                (Mapping::Unallocated, (region.0 + 1) * REGION_BYTES)
            } else {
                (
                    self.draft.mapping(cluster)?,
                    (cluster.0 + 1) * CLUSTER_BYTES,
                )
            };
            let gathered = self
                .gather
                .first_within(cluster.0, stop.div_ceil(CLUSTER_BYTES));
            let is_gathered = gathered == Some(cluster.0);
            if let Some(gathered) = gathered {
                stop = gathered.max(cluster.0 + u64::from(is_gathered)) * CLUSTER_BYTES;
            }
            let stop = stop.min(end);
            let (kind, next) = match held {
                _ if is_gathered => (ExtentKind::Data, stop),
                Mapping::Zero { .. } => (ExtentKind::Zero, stop),
                Mapping::Unallocated => match &self.parent {
                    Some(parent) => {
                        let extent = parent.extent(at, stop - at)?;
                        (extent.kind, at + extent.length_bytes)
                    }
                    None => (ExtentKind::Hole, stop),
                },
                Mapping::Data(_) | Mapping::Compressed(_) | Mapping::Subclusters { .. } => {
                    (ExtentKind::Data, stop)
                }
            };
            if *found.get_or_insert(kind) != kind {
                break;
            }
            at = next;
        }
        Ok(Extent {
            kind: found.unwrap_or(ExtentKind::Hole),
            length_bytes: at - offset,
        })
    }
}
