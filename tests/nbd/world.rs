//! A repository with a server over it, in this process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::kit::wait::eventually;
use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::error::{Error, Result};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, DiskWriter, Engine, Session};
use restorefs::nbd::proto::uri::Uri;
use restorefs::nbd::server::{
    Caller, Content, Export, ExportInfo, Exports, Guests, Server, ServerLimits, Service,
};
use restorefs::point::ChainSource;
use restorefs::repo::selector::Which;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::{Owner, Repository};
use restorefs::types::{DiskName, PointName, VmName};
use tempfile::TempDir;
use tokio::sync::watch;

/// What is served.
pub(crate) struct Catalog {
    engine: Engine,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    others: Mutex<BTreeMap<String, Arc<dyn ReadAt>>>,
}

fn read(disk: Arc<dyn ReadAt>) -> Export {
    Export {
        content: Content::Read(disk),
        description: "a disk".to_owned(),
        contexts: None,
    }
}

impl Exports for Catalog {
    fn list(&self, _caller: &Caller, most: usize) -> Vec<ExportInfo> {
        let mut all = Vec::new();
        for (name, session) in &*self.sessions.lock().unwrap() {
            for disk in session.disks() {
                all.push(ExportInfo {
                    name: format!("{}/{name}/{}", session.vm(), disk.meta().name),
                    description: "a session".to_owned(),
                });
            }
        }
        for name in self.others.lock().unwrap().keys() {
            all.push(ExportInfo {
                name: name.clone(),
                description: format!("the disk {name}"),
            });
        }
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, _caller: &Caller) -> Result<Export> {
        if let Some(disk) = self.others.lock().unwrap().get(name) {
            return Ok(read(Arc::clone(disk)));
        }
        let parts: Vec<&str> = name.split('/').collect();
        let [vm, point, disk] = parts[..] else {
            return Err(Error::not_found(format!("there is no export {name:?}")));
        };
        let disk = DiskName::new(disk)?;
        if let Some(session) = self.sessions.lock().unwrap().get(point) {
            return Ok(Export {
                content: Content::Write {
                    session: Arc::clone(session),
                    disk: session.disk(&disk)?,
                },
                description: String::new(),
                contexts: None,
            });
        }
        let vm = VmName::new(vm)?;
        let entry = self.engine.owner.vm_snapshot(&vm)?;
        let found = point.parse::<Which>()?.find(&entry.index)?.clone();
        let sidecar = self.engine.owner.repository().point(&vm, &found)?;
        let disk = sidecar
            .disk(&disk)
            .ok_or_else(|| Error::not_found("there is no such disk"))?;
        let source = ChainSource::new(self.engine.owner.repository(), &vm, entry.vm.vm_id, true);
        Ok(read(Arc::new(
            source.open_disk(&self.engine.pool, &disk.layer)?,
        )))
    }
}

/// The repository, the server, and what belongs to them.
pub(crate) struct World {
    dir: TempDir,
    clock: Arc<ManualClock>,
    pub(crate) catalog: Arc<Catalog>,
    runtime: Option<tokio::runtime::Runtime>,
    stop: watch::Sender<bool>,
    served: Option<tokio::task::JoinHandle<()>>,
}

pub(crate) fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(ServerLimits::default())
    }

    pub(crate) fn with(limits: ServerLimits) -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let repository = Repository::init(&dir.path().join("repo"), clock.now()).unwrap();
        let owner = Owner::open(Arc::new(repository), clock.clone(), "test").unwrap();
        let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
        let catalog = Arc::new(Catalog {
            engine,
            sessions: Mutex::default(),
            others: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let exports: Arc<dyn Exports> = Arc::clone(&catalog) as Arc<dyn Exports>;
        let entered = runtime.enter();
        let server = Server::bind_unix(
            &dir.path().join("nbd.sock"),
            Guests::Group,
            &Service::new(exports, limits),
        )
        .unwrap();
        drop(entered);
        let served = runtime.spawn(server.run(stopped));
        Self {
            dir,
            clock,
            catalog,
            runtime: Some(runtime),
            stop,
            served: Some(served),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("nbd.sock")
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        Uri::unix(self.socket(), export).to_string()
    }

    /// Serves something else as well.
    pub(crate) fn add(&self, name: &str, disk: Arc<dyn ReadAt>) {
        let mut others = self.catalog.others.lock().unwrap();
        others.insert(name.to_owned(), disk);
    }

    /// Begins a session of one disk, `vda`.
    pub(crate) fn begin(&self, name: &str, size_bytes: u64) -> (Arc<Session>, Arc<DiskWriter>) {
        self.clock.advance(3600);
        let mut request = BeginRequest::new(vm());
        request.session = Some(PointName::new(name).unwrap());
        request.disks = vec![DiskRequest {
            name: DiskName::new("vda").unwrap(),
            source_bytes: Some(size_bytes),
            key: None,
            full: false,
        }];
        let session = Session::begin(&self.catalog.engine, &request).unwrap();
        let mut sessions = self.catalog.sessions.lock().unwrap();
        sessions.insert(name.to_owned(), Arc::clone(&session));
        let disk = session.disk(&DiskName::new("vda").unwrap()).unwrap();
        (session, disk)
    }

    /// Commits once the last goodbye has been heard.
    pub(crate) fn commit(&self, name: &str) -> PointEntry {
        let session = self.catalog.sessions.lock().unwrap().remove(name).unwrap();
        for disk in session.disks() {
            eventually("the disk is finished", || disk.is_finished());
        }
        session.commit(&CommitRequest::default(), &|| ()).unwrap()
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.stop.send(true).unwrap_or_default();
        if let (Some(runtime), Some(served)) = (&self.runtime, self.served.take()) {
            runtime.block_on(served).unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}
