//! The bytes of a point's disk, each cluster proved against its leaf, as a restore proves them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::View;
use crate::access::Right;
use crate::error::{Error, Result};
use crate::point::{Part, ProvedDisk};
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::selector::Which;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{Digest, DiskName, PointId, PointName, VmName};

/// LIMIT: disks that stay open between requests; each holds the descriptors of its chain.
const OPEN_MAX: usize = 8;
/// LIMIT: how long a disk stays open that nobody asks for; the space of a layer that was merged away comes back then.
const OPEN_FOR: Duration = Duration::from_secs(60);
/// Bytes that a reader reads at once: whole clusters.
const CHUNK_BYTES: u64 = 1 << 20;

/// A disk of a point as a download has it.
#[derive(Clone)]
pub struct DiskContent {
    disk: Arc<ProvedDisk>,
    /// The point.
    pub point: PointName,
    /// The disk.
    pub name: DiskName,
    /// BLAKE3 over the content: equal for equal content.
    pub content_root: Digest,
}

impl DiskContent {
    /// Bytes of the source.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
}

/// A reader over a range of a disk.
pub struct ChunkReader {
    content: DiskContent,
    at: u64,
    end: u64,
}

impl DiskContent {
    /// A reader of the bytes from `begin` to before `end`.
    #[must_use]
    pub fn reader(self, begin: u64, end: u64) -> ChunkReader {
        let end = end.min(self.size_bytes());
        ChunkReader {
            content: self,
            at: begin,
            end,
        }
    }
}

impl ChunkReader {
    /// Passes the bytes of the range to `put`, in order, until it returns `false`.
    ///
    /// # Errors
    /// `Corrupt` naming the range when a cluster differs from what was committed; `Io`.
    pub fn read(self, mut put: impl FnMut(Vec<u8>) -> bool) -> Result<()> {
        let mut reader = self.content.disk.reader();
        let mut at = self.at;
        while at < self.end {
            let begin = at / CLUSTER_BYTES * CLUSTER_BYTES;
            let end = (begin + CHUNK_BYTES).min(self.end);
            let length = (end - begin).next_multiple_of(CLUSTER_BYTES);
            let mut bytes = vec![0; usize_from_u64(length)];
            match reader.read(begin, end - begin, &mut bytes)? {
                Part::Zero => bytes.fill(0),
                Part::Data => {}
            }
            bytes.truncate(usize_from_u64(end - begin));
            if at > begin {
                bytes.drain(..usize_from_u64(at - begin));
            }
            if !put(bytes) {
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }
}

/// Disks that were read lately.
#[derive(Default)]
pub(super) struct OpenDisks(Mutex<VecDeque<OpenDisk>>);

struct OpenDisk {
    key: (PointId, DiskName),
    content: DiskContent,
    used_at: Instant,
}

impl OpenDisks {
    fn get(&self, key: &(PointId, DiskName)) -> Option<DiskContent> {
        let mut open = self.0.lock();
        open.retain(|disk| disk.used_at.elapsed() < OPEN_FOR);
        let disk = open.iter_mut().find(|disk| disk.key == *key)?;
        disk.used_at = Instant::now();
        Some(disk.content.clone())
    }

    fn put(&self, key: (PointId, DiskName), content: DiskContent) {
        let mut open = self.0.lock();
        if open.len() >= OPEN_MAX {
            open.pop_front();
        }
        open.push_back(OpenDisk {
            key,
            content,
            used_at: Instant::now(),
        });
    }

    /// Closes what nobody has asked for lately.
    pub(super) fn tidy(&self) {
        self.0
            .lock()
            .retain(|disk| disk.used_at.elapsed() < OPEN_FOR);
    }
}

impl super::SharedView {
    /// Closes disks that nobody has asked for lately.
    pub fn tidy(&self) {
        self.disks.tidy();
    }
}

impl View {
    /// The content of a disk of a point.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `Corrupt` when the chain or its sums are broken; `Io`.
    pub fn disk(&self, vm: &VmName, which: &Which, disk: &DiskName) -> Result<DiskContent> {
        let opened = self.open_disk(vm, which, disk);
        let subject = format!("{which}/{disk}");
        self.local().note_result("read-disk", vm, &subject, &opened);
        opened
    }

    fn open_disk(&self, vm: &VmName, which: &Which, disk: &DiskName) -> Result<DiskContent> {
        let point = self.point_for(vm, which, Right::Restore)?;
        let key = (point.entry.point_id, disk.clone());
        if let Some(open) = self.shared.disks.get(&key) {
            return Ok(open);
        }
        let repository = self.repository();
        let sidecar = repository.point(&point.vm, &point.entry)?;
        let mut disks = sidecar.disks.iter();
        let meta = disks.find(|meta| meta.name.same_as(disk)).ok_or_else(|| {
            let name = &point.entry.name;
            Error::not_found(format!("{}@{name} has no disk {disk}", point.vm))
        })?;
        let pool = &self.shared.pool;
        let open = ProvedDisk::open(repository, pool, &point.vm, point.vm_id, meta)?;
        let content = DiskContent {
            disk: Arc::new(open),
            point: point.entry.name.clone(),
            name: meta.name.clone(),
            content_root: meta.content_root,
        };
        self.shared.disks.put(key, content.clone());
        Ok(content)
    }
}
