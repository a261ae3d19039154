//! A begin whose files are slow to make: the VM's commits, forgets and listings do not wait for it, and its parent
//! stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use restorefs::block::WriteAt;
use restorefs::clock::ManualClock;
use restorefs::error::{Error, ErrorKind, Result};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::repo::Forgetting;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::store::{Entry, HeldFile, Key, PutMode, Space, Stage};
use restorefs::types::{DiskName, PointName, VmName};

use crate::pair::Places;
use crate::world::{init, open_engine, read_all};

const SIZE: u64 = 1 << 20;
/// LIMIT: for a test that fails: what waits for the begin is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stops the first call to a file whose name has this end, until it is let go.
struct Gate {
    ending: &'static str,
    is_armed: AtomicBool,
    reached: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Gate {
    fn pass(&self, key: &Key) {
        if key.as_str().ends_with(self.ending) && self.is_armed.swap(false, Ordering::SeqCst) {
            self.reached.send(()).unwrap();
            // An error: the test has ended.
            let _ = self.go.lock().unwrap().recv();
        }
    }
}

struct GatedStage(Arc<dyn Stage>, Arc<Gate>);

impl Stage for GatedStage {
    fn is_separate(&self) -> bool {
        self.0.is_separate()
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.0.make_prefix(prefix)
    }
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.1.pass(key);
        self.0.create(key)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        self.0.open(key)
    }
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        self.0.hold_file(key)
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.1.pass(key);
        self.0.put(key, bytes, mode)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        self.0.get(key, bytes_max)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        self.0.list(prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.0.delete(key)
    }
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        self.0.publish(from, to, mode)
    }
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        self.0.reclaim(published, own)
    }
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        self.0.publish_prefix(from, to, last)
    }
    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.0.sync_prefix(prefix)
    }
    fn space(&self) -> Result<Option<Space>> {
        self.0.space()
    }
}

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn name(text: &str) -> PointName {
    PointName::new(text).unwrap()
}

fn request(session: &str, full: bool) -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    request.session = Some(name(session));
    request.disks.push(DiskRequest {
        name: vda(),
        source_bytes: Some(SIZE),
        key: None,
        full,
    });
    request
}

fn beside(session: &str) -> BeginRequest {
    BeginRequest {
        parent: Some("latest".parse().unwrap()),
        ..request(session, false)
    }
}

fn write(session: &Session, fill: u8) {
    let disk = session.disk(&vda()).unwrap();
    disk.write(0, &[fill; SIZE as usize]).unwrap();
    disk.set_finished(true);
}

fn commit(session: &Session, point: &str) -> PointEntry {
    let request = CommitRequest {
        point: Some(name(point)),
        ..CommitRequest::default()
    };
    session.commit(&request, &|| ()).unwrap()
}

fn kept(forgetting: &Forgetting) -> &Error {
    assert!(forgetting.forgotten.is_empty());
    &forgetting.kept.first().unwrap().1
}

/// What must not wait for the begin that hangs.
fn beside_it(engine: &Engine, other: &Session) {
    let owner = &engine.owner;
    assert_eq!(owner.vm_snapshot(&vm()).unwrap().index.points.len(), 2);
    assert_eq!(owner.index(&vm()).unwrap().points.len(), 2);
    // Its parent stays, another point goes with its layer.
    let forgetting = owner.forget_points(&vm(), &[name("two")]).unwrap();
    let error = kept(&forgetting);
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.report());
    let layers = Key::parse("vms/web01/layers").unwrap();
    let published = || {
        let entries = owner.repository().store().list(&layers).unwrap();
        let sealed = |entry: &&Entry| entry.name.ends_with(".qcow2");
        entries.iter().filter(sealed).count()
    };
    assert_eq!(published(), 2);
    let forgetting = owner.forget_points(&vm(), &[name("one")]).unwrap();
    assert_eq!(forgetting.forgotten, [name("one")]);
    assert_eq!(published(), 1);
    // It is a session already: nobody else takes its name, begins without a parent, or removes the VM.
    let refused = |request: &BeginRequest| Session::begin(engine, request).map(drop).unwrap_err();
    assert_eq!(refused(&request("next", false)).kind(), ErrorKind::Busy);
    assert_eq!(refused(&beside("slow")).kind(), ErrorKind::AlreadyExists);
    assert_eq!(owner.remove_vm(&vm()).unwrap_err().kind(), ErrorKind::Busy);
    write(other, 3);
    commit(other, "three");
}

