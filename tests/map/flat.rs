//! Flat disks and passthrough, on a real XFS: the bytes are those of the buffered path, whatever is removed, merged, forgotten, killed
//! or full meanwhile; and each fallback tells its reason.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use restorefs::chain::{Pool, PoolLimits};
use restorefs::error::ErrorKind;
use restorefs::point::FlatDisks;
use restorefs::repo::Repository;
use restorefs::repo::selector::Which;
use restorefs::tree::TreeOptions;
use restorefs::types::{DiskName, PointName, VmName};
use serde_json::Value;

use crate::kit::chance::Chance;
use crate::kit::need::{has_all, need};
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::world::{Mount, Running, read_device, ready, run, text};

const CLUSTER: usize = 65_536;
const XFS_BYTES: u64 = 320 << 20;

/// A mounted XFS. A process that has just been unmounted may hold files there for a moment.
struct Xfs(Option<Mount>);

impl Drop for Xfs {
    fn drop(&mut self) {
        if let Some(mount) = self.0.take() {
            let unmount = || {
                Command::new("umount")
                    .arg(&mount.0)
                    .stderr(Stdio::null())
                    .status()
            };
            eventually("the end of all users of the filesystem", || {
                unmount().unwrap().success()
            });
            std::mem::forget(mount);
        }
    }
}

/// A repository on an XFS of its own.
struct World {
    _xfs: Option<Xfs>,
    place: Place,
}

impl std::ops::Deref for World {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A mount of the tree, unmounted when dropped.
struct Tree<'a> {
    world: &'a World,
    at: PathBuf,
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        let _ = self
            .world
            .command(&["umount", "--lazy", text(&self.at)])
            .output();
        let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
        eventually("the end of the mount", || {
            !mounts().contains(text(&self.at))
        });
    }
}

impl Tree<'_> {
    fn disk(&self, point: &str) -> PathBuf {
        self.at.join(format!("web01/{point}/disks/vda.raw"))
    }

    fn info(&self, point: &str) -> Value {
        let text = std::fs::read(self.at.join(format!("web01/{point}/info.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Reads a byte, so that the flat disk is made, and waits until the next open is by passthrough.
    fn flatten(&self, point: &str) {
        read(&File::open(self.disk(point)).unwrap(), 0, 1);
        eventually("the flat disk", || {
            let info = self.info(point);
            let reason = info["disks"][0].get("read_path_reason");
            assert!(reason.is_none(), "{reason:?}");
            info["read_path"] == "passthrough"
        });
    }
}

fn read(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Whether passthrough can be tried here.
fn can_pass() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ready(&["mkfs.xfs", "losetup"]) && need(version >= (6, 9), "Linux 6.9")
}

impl World {
    /// On XFS, or where the temporary files are.
    fn new(is_on_xfs: bool) -> Self {
        let place = Place::without_repository();
        let xfs = is_on_xfs.then(|| {
            let image = place.path("xfs.img");
            File::create(&image).unwrap().set_len(XFS_BYTES).unwrap();
            run("mkfs.xfs", &["-q", "-m", "reflink=1", text(&image)]);
            Xfs(Some(Mount::new("loop", text(&image), place.repo())))
        });
        place.ok(&["init"]);
        Self { _xfs: xfs, place }
    }

    fn backup(&self, point: &str, bytes: &[u8], more: &[&str]) {
        std::fs::write(self.path("disk.raw"), bytes).unwrap();
        let mut args = vec!["backup", "web01", "vda=disk.raw", "--point", point];
        args.extend_from_slice(more);
        self.ok(&args);
    }

    /// Three points, each with 10 other clusters; their contents.
    fn with_points(names: &[&str]) -> (Self, Vec<Vec<u8>>) {
        let world = Self::new(true);
        let mut bytes = noise(1, 160 * CLUSTER);
        let mut contents = Vec::new();
        for (n, name) in names.iter().enumerate() {
            for cluster in 0..10 {
                let at = ((n * 13 + cluster * 3) % 160) * CLUSTER;
                bytes[at..at + CLUSTER]
                    .copy_from_slice(&noise((n * 100 + cluster) as u64, CLUSTER));
            }
            world.backup(name, &bytes, &[]);
            contents.push(bytes.clone());
        }
        (world, contents)
    }

    fn mount(&self, options: &str, environment: Option<(&str, &str)>) -> Tree<'_> {
        let at = self.path("mnt");
        std::fs::create_dir_all(&at).unwrap();
        let mut command = self.command(&["mount", "--quiet", "-o", options, text(&at)]);
        if let Some((name, value)) = environment {
            command.env(name, value);
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Tree { world: self, at }
    }

    /// Files below `cache/flat`, sorted.
    fn flats(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in std::fs::read_dir(self.repo().join("cache/flat"))
            .into_iter()
            .flatten()
        {
            for entry in std::fs::read_dir(dir.unwrap().path()).into_iter().flatten() {
                found.push(entry.unwrap().path());
            }
        }
        found.sort();
        found
    }

    fn drop_flats(&self) {
        let _ = std::fs::remove_dir_all(self.repo().join("cache/flat"));
    }

    /// Requests to read that the process of the mount has got cannot be seen from outside; what it reads can.
    fn bytes_read_by(&self, pid: u32) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("rchar: "))
            .unwrap();
        line.parse().unwrap()
    }

    /// The process that serves the mount of the tree.
    fn server(&self) -> u32 {
        let ours = text(&self.repo()).to_owned();
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&ours) && line.contains("--foreground") && line.contains("passthrough")
        };
        let names = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.into_iter().find(is_ours).unwrap()
    }
}

