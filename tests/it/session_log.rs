//! A changed session log: a record that no writer makes is damage, and never changes a disk.

use std::sync::Arc;

use restorefs::error::ErrorKind;
use restorefs::ingest::{BeginRequest, DiskRequest, Engine, Session};
use restorefs::repo::layout::VmKeys;
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::world::World;

const SIZE_BYTES: u64 = 1 << 20;
const CLUSTER_BYTES: u64 = 1 << 16;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn begin(engine: &Engine) -> Arc<Session> {
    let mut request = BeginRequest::new(vm());
    request.session = Some("s".parse().unwrap());
    request.disks.push(DiskRequest {
        name: DiskName::new("vda").unwrap(),
        source_bytes: Some(SIZE_BYTES),
        key: None,
        full: false,
    });
    Session::begin(engine, &request).unwrap()
}

/// A log of one frame, as `src/FORMATS.md` draws it.
fn log(kind: u8, count: u32, cluster: u64, value: u64) -> Vec<u8> {
    let mut record = vec![kind, 0, 0, 0];
    record.extend(count.to_le_bytes());
    record.extend(cluster.to_le_bytes());
    record.extend(value.to_le_bytes());
    let mut frame = b"RFSR".to_vec();
    frame.extend(1_u32.to_le_bytes());
    frame.extend(0_u64.to_le_bytes());
    let checksum = crc32fast::hash(&[frame.as_slice(), &record].concat());
    frame.extend(checksum.to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(record);
    frame
}

/// How a session goes on whose log is that.
fn resumed(places: Places, bytes: &[u8]) -> Option<restorefs::error::Error> {
    let world = World::over(places, 64 << 20);
    let engine = world.engine();
    let session = begin(engine);
    let keys = VmKeys::new(&vm()).unwrap();
    let stage = engine.owner.repository().stage();
    let log = keys.map(&session.name(), "vda").unwrap();
    drop(session);
    let log = stage.open(&log).unwrap();
    log.set_size(0).unwrap();
    log.write_at(0, bytes).unwrap();
    Session::resume(engine, &vm(), &"s".parse().unwrap()).err()
}

fn a_record_that_does_not_fit_the_disk_is_damage_of_the_log(places: Places) {
    let clusters = SIZE_BYTES / CLUSTER_BYTES;
    for (kind, count, cluster, value) in [
        (1, 1, 0, CLUSTER_BYTES),
        (3, 16, 0, 0),
        (4, 1, clusters - 1, 0),
        (5, 0, SIZE_BYTES, SIZE_BYTES - 1),
        (5, 0, 2 * SIZE_BYTES, SIZE_BYTES),
        (6, 0, 0, 1),
    ] {
        let error = resumed(places, &log(kind, count, cluster, value));
        assert!(error.is_none(), "{kind} {cluster}: {error:?}");
    }
    for (kind, count, cluster, value) in [
        // Beyond the disk.
        (1, 1, clusters, CLUSTER_BYTES),
        (1, 2, clusters - 1, CLUSTER_BYTES),
        (2, 512, u64::MAX, CLUSTER_BYTES),
        (3, 1, clusters, 0),
        (3, u32::MAX, 0, 0),
        (4, 2, clusters - 1, 0),
        // Where no cluster lies.
        (1, 1, 0, CLUSTER_BYTES + 1),
        (1, 1, 0, u64::MAX - 0xffff),
        (1, u32::MAX, 0, (1 << 54) - CLUSTER_BYTES),
        (2, 512, 0, 1 << 60),
        // Sizes that no disk has.
        (5, 0, SIZE_BYTES + 1, 0),
        (5, 0, 1000, 1000),
        (5, 0, SIZE_BYTES, SIZE_BYTES + 1),
        (5, 0, u64::MAX, 0),
        (5, 0, u64::MAX - 511, 0),
    ] {
        let error = resumed(places, &log(kind, count, cluster, value)).unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.to_string().contains("vda.map"), "{error}");
    }
}

over_places!(a_record_that_does_not_fit_the_disk_is_damage_of_the_log,);