fn a_begin_that_hangs_holds_up_nobody_and_keeps_its_parent(places: Places) {
    for ending in [".open", "session.json"] {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let pair = init(places, &clock);
        let (store, stage) = pair.sides();
        let (reached, is_reached) = channel();
        let (go, gone) = channel();
        let gate = Arc::new(Gate {
            ending,
            is_armed: false.into(),
            reached,
            go: Mutex::new(gone),
        });
        let stage = Arc::new(GatedStage(stage, Arc::clone(&gate)));
        let engine = open_engine((store, stage), &clock, 64 << 20).unwrap();
        for (n, point) in [(1, "one"), (2, "two")] {
            let session = Session::begin(&engine, &request("s", true)).unwrap();
            write(&session, n);
            commit(&session, point);
            clock.advance(60);
        }
        let other = Session::begin(&engine, &beside("other")).unwrap();
        gate.is_armed.store(true, Ordering::SeqCst);
        let begin = {
            let engine = engine.clone();
            std::thread::spawn(move || Session::begin(&engine, &beside("slow")))
        };
        is_reached.recv_timeout(PATIENCE).expect("nothing is made");
        let (done, is_done) = channel();
        let work = {
            let engine = engine.clone();
            std::thread::spawn(move || {
                beside_it(&engine, &other);
                done.send(()).unwrap();
            })
        };
        let waited = is_done.recv_timeout(PATIENCE);
        go.send(()).unwrap();
        work.join().unwrap();
        let session = begin.join().unwrap().unwrap();
        waited.expect("it was waited for");

        // From here on the session itself keeps its parent, for this process and the next one.
        let two = name("two");
        let forgetting = engine.owner.forget_points(&vm(), &[two]).unwrap();
        assert_eq!(kept(&forgetting).kind(), ErrorKind::Busy);
        assert!(kept(&forgetting).report().contains("web01/slow"));
        assert_eq!(session.sidecar().parent.unwrap().name, name("two"));
        let disk = session.disk(&vda()).unwrap();
        assert!(read_all(disk.as_ref()) == vec![2; SIZE as usize]);
        disk.write(0, &[4; 65_536]).unwrap();
        disk.set_finished(true);
        commit(&session, "four");
        let points = engine.owner.index(&vm()).unwrap().points;
        let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["two", "three", "four"], "{ending}");
    }
}

/// A begin that fails after its parent was chosen leaves nothing that keeps it.
fn a_begin_that_fails_keeps_nothing(places: Places) {
    use restorefs::store::fault::Faults;
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let pair = init(places, &clock);
    let engine = open_engine(pair.sides(), &clock, 64 << 20).unwrap();
    let session = Session::begin(&engine, &request("s", true)).unwrap();
    write(&session, 1);
    commit(&session, "one");
    drop((session, engine));
    let count = {
        let faults = Faults::none();
        let pair = pair.snapshot();
        let engine = open_engine(pair.faulty(&faults), &clock, 64 << 20).unwrap();
        let before = faults.changes();
        Session::begin(&engine, &request("t", false)).unwrap();
        before..faults.changes()
    };
    let mut failed = 0;
    for n in count {
        let pair = pair.snapshot();
        let faults = Faults::fail_once(n, ErrorKind::Io);
        let engine = open_engine(pair.faulty(&faults), &clock, 64 << 20).unwrap();
        if Session::begin(&engine, &request("t", false)).is_ok() {
            continue;
        }
        failed += 1;
        let forgetting = engine.owner.forget_points(&vm(), &[name("one")]).unwrap();
        assert_eq!(forgetting.forgotten, [name("one")], "change {n}");
    }
    assert!(failed >= 4, "{failed}");
}

over_memories!(
    a_begin_that_hangs_holds_up_nobody_and_keeps_its_parent,
    a_begin_that_fails_keeps_nothing,
);
