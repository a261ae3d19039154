//! A history of commits with a model beside it that knows which states may be found after a crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::ManualClock;
use restorefs::error::Result;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::point::ChainSource;
use restorefs::repo::{Ending, Owner, Repository};
use restorefs::store::{Stage, Store};
use restorefs::types::{DiskName, VmName};

pub(crate) const CLUSTER: usize = 65_536;
pub(crate) const CLUSTERS: usize = 24;
const SECTOR: usize = 512;

/// Small and repeatable (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Content of a cluster at a version; version 0 is zeroes.
pub(crate) fn content(cluster: usize, version: u32) -> Vec<u8> {
    if version == 0 {
        return vec![0; CLUSTER];
    }
    let mut bytes = Vec::with_capacity(CLUSTER);
    for sector in 0..CLUSTER / SECTOR {
        let mut random = Random((cluster * 1000 + sector) as u64 ^ (u64::from(version) << 32));
        for _ in 0..SECTOR / 8 {
            bytes.extend_from_slice(&random.below(u64::MAX).to_le_bytes());
        }
    }
    bytes
}

/// How a cluster is written: whole, or in parts that do not begin with its first byte.
fn parts(random: &mut Random) -> Vec<std::ops::Range<usize>> {
    const PART: usize = 8192;
    if random.below(2) == 0 {
        return std::iter::once(0..CLUSTER).collect();
    }
    let count = CLUSTER / PART;
    let first = 1 + random.below(count as u64 - 1) as usize;
    (first..first + count)
        .map(|n| n % count * PART)
        .map(|from| from..from + PART)
        .collect()
}

/// What is known of the disk while a session is open.
#[derive(Clone)]
pub(crate) struct Model {
    /// The version of each cluster now.
    pub(crate) now: Vec<u32>,
    /// The versions that a crash may show, sector by sector: the flushed one and all written since.
    pub(crate) allowed: Vec<BTreeSet<u32>>,
}

/// What was answered, and what was on its way.
#[derive(Default)]
pub(crate) struct Log {
    /// Points whose commit was answered with success: name, versions.
    pub(crate) answered: Vec<(String, Vec<u32>)>,
    /// Versions of the commit that was running.
    pub(crate) committing: Option<Vec<u32>>,
    /// The open session.
    pub(crate) open: Option<Model>,
}

pub(crate) fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

pub(crate) fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

pub(crate) fn open_engine((store, stage): (Arc<dyn Store>, Arc<dyn Stage>)) -> Result<Engine> {
    let repository = Arc::new(Repository::open_store(store, stage)?);
    let owner = Owner::open(repository, Arc::new(ManualClock::at(1_795_226_400)), "test")?;
    let pool = Pool::new(PoolLimits {
        layers: 64,
        memory_bytes: 4 << 20,
    });
    Ok(Engine::with_budget(Arc::new(owner), pool, 16 << 20))
}

/// Commits `points` points, flushing now and then; the log is right at every instant.
pub(crate) fn run(
    engine: &Engine,
    seed: u64,
    points: usize,
    log: &mut Log,
    told: &mut dyn FnMut(&Log),
) -> Result<()> {
    let mut random = Random(seed);
    let mut version = 1 + seed as u32 % 7 * 1000;
    for _ in 0..points {
        let base = log
            .answered
            .last()
            .map_or_else(|| vec![0; CLUSTERS], |(_, versions)| versions.clone());
        let mut request = BeginRequest::new(vm());
        request.disks.push(DiskRequest {
            name: disk(),
            source_bytes: Some((CLUSTERS * CLUSTER) as u64),
            key: None,
            full: false,
        });
        // A session that a crash left goes on; the model then begins with what it has.
        let session = match engine
            .owner
            .repository()
            .session_names(&vm())
            .ok()
            .and_then(|names| names.first().cloned())
        {
            Some(name) => {
                let session = Session::resume(engine, &vm(), &name)?;
                session.end(&Ending::aborted())?;
                Session::begin(engine, &request)?
            }
            None => Session::begin(engine, &request)?,
        };
        let writer = session.disk(&disk())?;
        log.open = Some(Model {
            allowed: base.iter().map(|v| BTreeSet::from([*v])).collect(),
            now: base.clone(),
        });
        for _ in 0..6 + random.below(10) {
            // Mostly a few clusters again and again: rewritten, zeroed, and made the parent's again.
            let spread = if random.below(4) == 0 {
                CLUSTERS as u64
            } else {
                4
            };
            let cluster = random.below(spread) as usize;
            version += 1;
            // New content, zeroes, or the parent's again.
            let next = match random.below(4) {
                0 => 0,
                1 => base[cluster],
                _ => version,
            };
            let model = log.open.as_mut().unwrap();
            model.allowed[cluster].insert(next);
            told(log);
            if next == 0 {
                writer.zero((cluster * CLUSTER) as u64, CLUSTER as u64)?;
            } else {
                let bytes = content(cluster, next);
                for part in parts(&mut random) {
                    let at = (cluster * CLUSTER + part.start) as u64;
                    let mut reservation = session.reserve(&writer, at, part.len() as u64)?;
                    reservation.bytes_mut().copy_from_slice(&bytes[part]);
                    reservation.submit()?;
                    match random.below(24) {
                        // Some parts are durable, and the rest of the cluster is not written yet.
                        0 => session.flush()?,
                        // A cluster that is quiet for two rounds is hashed between its parts.
                        1 => (0..2).try_for_each(|_| writer.hash_quiet(&AtomicBool::new(false)))?,
                        _ => {}
                    }
                }
            }
            log.open.as_mut().unwrap().now[cluster] = next;
            if random.below(3) == 0 {
                session.flush()?;
                let model = log.open.as_mut().unwrap();
                model.allowed = model.now.iter().map(|v| BTreeSet::from([*v])).collect();
                told(log);
            }
        }
        let now = log.open.as_ref().unwrap().now.clone();
        log.committing = Some(now.clone());
        told(log);
        writer.set_finished(true);
        let point = session.commit(&CommitRequest::default(), &|| ())?;
        log.answered.push((point.name.to_string(), now));
        log.committing = None;
        log.open = None;
        told(log);
    }
    Ok(())
}

