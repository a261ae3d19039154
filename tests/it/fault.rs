//! Every change that a session makes to its store fails once, by a full disk or a broken one. The operation reports
//! the failure and can be repeated, and the committed point is right. Every change is also the last one once: the
//! repository is whole afterwards.

use std::sync::Arc;

use restorefs::clock::ManualClock;
use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{
    BeginRequest, CommitRequest, DiskRequest, DiskWriter, Engine, Session, SessionState,
};
use restorefs::qcow2::Compression;
use restorefs::repo::Ending;
use restorefs::store::fault::{Faults, Moment};
use restorefs::types::{DiskName, VmName};

use crate::pair::{Pair, Places};
use crate::proof::prove_disk;
use crate::world::{init, open_engine};

const CLUSTER: usize = 65_536;
const CLUSTERS: usize = 12;

/// What a client does with a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The same again.
    Repeat,
    /// What was there before, whole clusters of it.
    Restore,
    /// Nothing: its process is dead.
    Die,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    places: Places,
    after: After,
    memory_bytes: u64,
    compression: Compression,
}

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(1_795_226_400))
}

fn fill(cluster: usize, seed: u8) -> Vec<u8> {
    (0..CLUSTER)
        .map(|n| seed ^ (cluster as u8) ^ ((n / 512) as u8))
        .collect()
}

fn request(case: &Case) -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    request.compression = case.compression;
    request.disks.push(DiskRequest {
        name: vda(),
        source_bytes: Some((CLUSTERS * CLUSTER) as u64),
        key: None,
        full: false,
    });
    request
}

/// A repository with one point, and its bytes.
fn prepared(case: &Case) -> (Pair, Vec<u8>) {
    let pair = init(case.places, &clock());
    let engine = open_engine(pair.sides(), &clock(), case.memory_bytes).unwrap();
    let session = Session::begin(&engine, &request(case)).unwrap();
    let disk = session.disk(&vda()).unwrap();
    let mut bytes = vec![0; CLUSTERS * CLUSTER];
    for cluster in 0..CLUSTERS - 2 {
        bytes[cluster * CLUSTER..(cluster + 1) * CLUSTER].copy_from_slice(&fill(cluster, 200));
    }
    disk.write(0, &bytes).unwrap();
    disk.set_finished(true);
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
    (pair, bytes)
}

/// A client and its disk.
struct Client {
    disk: Arc<DiskWriter>,
    after: After,
    model: Vec<u8>,
}

