//! What a clean end spares the next owner, and what it never hides: every VM that does not look as it was left is looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::repo::{Owner, Repository};
use restorefs::types::{DiskName, PointName, VmName};

const VMS: [&str; 3] = ["db01", "mail", "web01"];

struct House {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

fn name(text: &str) -> VmName {
    VmName::new(text).unwrap()
}

impl House {
    /// A copy of the repository as it is now, made by cp(1).
    fn copy(&self) -> PathBuf {
        let copy = self.dir.path().join("copy");
        let copied = std::process::Command::new("cp")
            .args(["-a"])
            .args([self.path(), copy.clone()])
            .status();
        assert!(copied.unwrap().success());
        copy
    }

    /// A repository whose three VMs have two points each, and whose owner has ended well.
    fn new() -> Self {
        let house = Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(1_795_226_400)),
        };
        Repository::init(&house.path(), house.clock.now()).unwrap();
        let engine = house.open(&house.path());
        for vm in VMS {
            for point in ["one", "two"] {
                house.commit(&engine, vm, point);
            }
        }
        house
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn vm(&self, vm: &str) -> PathBuf {
        self.path().join("vms").join(vm)
    }

    fn open(&self, path: &Path) -> Engine {
        let repository = Arc::new(Repository::open(path).unwrap());
        let owner = Owner::open(repository, self.clock.clone(), "test").unwrap();
        Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()))
    }

    fn begin(&self, engine: &Engine, vm: &str, point: &str) -> Arc<Session> {
        self.clock.advance(60);
        let mut request = BeginRequest::new(name(vm));
        request.point = Some(PointName::new(point).unwrap());
        request.resumable = false;
        request.disks.push(DiskRequest {
            name: DiskName::new("vda").unwrap(),
            source_bytes: Some(1 << 20),
            key: None,
            full: false,
        });
        let session = Session::begin(engine, &request).unwrap();
        let disk = session.disk(&DiskName::new("vda").unwrap()).unwrap();
        disk.write(0, &[u8::try_from(point.len()).unwrap(); 65_536])
            .unwrap();
        disk.set_finished(true);
        session
    }

    fn commit(&self, engine: &Engine, vm: &str, point: &str) {
        let session = self.begin(engine, vm, point);
        session.commit(&CommitRequest::default(), &|| ()).unwrap();
    }
}

/// VMs that an owner looks at when it opens the repository: of the others nothing is known to it but the name.
fn looked_at(engine: &Engine) -> Vec<String> {
    let names = engine.owner.vms_with_sessions();
    names.iter().map(ToString::to_string).collect()
}

fn points(engine: &Engine, vm: &str) -> Vec<(String, u32)> {
    let index = engine.owner.vm_snapshot(&name(vm)).unwrap().index;
    let points = index.points.iter().map(|p| (p.name.to_string(), p.serial));
    points.collect()
}

#[test]
fn after_a_clean_end_a_vm_is_looked_at_when_it_is_asked_for() {
    let house = House::new();
    let engine = house.open(&house.path());
    assert!(looked_at(&engine).is_empty());
    assert_eq!(engine.owner.vm_names(), VMS.map(name));
    house.commit(&engine, "mail", "three");
    assert_eq!(looked_at(&engine), ["mail"]);
    drop(engine);
    let engine = house.open(&house.path());
    assert!(looked_at(&engine).is_empty());
    let all: Vec<u32> = VMS
        .iter()
        .flat_map(|vm| points(&engine, vm))
        .map(|(_, serial)| serial)
        .collect();
    assert_eq!(all.len(), 7);
    // The serials of VMs that nobody has looked at are not given again.
    let engine = {
        drop(engine);
        house.open(&house.path())
    };
    house.commit(&engine, "new", "one");
    let (_, serial) = points(&engine, "new")[0];
    assert!(all.iter().all(|old| *old < serial), "{serial}: {all:?}");
}

#[test]
fn after_a_crash_all_are_looked_at_and_nothing_is_left_of_what_it_was_at() {
    let house = House::new();
    let engine = house.open(&house.path());
    let session = house.begin(&engine, "mail", "three");
    // A process that is killed runs no destructor, and its lock is gone.
    let copy = house.copy();
    drop((session, engine));
    let engine = house.open(&copy);
    assert_eq!(looked_at(&engine), VMS);
    let left = |dir: &str| {
        let all = std::fs::read_dir(copy.join("vms/mail").join(dir)).unwrap();
        all.count()
    };
    assert_eq!((left("points"), left("layers")), (2, 4));
}

#[test]
fn a_copy_is_no_original() {
    let house = House::new();
    let copy = house.copy();
    assert_eq!(looked_at(&house.open(&copy)), VMS);
    // Its own end is as good as the original's.
    assert!(looked_at(&house.open(&copy)).is_empty());
    assert!(looked_at(&house.open(&house.path())).is_empty());
}

