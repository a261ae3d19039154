//! A disk of 16 TiB in little memory: tables and leaves beyond the budget go to files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::point::ChainSource;
use restorefs::repo::{Owner, Repository};
use restorefs::types::{DiskName, VmName};

const SIZE: u64 = 16 << 40;
const REGION: u64 = 512 << 20;
const BUDGET: u64 = 4 << 20;
/// Regions that hold data: their tables and leaves take twenty times the budget.
const REGIONS: u64 = 256;

/// Highest use of the budget, looked at all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn new(engine: &Engine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let most = Arc::new(AtomicU64::new(0));
        let (ended, seen, budget) = (stop.clone(), most.clone(), engine.budget.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                seen.fetch_max(budget.used_bytes(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        Self {
            stop,
            most,
            thread: Some(thread),
        }
    }

    fn most(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

#[test]
fn a_disk_of_16_tib_is_taken_in_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let root = dir.path().join("repo");
    drop(Repository::init(&root, clock.now()).unwrap());
    let repository = Arc::new(Repository::open(&root).unwrap());
    let owner = Arc::new(Owner::open(repository, clock.clone(), "test").unwrap());
    let pool = Pool::new(PoolLimits {
        layers: 8,
        memory_bytes: 1 << 20,
    });
    let engine = Engine::with_budget(owner, pool, BUDGET);
    let (vm, name) = (VmName::new("big").unwrap(), DiskName::new("vda").unwrap());
    let place = |n: u64| n * (SIZE / REGIONS / REGION) * REGION + (n * 7919 % 8192) * 65_536;
    let watch = Watch::new(&engine);
    for round in 0..3_u64 {
        let mut request = BeginRequest::new(vm.clone());
        request.disks.push(DiskRequest {
            name: name.clone(),
            source_bytes: Some(SIZE),
            key: None,
            full: false,
        });
        let session = Session::begin(&engine, &request).unwrap();
        let disk = session.disk(&name).unwrap();
        for n in 0..REGIONS {
            // Round 0 writes, round 1 rewrites every other one, round 2 zeroes everything and writes one again.
            if round == 0 || (round == 1 && n % 2 == 0) {
                let mut reservation = session.reserve(&disk, place(n), 131_072).unwrap();
                reservation
                    .bytes_mut()
                    .fill(u8::try_from(round * 100 + n % 100 + 1).unwrap());
                reservation.submit().unwrap();
            }
        }
        if round == 2 {
            disk.zero(0, SIZE).unwrap();
            let mut reservation = session.reserve(&disk, place(3), 131_072).unwrap();
            reservation.bytes_mut().fill(9);
            reservation.submit().unwrap();
        }
        session.flush().unwrap();
        disk.set_finished(true);
        let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        clock.advance(60);
        let sidecar = engine.owner.repository().point(&vm, &point).unwrap();
        let meta = sidecar.disk(&name).unwrap();
        let expected = if round == 2 { 2 } else { REGIONS * 2 };
        assert_eq!(meta.data_bytes, expected * 65_536, "round {round}");
        let id = engine.owner.vm_snapshot(&vm).unwrap().vm.vm_id;
        let source = ChainSource::new(engine.owner.repository(), &vm, id, true);
        let shown = source.open_disk(&engine.pool, &meta.layer).unwrap();
        for n in (0..REGIONS).step_by(17).chain([3]) {
            let value = match round {
                2 if n == 3 => 9,
                2 => 0,
                1 if n % 2 == 0 => 100 + n % 100 + 1,
                _ => n % 100 + 1,
            };
            let mut bytes = vec![0xee; 131_072];
            shown.read_at(place(n), &mut bytes).unwrap();
            assert!(
                bytes.iter().all(|b| u64::from(*b) == value),
                "round {round}, {n}"
            );
        }
    }
    // The bound holds but for one page of each thread at work: sixteen are more than there are.
    let most = watch.most();
    assert!(most > BUDGET / 2, "the budget was never needed: {most}");
    assert!(most <= BUDGET + 16 * (256 << 10), "{most} bytes were used");
    // All pages are given back.
    drop(engine.owner);
    assert_eq!(engine.budget.used_bytes(), 0);
}
