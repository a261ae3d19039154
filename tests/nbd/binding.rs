//! Which disk a connection writes, and on which thread it waits for it.

use std::sync::{Arc, Condvar, Mutex};

use restorefs::block::{Extent, MemoryDisk, ReadAt, WriteAt};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::error::{Error, Result};
use restorefs::ingest::{BeginRequest, DiskRequest, DiskWriter, Engine, Session};
use restorefs::nbd::server::{
    Caller, Content, Export, ExportInfo, Exports, Guests, Server, ServerLimits, Service,
};
use restorefs::repo::{Ending, Owner, Repository};
use restorefs::store::{Entry, HeldFile, Key, MemoryStore, PutMode, Space, Stage};
use restorefs::types::DiskName;
use tokio::sync::watch;

use crate::kit::wait::eventually;
use crate::raw::{DISC, READ, Raw, STATUS, WRITE};
use crate::world::{World, vm};

const CLUSTER: u64 = 65_536;
const SIZE: u64 = 4 * CLUSTER;
const EINVAL: u32 = 22;

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// Chooses `base:allocation` for an export, and leaves the export to be chosen.
fn choose_contexts(raw: &mut Raw, name: &[u8]) {
    raw.option(8, &[]);
    assert_eq!(raw.answer(8), (1, Vec::new()));
    raw.option(10, &[name, b"\0\0\0\x01\0\0\0\x0fbase:allocation"].concat());
    assert_eq!(raw.answer(10).0, 4);
    assert_eq!(raw.answer(10).0, 1);
}

fn named(export: &str) -> Vec<u8> {
    [&(export.len() as u32).to_be_bytes()[..], export.as_bytes()].concat()
}

fn go(raw: &mut Raw, name: &[u8]) {
    raw.option(7, &[name, b"\0\x01\0\x03"].concat());
    while raw.answer(7).0 == 3 {}
}

/// A disk beside `vda`, with room for as much.
fn beside(session: &Arc<Session>) -> Arc<DiskWriter> {
    let beside = session.create_file(&vda(), Some(".vda.raw.x")).unwrap();
    beside.write_growing(0, &[2; SIZE as usize]).unwrap();
    beside
}

/// The contexts are those of the disk that was asked about. The export is the one that has the name when it is chosen: if that is another
/// disk, it has no contexts, as if they had been asked for under another name.
#[test]
fn contexts_are_of_the_disk_that_is_written_or_of_none() {
    type Change = fn(&Arc<Session>);
    let changes: [(&str, bool, Change); 4] = [
        ("nothing", true, |_| {}),
        ("another disk beside it", true, |session| {
            drop(beside(session))
        }),
        ("replaced", false, |session| {
            session.replace(&beside(session)).unwrap();
        }),
        ("removed and made anew", false, |session| {
            session.unlink(&session.disk(&vda()).unwrap()).unwrap();
            let new = session.create_file(&vda(), None).unwrap();
            new.write_growing(0, &[2; SIZE as usize]).unwrap();
        }),
    ];
    let world = World::new();
    for (n, (what, is_same, change)) in changes.into_iter().enumerate() {
        let session_name = format!("s{n}");
        let (session, first) = world.begin(&session_name, SIZE);
        let name = named(&format!("web01/{session_name}/vda"));
        let mut raw = Raw::greeted(&world.socket());
        choose_contexts(&mut raw, &name);
        change(&session);
        go(&mut raw, &name);
        let said = raw.ask(0, STATUS, 0, CLUSTER as u32);
        assert_eq!(said.error, if is_same { 0 } else { EINVAL }, "{what}");
        raw.request(0, WRITE, 7, 0, CLUSTER as u32);
        raw.say(&[5; CLUSTER as usize]);
        assert_eq!(raw.reply().error, 0, "{what}");
        let now = session.disk(&vda()).unwrap();
        assert_eq!(Arc::ptr_eq(&first, &now), is_same, "{what}");
        let mut written = vec![0; CLUSTER as usize];
        now.read_at(0, &mut written).unwrap();
        assert_eq!(written, [5; CLUSTER as usize], "{what}");
        raw.request(0, DISC, 8, 0, 0);
        session.end(&Ending::aborted()).unwrap();
    }
}

/// Holds fsyncs back while it is shut.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many wait.
    state: Mutex<(bool, u32)>,
    opened: Condvar,
}

impl Gate {
    fn set_shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.opened.notify_all();
    }

    fn waiting(&self) -> u32 {
        self.state.lock().unwrap().1
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        let mut state = self.opened.wait_while(state, |state| state.0).unwrap();
        state.1 -= 1;
    }
}

struct GatedFile(Arc<dyn WriteAt>, Arc<Gate>);

