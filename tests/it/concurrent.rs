//! Many writers of one disk at once: every acknowledged write is there, and the sums are those of the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use restorefs::block::ReadAt;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::qcow2::Compression;
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::proof::prove_disk;
use crate::world::{World, read_all};

const CLUSTER: usize = 65_536;
const SECTOR: usize = 512;
/// More clusters than a session gathers, so that some are completed while others are written.
const CLUSTERS: usize = 300;
const THREADS: usize = 16;

/// Small and repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Each thread writes the sectors whose number is its own modulo the threads, in every cluster; between them whole clusters
/// are rewritten by their only owner, zeroed, flushed and read.
fn writers(session: &Arc<Session>, disk: &DiskName, round: u64, model: &mut [u8]) {
    let is_over = AtomicBool::new(false);
    let parts: Vec<Vec<(usize, Vec<u8>)>> = std::thread::scope(|scope| {
        scope.spawn(|| {
            // What nobody has written for two rounds is hashed beside the writers.
            let writer = session.disk(disk).unwrap();
            while !is_over.load(Ordering::SeqCst) {
                writer.hash_quiet(&is_over).unwrap();
            }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let session = Arc::clone(session);
                scope.spawn(move || {
                    let writer = session.disk(disk).unwrap();
                    let mut random = Random(round * 100 + thread as u64);
                    let mut written: Vec<(usize, Vec<u8>)> = Vec::new();
                    for step in 0..400_u32 {
                        // The lower clusters are contended, the last ones have one owner each.
                        let at = if random.below(4) == 0 {
                            (CLUSTERS - THREADS + thread) * CLUSTER
                        } else {
                            let sector = random.below(128 / THREADS) * THREADS + thread;
                            random.below(CLUSTERS - THREADS) * CLUSTER + sector * SECTOR
                        };
                        let length = if at / CLUSTER >= CLUSTERS - THREADS {
                            CLUSTER
                        } else {
                            SECTOR
                        };
                        let fill = (step % 250) as u8;
                        if fill == 0 {
                            writer.zero(at as u64, length as u64).unwrap();
                        } else {
                            let mut reservation =
                                session.reserve(&writer, at as u64, length as u64).unwrap();
                            reservation.bytes_mut().fill(fill);
                            reservation.submit().unwrap();
                        }
                        written.push((at, vec![fill; length]));
                        if random.below(60) == 0 {
                            session.flush().unwrap();
                        }
                        if random.below(10) == 0 {
                            // What this thread wrote last reads back, whatever the others do.
                            let mut back = vec![0xee; length];
                            writer.read_at(at as u64, &mut back).unwrap();
                            assert!(back.iter().all(|byte| *byte == fill), "at {at}");
                        }
                    }
                    written
                })
            })
            .collect();
        let written = threads.into_iter().map(|thread| thread.join()).collect();
        is_over.store(true, Ordering::SeqCst);
        let written: std::thread::Result<Vec<_>> = written;
        written.unwrap()
    });
    for (at, bytes) in parts.into_iter().flatten() {
        model[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

fn history(places: Places, compression: Compression, memory_bytes: u64) {
    let mut world = World::over(places, memory_bytes);
    let vm = VmName::new("web01").unwrap();
    let name = DiskName::new("vda").unwrap();
    let mut model = vec![0; CLUSTERS * CLUSTER];
    for round in 0..3 {
        let mut request = BeginRequest::new(vm.clone());
        request.compression = compression;
        request.disks.push(DiskRequest {
            name: name.clone(),
            source_bytes: Some((CLUSTERS * CLUSTER) as u64),
            key: None,
            full: false,
        });
        let session = Session::begin(world.engine(), &request).unwrap();
        writers(&session, &name, round * 2, &mut model);
        let session = if round == 1 {
            // Goes on after a crash, while its clusters are being rehashed.
            session.flush().unwrap();
            let point = session.name();
            drop(session);
            world.start();
            Session::resume(world.engine(), &vm, &point).unwrap()
        } else {
            session
        };
        writers(&session, &name, round * 2 + 1, &mut model);
        let disk = session.disk(&name).unwrap();
        assert!(read_all(disk.as_ref()) == model, "before the commit");
        disk.set_finished(true);
        let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        world.clock.advance(60);
        let engine = world.engine();
        let sidecar = engine.owner.repository().point(&vm, &point).unwrap();
        let bytes = prove_disk(engine, &vm, &point, sidecar.disk(&name).unwrap());
        assert!(bytes == model, "round {round}");
    }
}

fn writers_of_the_same_clusters_lose_nothing(places: Places) {
    history(places, Compression::None, 64 << 20);
}

fn writers_of_the_same_clusters_lose_nothing_when_tables_are_spilled(places: Places) {
    history(places, Compression::None, 1);
}

fn writers_of_the_same_compressed_clusters_lose_nothing(places: Places) {
    history(places, Compression::Zstd, 64 << 20);
}

over_places!(
    writers_of_the_same_clusters_lose_nothing,
    writers_of_the_same_clusters_lose_nothing_when_tables_are_spilled,
    writers_of_the_same_compressed_clusters_lose_nothing,
);
