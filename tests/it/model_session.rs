//! Sessions against a `Vec<u8>`: random writes, zeroes, flushes, sizes, commits and restarts; afterwards every committed
//! point reads as the model had it, through the chain, and its content root is that of its bytes.

use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use restorefs::block::ReadAt;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::qcow2::Compression;
use restorefs::repo::Ending;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::types::{Digest, DiskName, PointName, VmName};

use crate::pair::Places;
use crate::world::{World, read_all};

const CLUSTER: usize = 65_536;

/// One step of a history. Offsets and lengths are taken modulo the disk as it is, so every step is valid.
#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, length: usize, seed: u8 },
    WriteCluster { cluster: u64, count: u64, seed: u8 },
    Zero { at: u64, length: u64 },
    Size { bytes: u64 },
    Flush,
    Read { at: u64, length: usize },
    Commit,
    Restart,
    Abort,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<u64>(), 1..200_000usize, 0..6u8).prop_map(|(at, length, seed)| Op::Write { at, length, seed }),
        6 => (any::<u64>(), 1..6u64, 0..6u8).prop_map(|(cluster, count, seed)| Op::WriteCluster { cluster, count, seed }),
        3 => (any::<u64>(), 1..400_000u64).prop_map(|(at, length)| Op::Zero { at, length }),
        1 => (1..40u64 * 65_536).prop_map(|bytes| Op::Size { bytes }),
        2 => Just(Op::Flush),
        3 => (any::<u64>(), 1..200_000usize).prop_map(|(at, length)| Op::Read { at, length }),
        2 => Just(Op::Commit),
        1 => Just(Op::Restart),
        1 => Just(Op::Abort),
    ];
    proptest::collection::vec(op, 1..60)
}

/// Bytes that differ by position and seed, so that a misplaced cluster shows; seed 0 is zeroes.
fn pattern(at: u64, length: usize, seed: u8) -> Vec<u8> {
    if seed == 0 {
        return vec![0; length];
    }
    (0..length as u64)
        .map(|n| ((at + n) / 512 % 251) as u8 ^ seed.wrapping_mul(37))
        .collect()
}

/// The one definition of right.
struct Model {
    committed: Vec<(PointEntry, Vec<u8>)>,
    /// The open session's disk.
    now: Vec<u8>,
}

struct Run {
    world: World,
    vm: VmName,
    disk: DiskName,
    session: Option<Arc<Session>>,
    model: Model,
    compression: Compression,
}

impl Run {
    fn new(places: Places, compression: Compression, memory_bytes: u64) -> Self {
        Self {
            world: World::over(places, memory_bytes),
            vm: VmName::new("web01").unwrap(),
            disk: DiskName::new("vda").unwrap(),
            session: None,
            model: Model {
                committed: Vec::new(),
                now: Vec::new(),
            },
            compression,
        }
    }

    fn session(&mut self) -> Arc<Session> {
        if let Some(session) = &self.session {
            return Arc::clone(session);
        }
        let mut request = BeginRequest::new(self.vm.clone());
        request.compression = self.compression;
        if self.model.committed.is_empty() {
            let size = Some(20 * CLUSTER as u64 - 512);
            request.disks.push(DiskRequest {
                name: self.disk.clone(),
                source_bytes: size,
                key: None,
                full: false,
            });
            self.model.now = vec![0; 20 * CLUSTER - 512];
        } else {
            self.model.now = self.model.committed.last().unwrap().1.clone();
        }
        let session = Session::begin(self.world.engine(), &request).unwrap();
        self.session = Some(Arc::clone(&session));
        session
    }

    fn check(&self, point: &PointEntry, bytes: &[u8]) {
        let disk = self.world.open(&self.vm, point, &self.disk);
        let mut shown = read_all(&disk);
        shown.truncate(bytes.len());
        assert!(
            shown == bytes,
            "{} differs at {:?}",
            point.name,
            shown.iter().zip(bytes).position(|(a, b)| a != b)
        );
        let sidecar = self
            .world
            .engine()
            .owner
            .repository()
            .point(&self.vm, point)
            .unwrap();
        let meta = sidecar.disk(&self.disk).unwrap();
        assert_eq!(meta.content_root, plain_root(bytes, meta.size_bytes));
        let data = bytes
            .chunks(CLUSTER)
            .filter(|c| c.iter().any(|b| *b != 0))
            .count();
        assert_eq!(meta.data_bytes, (data * CLUSTER) as u64);
    }

