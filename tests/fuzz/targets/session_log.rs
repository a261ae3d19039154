//! The log of a session's disk, replayed by the process that goes on with the session. Sequence numbers and checksums of frames are put
//! right first.

use std::sync::OnceLock;

use restorefs::block::ReadAt;
use restorefs::error::Result;
use restorefs::ingest::Session;
use restorefs::repo::layout::VmKeys;

use super::world::{self, World};

/// Bytes of a frame's header, and of each record behind it.
const PART_BYTES: usize = 24;
/// LIMIT: clusters that one record speaks of. The work is by the cluster, for good logs as well.
const COUNT_MAX: u32 = 1 << 12;
/// LIMIT: bytes to which a record may make the disk grow, for the same reason.
const GROWN_BYTES_MAX: u64 = 1 << 36;

/// The one of all calls.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| match world::make() {
        Ok(world) => world,
        Err(error) => panic!("no repository in memory: {error:?}"),
    })
}

fn crc32(parts: [&[u8]; 2]) -> u32 {
    let crc = parts.concat().iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}

fn put_right(log: &mut [u8]) {
    let mut rest = log;
    for sequence in 0_u64.. {
        let Some((head, behind)) = rest.split_at_mut_checked(PART_BYTES) else {
            return;
        };
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        let Some(length) = length.checked_mul(PART_BYTES) else {
            return;
        };
        let Some((records, next)) = behind.split_at_mut_checked(length) else {
            return;
        };
        for record in records.chunks_exact_mut(PART_BYTES) {
            let (head, body) = record.split_at_mut(8);
            let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            if count > COUNT_MAX && head[0] != 2 {
                head[4..].copy_from_slice(&(count % COUNT_MAX).to_le_bytes());
            }
            if head[0] == 5 && body[5..8] != [0; 3] && body[..8] != [0xff; 8] {
                let mut size = [0; 8];
                size.copy_from_slice(&body[..8]);
                let size = u64::from_le_bytes(size) % GROWN_BYTES_MAX;
                body[..8].copy_from_slice(&size.to_le_bytes());
            }
        }
        head[8..16].copy_from_slice(&sequence.to_le_bytes());
        let crc = crc32([&head[..16], records]);
        head[16..20].copy_from_slice(&crc.to_le_bytes());
        rest = next;
    }
}

/// What a resumed session shows of its disk.
#[derive(Debug, PartialEq)]
struct Seen {
    size_bytes: u64,
    source_bytes: u64,
    is_finished: bool,
    bytes: Vec<Option<Vec<u8>>>,
}

fn see() -> Result<Seen> {
    let world = world();
    let session = Session::resume(&world.engine, &world.vm, &world.name)?;
    let disk = session.disk(&world.disk)?;
    let size_bytes = disk.size_bytes();
    assert!(
        disk.source_bytes() <= size_bytes && size_bytes.is_multiple_of(512),
        "sizes that no disk has"
    );
    let read = |offset: u64| {
        let mut bytes = vec![0; 4096.min(usize::try_from(size_bytes - offset).unwrap_or(4096))];
        disk.read_at(offset, &mut bytes).ok().map(|()| bytes)
    };
    let offsets = (0..20).map(|n| n * (64 << 10)).chain([size_bytes / 2]);
    Ok(Seen {
        size_bytes,
        source_bytes: disk.source_bytes(),
        is_finished: disk.is_finished(),
        bytes: offsets.filter(|at| *at < size_bytes).map(read).collect(),
    })
}

fn store(log: &[u8]) -> Result<()> {
    let world = world();
    let keys = VmKeys::new(&world.vm)?;
    let stage = world.engine.owner.repository().stage();
    let sidecar = world.session.sidecar();
    for disk in &sidecar.disks {
        let layer = stage.open(&keys.open_layer(&disk.layer)?)?;
        layer.set_size(0)?;
        layer.write_at(0, &[0x77; 8 << 16])?;
        let map = stage.open(&keys.map(&world.name, disk.log_name())?)?;
        map.set_size(0)?;
        map.write_at(0, log)?;
    }
    Ok(())
}

/// Goes on with the session twice: what the first one left of the log says the same.
pub(crate) fn run(data: &[u8]) {
    let mut log = data.to_vec();
    put_right(&mut log);
    if store(&log).is_err() {
        return;
    }
    if let Ok(once) = see() {
        assert!(
            see().is_ok_and(|twice| twice == once),
            "the log says something else the second time"
        );
    }
}
