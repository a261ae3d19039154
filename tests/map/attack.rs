//! What others of this machine can do to mapped devices: udevd that is still at a free device, members of the group `disk`, ordinary users.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::kit::noise::noise;
use crate::world::{World, ready, text};

/// Loop devices that have no file, locked as udevd locks what it looks at (systemd.io/BLOCK_DEVICE_LOCKING).
fn lock_free_devices() -> Vec<(PathBuf, File)> {
    let all = (0..64).map(|n| PathBuf::from(format!("/dev/loop{n}")));
    all.filter(|path| !has_file(path))
        .filter_map(|path| Some((path.clone(), File::open(path).ok()?)))
        .filter(|(_, file)| flock(file.as_fd(), FlockOperation::NonBlockingLockShared).is_ok())
        .collect()
}

fn has_file(device: &Path) -> bool {
    let name = device.file_name().unwrap();
    Path::new("/sys/block")
        .join(name)
        .join("loop/backing_file")
        .exists()
}

/// udevd has gone through the rules while the device was empty, and is about to probe it: a guest's disk must not appear under its hands.
#[test]
fn no_guest_appears_on_a_device_that_udev_is_at() {
    if !ready(&["losetup"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("a.raw"), noise(1, 70_000)).unwrap();
    world.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    // Devices are there once they were used.
    drop(world.map(&["web01@one/vda"]));
    world.ok(&["unmap", "--all"]);
    let locked = lock_free_devices();
    assert!(!locked.is_empty());
    let mut mapping = world.command(&["map", "web01@one/vda"]).spawn().unwrap();
    for _ in 0..50 {
        let taken: Vec<_> = locked.iter().filter(|(path, _)| has_file(path)).collect();
        assert!(taken.is_empty(), "{taken:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(locked);
    assert!(mapping.wait().unwrap().success());
    world.ok(&["unmap", "--all"]);
    world.assert_nothing_left();
}

/// Members of `disk` read every disk of the machine. They do not write a backup, nor see where it comes from.
#[test]
fn members_of_the_group_disk_write_no_backup_and_others_see_nothing() {
    if !ready(&["losetup", "setpriv", "blockdev"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("a.raw"), noise(2, 70_000)).unwrap();
    world.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let before = world.restored("web01@one", "vda");
    let device = world.map(&["web01@one/vda"]);
    let run = |group: &str, program: &str, args: &[&str]| {
        let ids = ["--reuid", "65534", "--regid", "65534", "--groups", group];
        let output = Command::new("setpriv")
            .args(ids)
            .arg(program)
            .args(args)
            .output();
        output.unwrap().status.success()
    };
    let group = rustix::fs::stat(device.as_str())
        .unwrap()
        .st_gid
        .to_string();
    let of = format!("of={device}");
    assert!(!run(
        &group,
        "dd",
        &["if=/dev/zero", of.as_str(), "bs=4096", "count=1"]
    ));
    assert!(!run(&group, "blockdev", &["--setrw", &device]));
    // Root neither: the driver, the mounted file and the layers are read-only, each for itself.
    let _ = Command::new("blockdev").args(["--setrw", &device]).status();
    let forced = Command::new("dd")
        .args([
            "if=/dev/zero",
            of.as_str(),
            "bs=4096",
            "count=1",
            "oflag=direct",
        ])
        .output();
    assert!(!forced.unwrap().status.success());
    assert_eq!(world.restored("web01@one", "vda"), before);
    // Who is in no group.
    let list = world.list();
    let mountpoint = list[0]["mountpoint"].as_str().unwrap();
    for path in [text(&world.maps()), mountpoint, device.as_str()] {
        assert!(!run("65534", "head", &["-c1", path]), "{path}");
        assert!(!run("65534", "ls", &[&format!("{path}/")]), "{path}");
    }
    let modes = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let own = world.maps().join(list[0]["id"].as_str().unwrap());
    for file in ["", "map.json", "log", "lock"] {
        assert_eq!(modes(&own.join(file)) & 0o077, 0, "{file}");
    }
    world.ok(&["unmap", "--all"]);
}

/// What is written lies in a file that has no name, whatever the directory is, and is in no device's name.
#[test]
fn a_scratch_file_has_no_name_that_others_could_open() {
    if !ready(&["losetup"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("a.raw"), noise(3, 70_000)).unwrap();
    world.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let scratch = world.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o777)).unwrap();
    let device = world.map(&["web01@one/vda", "--scratch", text(&scratch)]);
    std::fs::write(&device, noise(4, 8192)).unwrap();
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    let name = Path::new(&device).file_name().unwrap();
    let shown = Path::new("/sys/block").join(name).join("loop/backing_file");
    let shown = std::fs::read_to_string(shown).unwrap();
    // Everybody can read this: it names the map and the disk, and neither VM nor repository.
    assert!(
        shown.starts_with(text(&world.maps())) && !shown.contains("web01"),
        "{shown}"
    );
    world.ok(&["unmap", "--all"]);
}
