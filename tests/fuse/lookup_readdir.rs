//! lookup, readdir: names from the top to the guest, and that looking opens no chain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::error::Result;
use restorefs::fuse::{MountOptions, mount};
use restorefs::repo::Repository;
use restorefs::store::{
    Entry, Fingerprint, Identity, Key, LocalStore, Lock, PutMode, Space, Store,
};
use restorefs::tree::Tree;

use restorefs::clock::SystemClock;
use restorefs::daemon::probe::probe_point;
use restorefs::repo::Owner;
use restorefs::repo::selector::Which;
use restorefs::types::VmName;

use crate::kit::wait::eventually;
use crate::world::{World, names, ready, run, text, unmount};

/// Counts the layers that are opened.
struct Counting {
    inner: LocalStore,
    layers: AtomicUsize,
}

impl Store for Counting {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn put(&self, key: &Key, bytes: &[u8], mode: PutMode) -> Result<()> {
        Store::put(&self.inner, key, bytes, mode)
    }
    fn upload(&self, key: &Key, source: &dyn ReadAt, mode: PutMode) -> Result<()> {
        self.inner.upload(key, source, mode)
    }
    fn append(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.append(key, bytes)
    }
    fn make_prefix(&self, prefix: &Key) -> Result<()> {
        Store::make_prefix(&self.inner, prefix)
    }
    fn get(&self, key: &Key, bytes_max: u64) -> Result<Vec<u8>> {
        Store::get(&self.inner, key, bytes_max)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        if key.as_str().ends_with(".qcow2") {
            self.layers.fetch_add(1, Ordering::SeqCst);
        }
        Store::open(&self.inner, key)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<Entry>> {
        Store::list(&self.inner, prefix)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        Store::delete(&self.inner, key)
    }
    fn delete_all(&self, key: &Key) -> Result<()> {
        self.inner.delete_all(key)
    }
    fn sweep(&self, prefix: &Key) -> Result<()> {
        self.inner.sweep(prefix)
    }
    fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn lock(&self, key: &Key, note: &[u8]) -> Result<Box<dyn Lock>> {
        self.inner.lock(key, note)
    }
    fn lock_note(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.inner.lock_note(key)
    }
    fn identity(&self, key: &Key) -> Result<Option<Identity>> {
        self.inner.identity(key)
    }
    fn stored_bytes(&self, key: &Key) -> Result<u64> {
        self.inner.stored_bytes(key)
    }
    fn fingerprint(&self, key: &Key) -> Result<Option<Fingerprint>> {
        self.inner.fingerprint(key)
    }
    fn local_root(&self) -> Option<&std::path::Path> {
        self.inner.local_root()
    }
    fn space(&self) -> Result<Option<Space>> {
        Store::space(&self.inner)
    }
}

#[test]
fn the_tree_is_as_documented() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    assert_eq!(names(&world.at("")), ["web01"]);
    assert_eq!(names(&world.at("web01")), ["first", "latest"]);
    assert_eq!(
        names(&world.at("web01/latest/")),
        ["attached", "disks", "files", "info.json", "volumes"]
    );
    assert_eq!(
        names(&world.at("web01/first/disks")),
        ["vda.raw", "vdb.raw"]
    );
    assert_eq!(names(&world.at("web01/first/volumes")), ["vda", "vdb"]);
    // Known now, and so shown.
    eventually("volumes.json", || {
        names(&world.at("web01/latest/")).len() == 6
    });
    assert_eq!(names(&world.at("web01/first/volumes/vda")), ["part"]);
    assert_eq!(
        names(&world.at("web01/first/volumes/vda/part")),
        ["1", "1.raw", "2.raw"]
    );
    assert!(names(&world.at("web01/first/volumes/vdb")).is_empty());
    assert_eq!(names(&world.guest("many")).len(), 1500);
    for missing in [
        "web02",
        "web01/FIRST",
        "web01/first/disk",
        "web01/first/disks/vda",
    ] {
        assert!(!world.at(missing).exists(), "{missing}");
    }
    // With `..` back to the top.
    let back = world.guest("etc/../../../../../../first/info.json");
    assert!(std::fs::read(back).unwrap().len() > 100);
    unmount(&mount);
}

/// A listing that took minutes and gigabytes is what others are known for: here it opens nothing.
#[test]
fn listing_opens_no_chain() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    for n in 0..5 {
        world.commit_small("web02", &format!("p{n}"));
    }
    world.commit_small("web03", "bare");
    let store = Arc::new(Counting {
        inner: LocalStore::open(world.repository()).unwrap(),
        layers: AtomicUsize::new(0),
    });
    let stage = Arc::new(LocalStore::open(world.repository()).unwrap());
    let repository = Arc::new(Repository::open_store(store.clone(), stage).unwrap());
    let options = MountOptions::default();
    let pool = Pool::new(PoolLimits::default());
    let tree = Tree::new(repository, pool, options.tree_options(0, 0, false)).unwrap();
    let mounted = mount(&tree, &world.path("mnt"), &options).unwrap();
    let opened = || store.layers.load(Ordering::SeqCst);
    run("ls", &["-laR", text(&world.at("web02/"))]);
    assert!(opened() > 0, "volumes/ is scanned when it is entered");
    store.layers.store(0, Ordering::SeqCst);
    run("ls", &["-la", text(&world.at(""))]);
    run("ls", &["-la", text(&world.at("web01"))]);
    run("ls", &["-a", text(&world.at("web01/first/"))]);
    run("ls", &["-la", text(&world.at("web01/latest/disks"))]);
    run("du", &["-s", text(&world.at("web01/first/disks"))]);
    std::fs::read(world.at("web01/first/info.json")).unwrap();
    assert_eq!(opened(), 0);
    // Once the state has what an earlier look has found, the tops of the guest's trees are known, too.
    keep_volumes(&world, "web01");
    // Of a point without any filesystem, too.
    keep_volumes(&world, "web03");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    run("ls", &["-laL", text(&world.at("web01/first/"))]);
    run("ls", &["-laL", text(&world.at("web03/bare/"))]);
    let volumes = std::fs::read_to_string(world.at("web01/first/volumes.json")).unwrap();
    assert!(volumes.contains("\"path\": \"vda/part/1\""), "{volumes}");
    assert_eq!(opened(), 0);
    std::fs::read(world.at("web01/first/disks/vdb.raw")).unwrap();
    assert!(opened() > 0);
    unmount(&mounted);
}

/// What the owner does in the background after a commit.
fn keep_volumes(world: &World, vm: &str) {
    let repository = Arc::new(Repository::open(&world.repository()).unwrap());
    let owner = Owner::open(Arc::clone(&repository), Arc::new(SystemClock), "test").unwrap();
    let tree = world.tree(&MountOptions::default());
    let point = tree
        .point(&VmName::new(vm).unwrap(), &Which::Latest(0))
        .unwrap();
    probe_point(&tree, &owner, &point).unwrap();
}

#[test]
fn many_threads_may_list_and_look() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(names(&world.guest("many")).len(), 1500);
                for n in (0..1500).step_by(37) {
                    let path = world.guest(&format!("many/a-file-of-number-{n}"));
                    assert_eq!(std::fs::read_to_string(path).unwrap(), n.to_string());
                    assert!(!world.guest(&format!("many/no-{n}")).exists());
                }
            });
        }
    });
    unmount(&mount);
}