impl Client {
    /// Does `run`; when it fails, does what this client does then, which must work.
    fn attempt(
        &mut self,
        at: usize,
        bytes: &[u8],
        run: impl Fn(&DiskWriter) -> Result<()>,
    ) -> Result<()> {
        let done = run(&self.disk);
        match (done, self.after) {
            (Ok(()), _) => {}
            // Nothing can be repeated: see `session_or_another`.
            (Err(e), _) if self.disk.is_unsure() => return Err(e),
            (Err(e), After::Die) => return Err(e),
            (Err(_), After::Repeat) => run(&self.disk).unwrap(),
            (Err(_), After::Restore) => {
                let first = at / CLUSTER * CLUSTER;
                let end = (at + bytes.len()).next_multiple_of(CLUSTER);
                let end = end.min(self.model.len());
                let before = self.model[first..end].to_vec();
                self.disk.write(first as u64, &before).unwrap();
                return Ok(());
            }
        }
        self.model[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        self.attempt(at, bytes, |disk| disk.write(at as u64, bytes))
    }

    fn zero(&mut self, at: usize, length: usize) -> Result<()> {
        self.attempt(at, &vec![0; length], |disk| {
            disk.zero(at as u64, length as u64)
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.again(DiskWriter::flush)
    }

    fn grow(&mut self, bytes: usize) -> Result<()> {
        self.again(|disk| disk.set_size(bytes as u64))?;
        self.model.resize(bytes, 0);
        Ok(())
    }

    fn again(&mut self, run: impl Fn(&DiskWriter) -> Result<()>) -> Result<()> {
        match run(&self.disk) {
            Err(_) if self.after != After::Die && !self.disk.is_unsure() => {
                run(&self.disk).unwrap();
                Ok(())
            }
            other => other,
        }
    }
}

/// A session with everything in it; `Err` only for a client that dies of it.
fn session(engine: &Engine, case: &Case, bytes: &[u8]) -> Result<Vec<u8>> {
    let begun = match Session::begin(engine, &request(case)) {
        Err(_) if case.after != After::Die => Session::begin(engine, &request(case)).unwrap(),
        other => other?,
    };
    let mut client = Client {
        disk: begun.disk(&vda())?,
        after: case.after,
        model: bytes.to_vec(),
    };
    let three = |seed| [fill(0, seed), fill(1, seed), fill(2, seed)].concat();
    client.write(0, &three(1))?;
    client.flush()?;
    client.write(CLUSTER, &three(2))?;
    let last = |seed| [fill(9, seed), fill(10, seed), fill(11, seed)].concat();
    client.write(9 * CLUSTER, &last(1))?;
    client.write(9 * CLUSTER, &last(2))?;
    client.zero(10 * CLUSTER, 2 * CLUSTER)?;
    client.write(10 * CLUSTER, &last(3)[CLUSTER..])?;
    client.write(5 * CLUSTER + 1024, &[7; 5000])?;
    client.zero(2 * CLUSTER, 5 * CLUSTER + 512)?;
    client.write(2 * CLUSTER, &fill(2, 3))?;
    client.write(8 * CLUSTER + 512, &[9; 70_000])?;
    client.grow((CLUSTERS + 1) * CLUSTER + 1024)?;
    client.write((CLUSTERS + 1) * CLUSTER - 512, &[5; 1536])?;
    client.flush()?;
    client.write(0, &three(4))?;
    client.zero(CLUSTER, CLUSTER)?;
    // What the parent has again.
    client.write(0, &bytes[..CLUSTER])?;
    match begun.attach("domain.xml", b"<domain/>") {
        Err(_) if case.after != After::Die => begun.attach("domain.xml", b"<domain/>").unwrap(),
        other => other?,
    }
    client.disk.set_finished(true);
    match begun.commit(&CommitRequest::default(), &|| ()) {
        Ok(_) => {}
        Err(e) if case.after == After::Die || client.disk.is_unsure() => return Err(e),
        Err(e) => match begun.state() {
            SessionState::Open => {
                begun.commit(&CommitRequest::default(), &|| ()).unwrap();
            }
            // It is in place, and only whether that is durable is not known.
            SessionState::Committed(_) => assert!(!e.report().is_empty()),
            state => panic!("{state:?}: {}", e.report()),
        },
    }
    Ok(client.model)
}

/// A session; after a failed fsync, which nothing repairs, it is aborted and another one is begun.
fn session_or_another(engine: &Engine, case: &Case, bytes: &[u8]) -> Vec<u8> {
    let failed = match session(engine, case, bytes) {
        Ok(model) => return model,
        Err(e) => e,
    };
    assert!(
        failed.kind() == ErrorKind::Io || failed.kind() == ErrorKind::NoSpace,
        "{}",
        failed.report()
    );
    let repository = engine.owner.repository();
    for name in repository.session_names(&vm()).unwrap() {
        engine.owner.remove_session(&vm(), &name).unwrap();
    }
    session(engine, case, bytes).unwrap()
}

/// What a new process finds: whole points only, the first among them, and `second` when it must be there.
fn check(pair: &Pair, case: &Case, first: &[u8], second: Option<&[u8]>) {
    let engine = open_engine(pair.sides(), &clock(), case.memory_bytes).unwrap();
    let repository = engine.owner.repository();
    let index = engine.owner.vm_snapshot(&vm()).unwrap().index;
    assert_eq!(index.points, repository.index(&vm()).unwrap().points);
    for (n, entry) in index.points.iter().enumerate() {
        let point = repository.point(&vm(), entry).unwrap();
        let bytes = prove_disk(&engine, &vm(), entry, point.disk(&vda()).unwrap());
        match (n, second) {
            (0, _) => assert!(bytes == first),
            (1, Some(second)) => {
                assert!(bytes == second);
                let attached = repository
                    .attached(&vm(), &entry.name, &point.attached[0])
                    .unwrap();
                assert_eq!(attached, b"<domain/>");
            }
            _ => {}
        }
    }
    let least = 1 + usize::from(second.is_some());
    assert!(index.points.len() >= least, "{:?}", index.points);
    // A session that is left can be gone on with, and ended.
    for name in repository.session_names(&vm()).unwrap() {
        assert!(second.is_none(), "session {name} is left");
        let session = Session::resume(&engine, &vm(), &name).unwrap();
        session.disk(&vda()).unwrap().set_finished(true);
        let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        let sidecar = repository.point(&vm(), &point).unwrap();
        prove_disk(&engine, &vm(), &point, sidecar.disk(&vda()).unwrap());
    }
    // And the next one begins.
    let next = Session::begin(&engine, &request(case));
    match next {
        Ok(session) => session.end(&Ending::aborted()).unwrap(),
        // The disk has grown meanwhile.
        Err(e) => assert_eq!(e.kind(), ErrorKind::InvalidInput, "{}", e.report()),
    }
}

/// The changes of opening, and of all.
fn count(case: &Case) -> (u64, u64) {
    let (pair, bytes) = prepared(case);
    let faults = Faults::none();
    let engine = faulty(&pair, &faults, case).unwrap();
    let opened = faults.changes();
    let model = session(&engine, case, &bytes).unwrap();
    let all = faults.changes();
    drop(engine);
    check(&pair, case, &bytes, Some(&model));
    (opened, all)
}

fn faulty(pair: &Pair, faults: &Arc<Faults>, case: &Case) -> Result<Engine> {
    open_engine(pair.faulty(faults), &clock(), case.memory_bytes)
}

fn cases(places: Places, after: After) -> Vec<Case> {
    [
        (64 << 20, Compression::None),
        (1, Compression::None),
        (64 << 20, Compression::Zstd),
    ]
    .into_iter()
    .map(|(memory_bytes, compression)| Case {
        places,
        after,
        memory_bytes,
        compression,
    })
    .collect()
}

fn fail_each_once(places: Places, after: After) {
    for case in cases(places, after) {
        let (opened, all) = count(&case);
        assert!(all - opened > 40, "{opened} of {all} changes");
        for n in opened..all {
            let kind = [ErrorKind::NoSpace, ErrorKind::Io][n as usize % 2];
            let ran = std::panic::catch_unwind(|| {
                let (pair, bytes) = prepared(&case);
                let engine = faulty(&pair, &Faults::fail_once(n, kind), &case).unwrap();
                let model = session_or_another(&engine, &case, &bytes);
                drop(engine);
                check(&pair, &case, &bytes, Some(&model));
            });
            assert!(
                ran.is_ok(),
                "{case:?}: {kind:?} at change {n} ({opened} to {all})"
            );
        }
    }
}

fn a_change_that_fails_once_is_repeated(places: Places) {
    fail_each_once(places, After::Repeat);
}

fn a_write_that_fails_can_be_taken_back(places: Places) {
    fail_each_once(places, After::Restore);
}

fn whatever_change_is_the_last_the_points_are_whole(places: Places) {
    for case in cases(places, After::Die).into_iter().take(2) {
        let (_, all) = count(&case);
        for n in 0..all {
            // Not to have done a change is to have done the one before: only the answer differs.
            let moment = [Moment::Before, Moment::After][n as usize / 2 % 2];
            let ran = std::panic::catch_unwind(|| {
                let (pair, bytes) = prepared(&case);
                let engine = faulty(&pair, &Faults::kill_at(n, moment), &case);
                let model = engine.and_then(|engine| session(&engine, &case, &bytes));
                check(&pair, &case, &bytes, model.as_deref().ok());
            });
            assert!(ran.is_ok(), "{case:?}: {moment:?} change {n} of {all}");
        }
    }
}

/// After a failed fsync the kernel may call the lost pages clean: the next fsync would succeed over them.
fn after_a_failed_fsync_nothing_is_answered_as_durable(places: Places) {
    let case = &cases(places, After::Die)[0];
    let begin_and_write = |engine: &Engine| {
        let session = Session::begin(engine, &request(case)).unwrap();
        let disk = session.disk(&vda()).unwrap();
        disk.write(0, &fill(0, 77)).unwrap();
        (session, disk)
    };
    let (pair, _) = prepared(case);
    let faults = Faults::none();
    let engine = faulty(&pair, &faults, case).unwrap();
    drop(begin_and_write(&engine));
    let before = faults.changes();
    drop(engine);

    let (pair, first) = prepared(case);
    let engine = faulty(&pair, &Faults::fail_once(before, ErrorKind::Io), case).unwrap();
    let (begun, disk) = begin_and_write(&engine);
    for _ in 0..3 {
        assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::Io);
    }
    assert!(disk.write(0, &fill(0, 78)).is_err());
    disk.set_finished(true);
    assert_eq!(
        begun
            .commit(&CommitRequest::default(), &|| ())
            .unwrap_err()
            .kind(),
        ErrorKind::Io
    );
    begun.end(&Ending::aborted()).unwrap();
    let model = session(&engine, case, &first).unwrap();
    drop((begun, disk, engine));
    check(&pair, case, &first, Some(&model));
}

over_memories!(
    a_change_that_fails_once_is_repeated,
    a_write_that_fails_can_be_taken_back,
    whatever_change_is_the_last_the_points_are_whole,
    after_a_failed_fsync_nothing_is_answered_as_durable,
);