#[test]
fn the_kernel_reads_a_flat_disk_without_the_process() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two", "three"]);
    let tree = world.mount("passthrough", None);
    assert_eq!(tree.info("three")["read_path"], "buffered");
    assert_eq!(std::fs::read(tree.disk("three")).unwrap(), contents[2]);
    tree.flatten("three");
    let flat_bytes = tree.info("three")["disks"][0]["flat_bytes"]
        .as_u64()
        .unwrap();
    assert!(flat_bytes >= contents[2].len() as u64, "{flat_bytes}");
    // The buffered path would read all bytes of the layers.
    let file = File::open(tree.disk("three")).unwrap();
    let server = world.server();
    let before = world.bytes_read_by(server);
    assert_eq!(read(&file, 0, contents[2].len()), contents[2]);
    let server_read = world.bytes_read_by(server) - before;
    assert!(server_read < 1 << 20, "{server_read}");
    // A second open while the first is there is in the same mode, and other files are read as ever.
    assert_eq!(std::fs::read(tree.disk("three")).unwrap(), contents[2]);
    assert_eq!(std::fs::read(tree.disk("one")).unwrap(), contents[0]);
    // Reads end where the disk ends.
    assert_eq!(
        file.read_at(&mut [0; 9], contents[2].len() as u64).unwrap(),
        0
    );
}

#[test]
fn an_inode_keeps_its_mode_until_its_last_release() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one"]);
    let tree = world.mount("passthrough", None);
    let buffered = File::open(tree.disk("one")).unwrap();
    assert_eq!(read(&buffered, 0, 4096), contents[0][..4096]);
    eventually("the flat disk", || {
        tree.info("one")["read_path"] == "passthrough"
    });
    for _ in 0..3 {
        // The other mode would be EIO.
        assert_eq!(std::fs::read(tree.disk("one")).unwrap(), contents[0]);
    }
    drop(buffered);
    let passed = File::open(tree.disk("one")).unwrap();
    world.drop_flats();
    for _ in 0..3 {
        assert_eq!(std::fs::read(tree.disk("one")).unwrap(), contents[0]);
    }
    assert_eq!(read(&passed, 0, contents[0].len()), contents[0]);
    drop(passed);
    // From many threads, in whichever mode.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(std::fs::read(tree.disk("one")).unwrap(), contents[0]);
                }
            });
        }
    });
}