/// An old catalog over what has gone on since: it hides no point, and gives no serial again.
#[test]
fn an_older_catalog_is_found_out() {
    let house = House::new();
    let [catalog, old] = ["catalog.redb", "old"].map(|file| house.path().join(file));
    std::fs::copy(&catalog, &old).unwrap();
    let engine = house.open(&house.path());
    house.commit(&engine, "web01", "three");
    let before = points(&engine, "web01");
    drop(engine);
    std::fs::rename(&old, &catalog).unwrap();
    let engine = house.open(&house.path());
    assert_eq!(looked_at(&engine), ["web01"]);
    assert_eq!(points(&engine, "web01"), before);
    house.commit(&engine, "db01", "three");
    let (_, serial) = points(&engine, "db01").pop().unwrap();
    assert!(before.iter().all(|(_, old)| *old < serial));
}

/// What the owner lists: names and serials of a VM's points.
fn listed(engine: &Engine, vm: &str) -> Vec<(String, u32)> {
    let index = engine.owner.index(&name(vm)).unwrap();
    let points = index.points.iter().map(|p| (p.name.to_string(), p.serial));
    points.collect()
}

/// What `index.json` and `points/` have, read without an owner.
fn on_disk(path: &Path, vm: &str) -> Vec<(String, u32)> {
    let index = Repository::open(path).unwrap().index(&name(vm)).unwrap();
    let points = index.points.iter().map(|p| (p.name.to_string(), p.serial));
    points.collect()
}

#[test]
fn the_owner_lists_out_of_the_catalog_what_looks_as_it_was_left() {
    let house = House::new();
    let engine = house.open(&house.path());
    for vm in VMS {
        let index = engine.owner.index(&name(vm)).unwrap();
        assert_eq!(index, engine.owner.repository().index(&name(vm)).unwrap());
    }
    // No VM was looked at for it.
    assert!(looked_at(&engine).is_empty());
    house.commit(&engine, "mail", "three");
    assert_eq!(listed(&engine, "mail").len(), 3);
    let error = engine.owner.index(&name("nobody")).unwrap_err();
    assert_eq!(error.kind(), restorefs::error::ErrorKind::NotFound);
}

/// Catalogs that know less than there is: an older one of the same repository, and one of a copy that went on by itself.
#[test]
fn a_stale_or_a_copied_catalog_hides_no_point_from_the_owner() {
    let house = House::new();
    let copy = house.copy();
    let old = house.dir.path().join("old");
    std::fs::copy(house.path().join("catalog.redb"), &old).unwrap();
    // Both go on, with other points in other VMs, and end well.
    let engine = house.open(&house.path());
    house.commit(&engine, "web01", "three");
    house.commit(&engine, "db01", "three");
    drop(engine);
    let engine = house.open(&copy);
    house.commit(&engine, "mail", "four");
    drop(engine);
    for other in [old, copy.join("catalog.redb")] {
        std::fs::copy(&other, house.path().join("catalog.redb")).unwrap();
        let engine = house.open(&house.path());
        for (vm, count) in [("db01", 3), ("mail", 2), ("web01", 3)] {
            let points = listed(&engine, vm);
            assert_eq!(points.len(), count, "{other:?} {vm}");
            assert_eq!(points, on_disk(&house.path(), vm), "{other:?} {vm}");
        }
    }
}

/// Somebody changes a VM by hand while the owner holds the lock and has not looked at it.
#[test]
fn what_comes_and_goes_beside_the_owner_is_listed_as_it_is() {
    let house = House::new();
    let engine = house.open(&house.path());
    let away = house.dir.path().join("two");
    assert_eq!(listed(&engine, "db01").len(), 2);
    // Beyond what an older kernel's clock tells apart.
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::rename(house.vm("db01").join("points/two"), &away).unwrap();
    assert_eq!(listed(&engine, "db01").len(), 1);
    let index = house.vm("web01").join("index.json");
    std::fs::remove_file(&index).unwrap();
    assert_eq!(listed(&engine, "web01").len(), 2);
}

#[test]
fn what_others_have_changed_meanwhile_is_looked_at() {
    let house = House::new();
    // Beyond what an older kernel's clock tells apart.
    std::thread::sleep(std::time::Duration::from_millis(20));
    // By hand: a point is gone, a file lies among the layers, an index is an older one.
    std::fs::remove_dir_all(house.vm("db01").join("points/two")).unwrap();
    std::fs::write(house.vm("mail").join("layers/x"), "x").unwrap();
    let index = house.vm("web01").join("index.json");
    let text = std::fs::read(&index).unwrap();
    std::fs::write(&index, text).unwrap();
    let engine = house.open(&house.path());
    assert_eq!(looked_at(&engine), VMS);
    let left = points(&engine, "db01");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, "one");
}

/// A session that goes on is found again; a damaged VM is looked at each time.
#[test]
fn sessions_and_damage_are_seen_each_time() {
    let house = House::new();
    let engine = house.open(&house.path());
    let mut request = BeginRequest::new(name("mail"));
    request.empty = true;
    let session = Session::begin(&engine, &request).unwrap();
    session.suspend().unwrap();
    drop((session, engine));
    let engine = house.open(&house.path());
    assert_eq!(looked_at(&engine), ["mail"]);
    drop(engine);
    std::fs::remove_file(house.vm("web01").join("vm.json")).unwrap();
    for _ in 0..2 {
        let engine = house.open(&house.path());
        let error = engine.owner.vm(&name("web01")).unwrap_err();
        assert_eq!(error.kind(), restorefs::error::ErrorKind::Corrupt);
        assert_eq!(engine.owner.vm_names(), ["db01", "mail"].map(name));
    }
}