impl ReadAt for GatedFile {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.0.extent_at(offset, length_max)
    }
}

impl WriteAt for GatedFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.0.write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.1.pass();
        self.0.flush()
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.0.set_size(size_bytes)
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.0.punch(offset, length_bytes)
    }
}

/// A stage whose files are synced through a gate.
struct GatedStage(Arc<MemoryStore>, Arc<Gate>);

impl Stage for GatedStage {
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        self.0.make_prefix(prefix)
    }
    fn create(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        let file = self.0.create(key)?;
        Ok(Arc::new(GatedFile(file, Arc::clone(&self.1))))
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn WriteAt>> {
        let file = Stage::open(&*self.0, key)?;
        Ok(Arc::new(GatedFile(file, Arc::clone(&self.1))))
    }
    fn hold_file(&self, key: &Key) -> Result<Option<Box<dyn HeldFile>>> {
        self.0.hold_file(key)
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        Stage::put(&*self.0, key, bytes, mode)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        Stage::get(&*self.0, key, bytes_max)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        Stage::list(&*self.0, prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        Stage::delete(&*self.0, key)
    }
    fn publish(&self, from: &Key, to: &Key, mode: PutMode) -> Result<()> {
        self.0.publish(from, to, mode)
    }
    fn reclaim(&self, published: &Key, own: &Key) -> Result<()> {
        self.0.reclaim(published, own)
    }
    fn space(&self) -> Result<Option<Space>> {
        Stage::space(&*self.0)
    }
    fn publish_prefix(&self, from: &Key, to: &Key, last: &str) -> Result<()> {
        self.0.publish_prefix(from, to, last)
    }
    fn sync_prefix(&self, prefix: &Key) -> Result<()> {
        self.0.sync_prefix(prefix)
    }
}

/// A session's disk `w`, and a disk `r` to read.
struct Two(Arc<Session>, Arc<DiskWriter>);

impl Exports for Two {
    fn list(&self, _: &Caller, _: usize) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, name: &str, _: &Caller) -> Result<Export> {
        let content = match name {
            "w" => Content::Write {
                session: Arc::clone(&self.0),
                disk: Arc::clone(&self.1),
            },
            "r" => Content::Read(Arc::new(MemoryDisk::from_bytes(&[7; CLUSTER as usize]))),
            _ => return Err(Error::not_found("no such export")),
        };
        Ok(Export {
            content,
            description: String::new(),
            contexts: None,
        })
    }
}

/// A disk is finished by its writer's goodbye. Who writes it again has to wait until its log does not say so any more; clients of the same
/// thread do not.
#[test]
fn an_fsync_that_hangs_holds_up_its_own_connection_only() {
    let (store, gate) = (Arc::new(MemoryStore::new()), Arc::new(Gate::default()));
    let stage = Arc::new(GatedStage(Arc::clone(&store), Arc::clone(&gate)));
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let repository = Repository::init_store(store, stage, clock.now()).unwrap();
    let owner = Owner::open(Arc::new(repository), clock, "test").unwrap();
    let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
    let mut request = BeginRequest::new(vm());
    request.disks = vec![DiskRequest {
        name: vda(),
        source_bytes: Some(SIZE),
        key: None,
        full: false,
    }];
    let session = Session::begin(&engine, &request).unwrap();
    let disk = session.disk(&vda()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let exports = Arc::new(Two(Arc::clone(&session), Arc::clone(&disk)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = {
        let _inside = runtime.enter();
        let service = Service::new(exports, ServerLimits::default());
        Server::bind_unix(&socket, Guests::Group, &service).unwrap()
    };
    let serving = std::thread::spawn(move || runtime.block_on(server.run(stopped)));

    let write = |raw: &mut Raw, byte: u8| {
        raw.request(0, WRITE, 1, 0, CLUSTER as u32);
        raw.say(&[byte; CLUSTER as usize]);
    };
    let mut first = Raw::open(&socket, "w");
    write(&mut first, 1);
    assert_eq!(first.reply().error, 0);
    first.request(0, DISC, 2, 0, 0);
    assert!(first.is_hung_up());
    eventually("the disk is finished", || disk.is_finished());
    eventually("nothing is synced any more", || gate.waiting() == 0);

    gate.set_shut(true);
    let mut again = Raw::open(&socket, "w");
    write(&mut again, 2);
    eventually("its log is synced", || gate.waiting() > 0);
    let mut other = Raw::open(&socket, "r");
    assert_eq!(other.ask(0, READ, 0, 512).error, 0);
    assert!(gate.waiting() > 0);
    gate.set_shut(false);
    assert_eq!(again.reply().error, 0);
    assert!(!disk.is_finished());

    stop.send(true).unwrap();
    serving.join().unwrap();
}
