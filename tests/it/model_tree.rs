//! The tree against a `BTreeMap` of VMs and points: random commits by the owner, refreshes of a follower, and every name, inode,
//! size and byte compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use restorefs::block::MemoryDisk;
use restorefs::block::piece::CopySource;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::error::ErrorKind;
use restorefs::guest::fs::FileType;
use restorefs::ingest::copy::copy_into;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::repo::Repository;
use restorefs::task::Monitor;
use restorefs::tree::{Ino, Tree, TreeOptions};
use restorefs::types::{DiskName, VmName};

use crate::model_session::places;
use crate::pair::Places;
use crate::world::World;

#[derive(Debug, Clone)]
enum Op {
    /// A new point of VM number `vm` modulo 3, whose disk has this size and seed.
    Commit { vm: usize, bytes: u64, seed: u8 },
    /// The follower looks.
    Refresh,
    /// A new process begins to follow.
    Remount,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<usize>(), 1..200_000u64, any::<u8>())
            .prop_map(|(vm, bytes, seed)| Op::Commit { vm, bytes, seed }),
        3 => Just(Op::Refresh),
        1 => Just(Op::Remount),
    ];
    proptest::collection::vec(op, 1..20)
}

/// Points of a VM in order: name and bytes of the disk.
type Points = Vec<(String, Vec<u8>)>;

struct Run {
    world: World,
    /// What is in the repository.
    committed: BTreeMap<String, Points>,
    /// What the follower has seen.
    seen: BTreeMap<String, Points>,
    tree: Arc<Tree>,
    /// Every inode ever shown, by path: none may change.
    inodes: BTreeMap<String, Ino>,
}

fn follow(world: &World) -> Arc<Tree> {
    let (store, stage) = world.pair.sides();
    let repository = Arc::new(Repository::open_store(store, stage).unwrap());
    let pool = Pool::new(PoolLimits {
        layers: 4,
        memory_bytes: 1 << 20,
    });
    Tree::new(repository, pool, TreeOptions::default()).unwrap()
}

fn names(tree: &Tree, ino: Ino) -> Vec<(String, Ino)> {
    let mut names = Vec::new();
    let mut after = 0;
    // One at a time, so that every cookie is used.
    loop {
        let mut taken = None;
        tree.entries(ino, after, &mut |entry| {
            if taken.is_some() {
                return false;
            }
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            taken = Some((name, entry.ino, entry.cookie));
            true
        })
        .unwrap();
        let Some((name, ino, cookie)) = taken else {
            return names;
        };
        assert!(cookie > after);
        after = cookie;
        names.push((name, ino));
    }
}

impl Run {
    fn new(places: Places) -> Self {
        let world = World::over(places, 64 << 20);
        let tree = follow(&world);
        Self {
            world,
            committed: BTreeMap::new(),
            seen: BTreeMap::new(),
            tree,
            inodes: BTreeMap::new(),
        }
    }

    fn commit(&mut self, vm: usize, bytes: u64, seed: u8) {
        let vm = format!("vm{}", vm % 3);
        let points = self.committed.entry(vm.clone()).or_default();
        let before = points.last().map_or(0, |(_, bytes)| bytes.len() as u64);
        let length = bytes.max(before).next_multiple_of(512);
        let content: Vec<u8> = (0..length).map(|n| (n / 700) as u8 ^ seed).collect();
        let mut request = BeginRequest::new(VmName::new(vm).unwrap());
        let name = DiskName::new("vda").unwrap();
        request.disks.push(DiskRequest {
            name: name.clone(),
            source_bytes: Some(length),
            key: None,
            full: false,
        });
        let session = Session::begin(self.world.engine(), &request).unwrap();
        let disk = session.disk(&name).unwrap();
        let source = MemoryDisk::from_bytes(&content);
        copy_into(
            &session,
            &disk,
            CopySource::whole(&source),
            &Monitor::default(),
        )
        .unwrap();
        let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        self.world.clock.advance(60);
        points.push((point.name.to_string(), content));
    }