    fn step(&mut self, op: &Op) {
        let session = self.session();
        let disk = session.disk(&self.disk).unwrap();
        let size = self.model.now.len() as u64;
        match *op {
            Op::Write { at, length, seed } => {
                let at = at % size;
                let length = length.min((size - at) as usize);
                self.write(&session, at, &pattern(at, length, seed));
            }
            Op::WriteCluster {
                cluster,
                count,
                seed,
            } => {
                let at = cluster % size.div_ceil(CLUSTER as u64) * CLUSTER as u64;
                let length = (count as usize * CLUSTER).min((size - at) as usize);
                self.write(&session, at, &pattern(at, length, seed));
            }
            Op::Zero { at, length } => {
                let at = at % size;
                let length = length.min(size - at);
                disk.zero(at, length).unwrap();
                self.model.now[at as usize..(at + length) as usize].fill(0);
            }
            Op::Size { bytes } => {
                let floor = self
                    .model
                    .committed
                    .last()
                    .map_or(512, |(_, b)| b.len() as u64);
                let bytes = bytes.max(floor).next_multiple_of(512);
                disk.set_size(bytes).unwrap();
                self.model.now.resize(bytes as usize, 0);
            }
            Op::Flush => {
                session.flush().unwrap();
            }
            Op::Read { at, length } => {
                let at = at % size;
                let length = length.min((size - at) as usize);
                let mut buf = vec![0xaa; length];
                disk.read_at(at, &mut buf).unwrap();
                assert!(buf == self.model.now[at as usize..at as usize + length]);
            }
            Op::Commit => {
                disk.set_finished(true);
                let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
                self.session = None;
                self.world.clock.advance(60);
                self.check(&point, &self.model.now);
                self.model.committed.push((point, self.model.now.clone()));
            }
            Op::Restart => {
                // Flushed first: what a crash does to unflushed writes is the crash tests' business.
                session.flush().unwrap();
                let name: PointName = session.name();
                drop((disk, session));
                self.session = None;
                self.world.start();
                let again = Session::resume(self.world.engine(), &self.vm, &name).unwrap();
                assert!(
                    read_all(again.disk(&self.disk).unwrap().as_ref())[..self.model.now.len()]
                        == self.model.now
                );
                self.session = Some(again);
            }
            Op::Abort => {
                session.end(&Ending::aborted()).unwrap();
                self.session = None;
            }
        }
    }

    fn write(&mut self, session: &Arc<Session>, at: u64, bytes: &[u8]) {
        let disk = session.disk(&self.disk).unwrap();
        let mut reservation = session.reserve(&disk, at, bytes.len() as u64).unwrap();
        reservation.bytes_mut().copy_from_slice(bytes);
        reservation.submit().unwrap();
        self.model.now[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn finish(&self) {
        for (point, bytes) in &self.model.committed {
            self.check(point, bytes);
        }
    }
}

/// The content root by its definition, from all bytes.
pub(crate) fn plain_root(bytes: &[u8], size_bytes: u64) -> Digest {
    let mut page = Vec::new();
    for index in 0..8192 {
        let mut cluster = vec![0; CLUSTER];
        if let Some(part) = bytes.get(index * CLUSTER..) {
            let length = part.len().min(CLUSTER);
            cluster[..length].copy_from_slice(&part[..length]);
        }
        page.extend_from_slice(blake3::hash(&cluster).as_bytes());
        if index > bytes.len() / CLUSTER + 1 {
            let zero = *blake3::hash(&vec![0; CLUSTER]).as_bytes();
            page.extend(zero.repeat(8192 - index - 1));
            break;
        }
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    hasher.update(blake3::hash(&page).as_bytes());
    hasher.finalize().into()
}

/// Store and workspace, in one place and in two.
pub(crate) fn places() -> impl Strategy<Value = Places> {
    prop_oneof![Just(Places::One), Just(Places::TwoMemories)]
}

fn cases() -> u32 {
    std::env::var("RESTOREFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(48)
}

fn history(places: Places, ops: &[Op], compression: Compression, memory_bytes: u64) {
    let mut run = Run::new(places, compression, memory_bytes);
    for op in ops {
        run.step(op);
    }
    run.finish();
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_point_reads_as_the_model_had_it(ops in ops(), places in places()) {
        history(places, &ops, Compression::None, 64 << 20);
    }

    #[test]
    fn compressed_layers_read_the_same(ops in ops(), places in places(), zstd in any::<bool>()) {
        history(places, &ops, if zstd { Compression::Zstd } else { Compression::Zlib }, 64 << 20);
    }

    #[test]
    fn tables_and_leaves_beyond_the_budget_go_to_a_file(ops in ops(), places in places()) {
        history(places, &ops, Compression::None, 1);
    }
}