/// Opens what the crash left, and holds it against the log.
pub(crate) fn check(engine: &Engine, log: &Log) {
    let repository = engine.owner.repository();
    let Ok(entry) = engine.owner.vm_snapshot(&vm()) else {
        assert!(log.answered.is_empty(), "the VM is gone with its points");
        return;
    };
    let source = ChainSource::new(repository, &vm(), entry.vm.vm_id, true);
    let mut listed = 0;
    for point in &entry.index.points {
        let sidecar = repository.point(&vm(), point).unwrap();
        let meta = sidecar.disk(&disk()).unwrap();
        let opened = source.open_disk(&engine.pool, &meta.layer).unwrap();
        let mut bytes = vec![0; opened.size_bytes() as usize];
        opened.read_at(0, &mut bytes).unwrap();
        let answered = log
            .answered
            .iter()
            .find(|(name, _)| *name == point.name.as_str());
        // A commit that was not answered may be there, whole.
        let versions = answered
            .map(|(_, v)| v)
            .or(log.committing.as_ref())
            .expect("a listed point that nobody committed");
        listed += usize::from(answered.is_some());
        for (cluster, version) in versions.iter().enumerate() {
            let found = &bytes[cluster * CLUSTER..(cluster + 1) * CLUSTER];
            assert!(
                found == content(cluster, *version),
                "{} cluster {cluster} is not version {version}",
                point.name
            );
        }
        let leaves = restorefs::repo::leaves::Leaves::open(
            repository,
            &vm(),
            entry.vm.vm_id,
            &meta.layer,
            meta.content_root,
        )
        .unwrap();
        let mut page = vec![0; restorefs::repo::content::PAGE_BYTES];
        leaves
            .load_page(restorefs::repo::content::Region(0), &mut page)
            .unwrap();
    }
    assert_eq!(
        listed,
        log.answered.len(),
        "an answered commit is not listed"
    );
    check_session(engine, log);
}

fn check_session(engine: &Engine, log: &Log) {
    let names = engine.owner.repository().session_names(&vm()).unwrap();
    let Some(name) = names.first() else { return };
    let session = Session::resume(engine, &vm(), name).unwrap();
    // A session that is there although its commit was not answered and its point is not listed, or that was begun last.
    let Some(model) = &log.open else { return };
    let writer = session.disk(&disk()).unwrap();
    let mut bytes = vec![0; writer.size_bytes() as usize];
    writer.read_at(0, &mut bytes).unwrap();
    for (cluster, allowed) in model.allowed.iter().enumerate() {
        let versions: Vec<Vec<u8>> = allowed.iter().map(|v| content(cluster, *v)).collect();
        for sector in (0..CLUSTER).step_by(SECTOR) {
            let found = &bytes[cluster * CLUSTER + sector..cluster * CLUSTER + sector + SECTOR];
            assert!(
                versions
                    .iter()
                    .any(|v| &v[sector..sector + SECTOR] == found),
                "cluster {cluster} sector {} is none of versions {allowed:?}",
                sector / SECTOR
            );
        }
    }
    // What was resumed can be committed, and is what was read.
    writer.set_finished(true);
    let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
    let sidecar = engine.owner.repository().point(&vm(), &point).unwrap();
    let id = engine.owner.vm_snapshot(&vm()).unwrap().vm.vm_id;
    let source = ChainSource::new(engine.owner.repository(), &vm(), id, true);
    let meta = sidecar.disk(&disk()).unwrap();
    let opened = source.open_disk(&engine.pool, &meta.layer).unwrap();
    let mut again = vec![0; bytes.len()];
    opened.read_at(0, &mut again).unwrap();
    assert!(again == bytes, "the committed session reads differently");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&opened.size_bytes().to_le_bytes());
    let mut page = restorefs::repo::content::zero_page().to_vec();
    for (index, cluster) in bytes.chunks(CLUSTER).enumerate() {
        page[index * 32..index * 32 + 32].copy_from_slice(blake3::hash(cluster).as_bytes());
    }
    hasher.update(blake3::hash(&page).as_bytes());
    assert_eq!(
        meta.content_root,
        hasher.finalize().into(),
        "the resumed session's content root is not that of its bytes"
    );
}
