//! Copying the changes of a source: a range that the bitmap calls unchanged has the parent's content, whatever the
//! source has there.

use restorefs::block::piece::{Changes, CopySource};
use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::copy::copy_into;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::task::Monitor;
use restorefs::types::{DiskName, VmName};

use crate::world::{World, read_all};

const CLUSTER: usize = 65_536;

/// Ranges of bytes that have changed, in order; the rest has not.
struct Bitmap(Vec<(u64, u64)>);

impl Changes for Bitmap {
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        for &(from, end) in &self.0 {
            if offset < from {
                return Ok((false, (from - offset).min(length_max)));
            }
            if offset < end {
                return Ok((true, (end - offset).min(length_max)));
            }
        }
        Ok((false, length_max))
    }
}

fn changed<'a>(disk: &'a MemoryDisk, changes: &'a Bitmap) -> CopySource<'a> {
    CopySource {
        disk,
        changes: Some(changes),
    }
}

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn begin(world: &World, size: usize) -> std::sync::Arc<Session> {
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: vda(),
        source_bytes: Some(size as u64),
        key: None,
        full: false,
    });
    Session::begin(world.engine(), &request).unwrap()
}

#[test]
fn what_has_not_changed_is_the_parents() {
    let world = World::new(64 << 20);
    let size = 40 * CLUSTER + 512;
    let first: Vec<u8> = (0..size).map(|at| (at / 512) as u8 | 1).collect();
    let session = begin(&world, size);
    let disk = session.disk(&vda()).unwrap();
    let changes = Bitmap(vec![(0, 512)]);
    let monitor = Monitor::default();
    let source = MemoryDisk::from_bytes(&first);
    // A full disk is not its changes.
    let error = copy_into(&session, &disk, changed(&source, &changes), &monitor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    copy_into(&session, &disk, CopySource::whole(&source), &monitor).unwrap();
    session.commit(&CommitRequest::default(), &|| ()).unwrap();

    // The source is other bytes everywhere; only what the bitmap names comes in, to the byte.
    world.clock.advance(60);
    let second: Vec<u8> = first.iter().map(|byte| byte.wrapping_add(2)).collect();
    let ranges = [
        (512, 1024),
        (3 * CLUSTER, 5 * CLUSTER),
        (7 * CLUSTER + 100, 9 * CLUSTER - 4096),
        (size - 700, size),
    ];
    let mut expected = first.clone();
    for (from, end) in ranges {
        expected[from..end].copy_from_slice(&second[from..end]);
    }
    let session = begin(&world, size);
    let disk = session.disk(&vda()).unwrap();
    let changes = Bitmap(ranges.map(|(from, end)| (from as u64, end as u64)).into());
    let monitor = Monitor::default();
    let source = MemoryDisk::from_bytes(&second);
    copy_into(&session, &disk, changed(&source, &changes), &monitor).unwrap();
    assert_eq!(monitor.done_bytes(), size as u64);
    let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
    let restored = world.open(&vm(), &point, &vda());
    assert!(read_all(&restored)[..size] == expected);
    assert!(restored.size_bytes() >= size as u64);
    // Of the clusters, only those that a range touches are stored.
    assert_eq!(point.disks[0].changed_bytes, 7 * CLUSTER as u64);
}