#[test]
fn a_flat_disk_is_dropped_before_it_is_opened_and_while_it_is_open() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two"]);
    let tree = world.mount("passthrough", None);
    tree.flatten("two");
    world.drop_flats();
    assert_eq!(tree.info("two")["read_path"], "buffered");
    // The read makes it again.
    assert_eq!(std::fs::read(tree.disk("two")).unwrap(), contents[1]);
    tree.flatten("two");
    let open = File::open(tree.disk("two")).unwrap();
    world.drop_flats();
    assert_eq!(read(&open, 0, contents[1].len()), contents[1]);
    drop(open);
    // One of another size is no flat disk of this chain.
    tree.flatten("two");
    let flat = world.flats().pop().unwrap();
    run("truncate", &["-s", "65536", text(&flat)]);
    assert_eq!(std::fs::read(tree.disk("two")).unwrap(), contents[1]);
}

#[test]
fn layers_are_merged_and_forgotten_below_an_open_flat_disk() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two", "three", "four"]);
    let tree = world.mount("passthrough", None);
    tree.flatten("one");
    tree.flatten("four");
    let (one, four) = (
        File::open(tree.disk("one")).unwrap(),
        File::open(tree.disk("four")).unwrap(),
    );
    world.ok(&["forget", "web01@one", "web01@two", "web01@three"]);
    assert_eq!(world.flats(), Vec::<PathBuf>::new());
    world.ok(&["forget", "web01", "--compact"]);
    assert_eq!(world.flats(), Vec::<PathBuf>::new());
    assert_eq!(read(&one, 0, contents[0].len()), contents[0]);
    assert_eq!(read(&four, 0, contents[3].len()), contents[3]);
    drop((one, four));
    // The chain that the mount knows was merged: the first attempt may meet that, the next one makes the flat disk of the new chain.
    eventually("the flat disk of the merged chain", || {
        assert_eq!(std::fs::read(tree.disk("four")).unwrap(), contents[3]);
        tree.info("four")["read_path"] == "passthrough"
    });
    assert_eq!(std::fs::read(tree.disk("four")).unwrap(), contents[3]);
}

#[test]
fn a_full_filesystem_leaves_the_disk_buffered_and_nothing_behind() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two"]);
    let tree = world.mount("passthrough", None);
    // All that root can write.
    let hog = world.repo().join("hog");
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", &format!("of={}", text(&hog))])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!filled.success());
    assert_eq!(std::fs::read(tree.disk("two")).unwrap(), contents[1]);
    eventually("the reason", || {
        let reason = tree.info("two")["disks"][0]["read_path_reason"].clone();
        reason
            .as_str()
            .is_some_and(|reason| reason.contains("room"))
    });
    assert_eq!(tree.info("two")["read_path"], "buffered");
    assert_eq!(world.flats(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read(tree.disk("two")).unwrap(), contents[1]);
    std::fs::remove_file(hog).unwrap();
    tree.disk("two").metadata().unwrap();
    eventually("the flat disk", || {
        assert_eq!(std::fs::read(tree.disk("two")).unwrap(), contents[1]);
        tree.info("two")["read_path"] == "passthrough"
    });
}

