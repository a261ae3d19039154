//! Mounting, unmounting, and the remains of a killed process.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use restorefs::error::ErrorKind;
use restorefs::fuse::{MountOptions, mount, umount};

use crate::kit::wait::eventually;
use crate::world::{World, names, ready, text};

#[test]
fn unmounting_takes_it_away() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let mounted = world.mount();
    assert_eq!(names(&world.at("")), ["web01"]);
    let options = MountOptions::default();
    let again = mount(&world.tree(&options), &world.path("mnt"), &options);
    assert_eq!(again.err().map(|e| e.kind()), Some(ErrorKind::Busy));
    // Busy while a file is open, and still there.
    let open = std::fs::File::open(world.at("web01/p1/disks/vda.raw")).unwrap();
    assert_eq!(mounted.unmount(false).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(names(&world.at("")), ["web01"]);
    drop(open);
    mounted.unmount(false).unwrap();
    assert!(names(&world.at("")).is_empty());
    let error = umount(&world.path("mnt"), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // Dropped, and unmounted by somebody else.
    drop(world.mount());
    eventually("the drop", || names(&world.at("")).is_empty());
    let mounted = world.mount();
    std::thread::scope(|scope| {
        scope.spawn(|| mounted.wait().unwrap());
        umount(&world.path("mnt"), false).unwrap();
    });
    assert!(names(&world.at("")).is_empty());
}

/// Who had waited for his mount's end once unmounted what was at its path by then, because fuser does, and because the kernel gives a
/// device number again at once: `restorefs umount`, `restorefs mount`, and nothing was there.
#[test]
fn a_mount_that_follows_at_once_is_left_alone() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    for _ in 0..5 {
        let first = world.mount();
        rustix::mount::unmount(world.path("mnt"), rustix::mount::UnmountFlags::empty()).unwrap();
        let second = world.mount();
        first.wait().unwrap();
        assert_eq!(names(&world.at("")), ["web01"]);
        second.unmount(false).unwrap();
        let first = world.mount();
        rustix::mount::unmount(world.path("mnt"), rustix::mount::UnmountFlags::empty()).unwrap();
        eventually("the end", || first.has_ended());
        let second = world.mount();
        drop(first);
        assert_eq!(names(&world.at("")), ["web01"]);
        drop(second);
        eventually("the drop", || names(&world.at("")).is_empty());
    }
}

/// The same, of what the mount lay on.
#[test]
fn what_lies_below_a_mount_stays_mounted() {
    struct Below(std::path::PathBuf);
    impl Drop for Below {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let run = Command::new("mount")
        .args(["-t", "tmpfs", "none", text(&world.path("mnt"))])
        .status();
    assert!(run.unwrap().success());
    let below = Below(world.path("mnt"));
    let device = std::fs::metadata(&below.0).unwrap().dev();
    let is_back = || std::fs::metadata(&below.0).unwrap().dev() == device;
    for by_whom in ["its process", "its process, on leaving", "somebody else"] {
        let mounted = world.mount();
        assert!(!is_back());
        match by_whom {
            "its process" => mounted.unmount(false).unwrap(),
            "somebody else" => {
                umount(&below.0, false).unwrap();
                mounted.wait().unwrap();
            }
            _ => drop(mounted),
        }
        eventually(by_whom, is_back);
    }
}

#[test]
fn a_mount_over_the_repository_or_in_it_is_refused() {
    if !ready() {
        return;
    }
    let world = World::empty();
    let options = MountOptions::default();
    let tree = world.tree(&options);
    let inside = world.repository().join("cache/mnt");
    std::fs::create_dir_all(&inside).unwrap();
    std::os::unix::fs::symlink(&inside, world.path("way-in")).unwrap();
    for bad in [
        world.repository(),
        world.path(""),
        world.repository().join("vms"),
        world.path("way-in"),
    ] {
        let error = mount(&tree, &bad, &options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}: {error}");
    }
    let error = mount(&tree, &world.path("none"), &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let file = world.repository().join("restorefs.json");
    let error = mount(&tree, &file, &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
}

/// What the killed process of the next test runs.
#[test]
fn child() {
    let Some(base) = std::env::var_os("RESTOREFS_TEST_MOUNT") else {
        return;
    };
    let base = std::path::PathBuf::from(base);
    let repository = restorefs::repo::Repository::open(&base.join("repo")).unwrap();
    let pool = restorefs::chain::Pool::new(restorefs::chain::PoolLimits::default());
    let options = MountOptions::default();
    let tree = restorefs::tree::Tree::new(
        std::sync::Arc::new(repository),
        pool,
        options.tree_options(0, 0, false),
    );
    mount(&tree.unwrap(), &base.join("mnt"), &options)
        .unwrap()
        .wait()
        .unwrap();
}

#[test]
fn a_killed_process_does_not_stop_the_next_mount() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mount_lifecycle::child"])
        .env("RESTOREFS_TEST_MOUNT", world.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the child's mount", || world.at("web01").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its death", || {
        std::fs::metadata(world.path("mnt")).is_err()
    });
    let mounted = world.mount();
    assert_eq!(names(&world.at("")), ["web01"]);
    mounted.unmount(false).unwrap();
    assert!(text(&world.path("mnt")).ends_with("mnt"));
    assert!(names(&world.path("mnt")).is_empty());
}