    fn refresh(&mut self) {
        let changes = self.tree.refresh().unwrap();
        let expected = self.committed != self.seen;
        assert_eq!(!changes.is_empty(), expected, "{changes:?}");
        for (vm, points) in &self.committed {
            let old = self.seen.get(vm).map_or(0, Vec::len);
            let told = match self.inodes.get(&format!("/{vm}")) {
                Some(directory) => *directory,
                None => Ino::ROOT,
            };
            if points.len() > old {
                assert!(changes.contains(&told), "{vm} in {changes:?}");
            }
        }
        self.seen = self.committed.clone();
    }

    fn know(&mut self, path: &str, ino: Ino) {
        let known = *self.inodes.entry(path.to_owned()).or_insert(ino);
        assert_eq!(known, ino, "{path}");
    }

    fn check(&mut self) {
        let tree = Arc::clone(&self.tree);
        let seen = self.seen.clone();
        let mut shown: Vec<String> = names(&tree, Ino::ROOT).into_iter().map(|n| n.0).collect();
        shown.sort();
        assert_eq!(shown, seen.keys().cloned().collect::<Vec<_>>());
        let missing = tree.lookup(Ino::ROOT, b"nobody").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        for (vm, points) in &seen {
            let directory = tree.lookup(Ino::ROOT, vm.as_bytes()).unwrap().attributes;
            assert_eq!(directory.mode, 0o700);
            self.know(&format!("/{vm}"), directory.ino);
            assert_eq!(
                tree.lookup(directory.ino, b"..").unwrap().attributes.ino,
                Ino::ROOT
            );
            let listed = names(&tree, directory.ino);
            let mut expected: Vec<&str> = points.iter().map(|(name, _)| name.as_str()).collect();
            expected.insert(0, "latest");
            assert_eq!(
                listed.iter().map(|n| n.0.as_str()).collect::<Vec<_>>(),
                expected
            );
            let latest = tree.lookup(directory.ino, b"latest").unwrap().attributes;
            assert_eq!(latest.file_type, FileType::Symlink);
            let target = tree.link_target(latest.ino).unwrap();
            assert_eq!(target, points.last().unwrap().0.as_bytes());
            self.know(
                &format!("/{vm}/latest -> {}", points.last().unwrap().0),
                latest.ino,
            );
            for (name, bytes) in points {
                let path = format!("/{vm}/{name}/disks/vda.raw");
                let disk = tree.resolve(Ino::ROOT, path.as_bytes()).unwrap().attributes;
                self.know(&path, disk.ino);
                assert_eq!(disk.size_bytes, bytes.len() as u64);
                let mut shown = vec![0; bytes.len() + 10];
                let length = tree.read(disk.ino, 0, &mut shown).unwrap();
                shown.truncate(length);
                assert!(&shown == bytes);
                let parent = tree.parent(disk.ino).unwrap();
                assert_eq!(names(&tree, parent).len(), 1);
                let info = format!("/{vm}/{name}/info.json");
                let info = tree.resolve(Ino::ROOT, info.as_bytes()).unwrap().attributes;
                let mut text = vec![0; info.size_bytes as usize + 1];
                let length = tree.read(info.ino, 0, &mut text).unwrap();
                assert_eq!(length as u64, info.size_bytes);
                let value: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
                assert_eq!(value["point"], name.as_str());
                assert_eq!(value["disks"][0]["source_bytes"], bytes.len());
            }
        }
        let unique: std::collections::BTreeSet<_> = self.inodes.values().collect();
        assert_eq!(
            unique.len(),
            self.inodes.len(),
            "an inode number is used twice"
        );
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_shows_what_was_committed(ops in ops(), places in places()) {
        let mut run = Run::new(places);
        for op in &ops {
            match *op {
                Op::Commit { vm, bytes, seed } => run.commit(vm, bytes, seed),
                Op::Refresh => run.refresh(),
                Op::Remount => {
                    run.tree = follow(&run.world);
                    run.seen = run.committed.clone();
                }
            }
            run.check();
        }
    }
}