#[test]
fn flat_disks_go_when_the_owner_is_short_of_space() {
    if !can_pass() {
        return;
    }
    let (world, _) = World::with_points(&["one"]);
    let tree = world.mount("passthrough", None);
    tree.flatten("one");
    let hog = world.repo().join("hog");
    let free = rustix::fs::statvfs(world.repo()).unwrap();
    let file = File::create(&hog).unwrap();
    let left = 3 << 20;
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.f_bavail * free.f_frsize - left,
    )
    .unwrap();
    world.ok(&["tag", "web01@one", "reason=space"]);
    assert_eq!(world.flats(), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_maker_leaves_nothing_that_is_trusted_and_the_next_removes_it() {
    if !can_pass() {
        return;
    }
    // Every other cluster in one of two layers: thousands of extents.
    let world = World::new(true);
    let mut bytes = noise(1, 1200 * CLUSTER);
    world.backup("one", &bytes, &[]);
    for cluster in (0..1200).step_by(2) {
        bytes[cluster * CLUSTER..][..CLUSTER].copy_from_slice(&noise(cluster as u64 + 7, CLUSTER));
    }
    world.backup("two", &bytes, &[]);
    let mut was_half_made = false;
    for round in 0..12 {
        let mut mapping = Running(
            world
                .command(&["map", "web01@two/vda", "--foreground"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let is_open = |path: &PathBuf| path.extension().is_some_and(|end| end == "open");
        eventually("a beginning", || !world.flats().is_empty());
        std::thread::sleep(Duration::from_millis(round % 4));
        mapping.0.kill().unwrap();
        mapping.0.wait().unwrap();
        world.run(&["unmap", "--stale", "--quiet"]);
        was_half_made |= world.flats().iter().any(is_open);
        if !world.flats().iter().any(is_open) {
            world.drop_flats();
            continue;
        }
        let device = world.ok(&["map", "web01@two/vda"]).trim().to_owned();
        let found = read_device(&device);
        world.ok(&["unmap", "--all"]);
        assert_eq!(found, bytes);
        let left = world.flats();
        assert!(left.len() == 1 && !left.iter().any(is_open), "{left:?}");
        assert_eq!(std::fs::read(&left[0]).unwrap(), bytes);
        world.drop_flats();
    }
    assert!(was_half_made, "the kill never met a maker at work");
}

/// The next content of a disk: random clusters are written, some of them zero, and the disk may grow.
fn changed(chance: &mut Chance, before: &[u8]) -> Vec<u8> {
    let mut bytes = before.to_vec();
    if chance.below(3) == 0 {
        let more = chance.below(40) * 512 * 37;
        bytes.resize(bytes.len() + more, 0);
    }
    for _ in 0..chance.below(30) {
        let clusters = bytes.len().div_ceil(CLUSTER);
        let at = chance.below(clusters) * CLUSTER;
        let end = (at + CLUSTER).min(bytes.len());
        let new = match chance.below(4) {
            0 => vec![0; end - at],
            _ => noise(chance.below(1 << 30) as u64, end - at),
        };
        bytes[at..end].copy_from_slice(&new);
    }
    bytes
}

#[test]
fn random_chains_read_the_same_by_every_path_and_a_flat_disk_of_a_flat_disk_is_as_one_from_scratch()
{
    if !can_pass() {
        return;
    }
    for seed in 0..4_usize {
        let world = World::new(true);
        let mut chance = Chance(seed as u64 + 1);
        let mut contents = vec![noise(seed as u64, 100 * CLUSTER + seed * 512)];
        for n in 0..7 {
            let name = format!("p{n}");
            world.backup(&name, contents.last().unwrap(), &[]);
            let next = changed(&mut chance, contents.last().unwrap());
            contents.push(next);
        }
        let whole = |path: &Path| std::fs::read(path).unwrap();
        let made = |tree: &Tree<'_>, n: usize| {
            let name = format!("p{n}");
            let before = world.flats();
            tree.flatten(&name);
            let after = world.flats();
            let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
            assert_eq!(new.len(), 1, "{new:?}");
            let flat = whole(new[0]);
            assert_eq!(flat, contents[n], "{name} of seed {seed}");
            assert_eq!(whole(&tree.disk(&name)), contents[n]);
            flat
        };
        let tree = world.mount("passthrough", None);
        // Each is made of the nearest one below.
        let first = chance.below(3);
        let extended: Vec<_> = (first..7).map(|n| made(&tree, n)).collect();
        for (n, extended) in (first..7).zip(&extended).rev() {
            world.drop_flats();
            assert_eq!(made(&tree, n), *extended);
        }
        for (n, content) in contents.iter().enumerate().take(7) {
            assert_eq!(world.restored(&format!("web01@p{n}"), "vda"), *content);
        }
    }
}

#[test]
fn where_it_cannot_be_the_reason_is_told() {
    if !can_pass() {
        return;
    }
    let why = |world: &World, environment, expected: &str| {
        let bytes = world.restored("web01@one", "vda");
        let tree = world.mount("passthrough", environment);
        assert_eq!(std::fs::read(tree.disk("one")).unwrap(), bytes);
        eventually("the reason", || {
            tree.info("one")["disks"][0]
                .get("read_path_reason")
                .is_some()
        });
        let info = tree.info("one");
        let reason = info["disks"][0]["read_path_reason"].as_str().unwrap();
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(info["read_path"], "buffered");
        assert_eq!(std::fs::read(tree.disk("one")).unwrap(), bytes);
        assert_eq!(world.flats(), Vec::<PathBuf>::new());
    };
    // ext4, tmpfs and overlayfs share no extents; another test's filesystem may.
    let (world, _) = World::with_points(&["one"]);
    why(
        &world,
        Some(("RESTOREFS_REFUSE", "reflink")),
        "cannot share extents",
    );
    let refused = world
        .command(&["map", "web01@one/vda"])
        .env("RESTOREFS_REFUSE", "reflink")
        .output()
        .unwrap();
    assert!(refused.status.success());
    let listed = world.json(&["map"]);
    assert_eq!(listed[0]["path"], "fuse");
    assert!(
        listed[0]["path_reason"]
            .as_str()
            .unwrap()
            .contains("cannot share extents")
    );
    let device = listed[0]["device"].as_str().unwrap();
    assert_eq!(read_device(device), world.restored("web01@one", "vda"));
    world.ok(&["unmap", "--all"]);
    let compressed = World::new(true);
    compressed.backup("one", &[7; 40 * CLUSTER], &["--compress", "zstd"]);
    why(&compressed, None, "compressed");
    let odd = World::new(true);
    odd.backup("one", &noise(3, 10 * CLUSTER + 100), &[]);
    why(&odd, None, "sectors");
}

#[test]
fn map_reads_by_passthrough_and_a_scratch_map_does_not() {
    if !can_pass() || !has_all(&["blockdev"]) {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two"]);
    let device = world.ok(&["map", "web01@two/vda"]).trim().to_owned();
    let listed = world.json(&["map"]);
    assert_eq!(
        (&listed[0]["path"], &listed[0]["path_reason"]),
        (&Value::from("passthrough"), &Value::Null)
    );
    assert_eq!(world.flats().len(), 1);
    assert_eq!(read_device(&device), contents[1]);
    world.drop_flats();
    world.ok(&["forget", "web01@one"]);
    assert_eq!(read_device(&device), contents[1]);
    world.ok(&["unmap", "--all"]);
    let device = world
        .ok(&["map", "web01@two/vda", "--scratch=."])
        .trim()
        .to_owned();
    assert_eq!(world.json(&["map"])[0]["path"], "fuse");
    assert_eq!(read_device(&device), contents[1]);
    world.ok(&["unmap", "--all"]);
}

#[test]
fn only_a_mount_without_a_daemon_has_it() {
    if !can_pass() {
        return;
    }
    let world = World::new(false);
    std::fs::create_dir(world.path("mnt")).unwrap();
    let said = world.fails(
        2,
        &[
            "serve",
            "--mount",
            text(&world.path("mnt")),
            "-o",
            "passthrough",
        ],
    );
    assert!(said.contains("passthrough"), "{said}");
}

#[test]
fn too_many_extents_are_refused_and_a_flat_disk_is_made_of_the_nearest_below() {
    if !can_pass() {
        return;
    }
    let (world, contents) = World::with_points(&["one", "two", "three", "four"]);
    let repository = Arc::new(Repository::open(&world.repo()).unwrap());
    let tree = restorefs::tree::Tree::new(
        repository,
        Pool::new(PoolLimits::default()),
        TreeOptions::default(),
    )
    .unwrap();
    let make = |point: &str, extents_max: usize| {
        let which = Which::Named(PointName::new(point).unwrap());
        let vm = VmName::new("web01").unwrap();
        let open = tree
            .open_disk(&vm, &which, &DiskName::new("vda").unwrap())
            .unwrap();
        let flats = FlatDisks::new(tree.repository()).with_extents_max(extents_max);
        flats.make(open.point.vm_id, &open.entry.layer, &open.disk)
    };
    let refused = make("two", 5).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
    assert_eq!(world.flats(), Vec::<PathBuf>::new());
    assert_eq!(make("one", 1000).unwrap().above, None);
    assert_eq!(make("three", 1000).unwrap().above, Some(2));
    let last = make("four", 1000).unwrap();
    assert_eq!((last.above, last.steps), (Some(1), 10));
    let found = world.flats();
    let mut read: Vec<_> = found
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let mut expected = [0, 2, 3].map(|n| contents[n].clone()).to_vec();
    read.sort();
    expected.sort();
    assert!(read == expected);
}
