//! A mapped disk is the disk of the point, byte for byte, and no process can change it.

use std::process::Command;

use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::world::{Mount, World, first_partition, read_device, ready, run, text};

const TOOLS: [&str; 4] = ["losetup", "sgdisk", "mkfs.ext4", "blockdev"];

#[test]
fn it_has_the_bytes_that_restore_gives_and_is_read_only() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let mut devices = Vec::new();
    for disk in ["vda", "vdb"] {
        let device = world.map(&[&format!("web01@one/{disk}")]);
        let bytes = read_device(&device);
        assert!(bytes == world.restored("web01@one", disk), "{disk} differs");
        assert_eq!(run("blockdev", &["--getro", &device]).trim(), "1");
        assert_eq!(run("blockdev", &["--getss", &device]).trim(), "512");
        let refused = std::fs::File::options().write(true).open(&device);
        let written = refused.and_then(|mut file| std::io::Write::write_all(&mut file, b"x"));
        assert!(written.is_err(), "a read-only device was written");
        assert!(read_device(&device) == bytes);
        devices.push(device);
    }
    let list = world.list();
    assert_eq!(list.len(), 2);
    let vdb = list.iter().find(|entry| entry["disk"] == "vdb").unwrap();
    // 150,000 bytes in whole sectors.
    assert_eq!(vdb["size_bytes"], 150_016);
    assert_eq!(
        (&vdb["state"], &vdb["read_only"], &vdb["path"]),
        (&"live".into(), &true.into(), &"fuse".into())
    );
    let read_ahead = |device: &str| {
        let name = device.trim_start_matches("/dev/");
        std::fs::read_to_string(format!("/sys/block/{name}/queue/read_ahead_kb")).unwrap()
    };
    assert_eq!(read_ahead(&devices[0]).trim(), "4096");
    let id = list
        .iter()
        .find(|entry| entry["device"] == devices[0].as_str())
        .unwrap()["id"]
        .as_str()
        .unwrap();
    let record = std::fs::read(world.maps().join(id).join("map.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let before = record["disks"][0]["read_ahead_kb_before"].to_string();
    world.ok(&["unmap", "--all"]);
    // Who gets the number next does not get our settings; another test may have it by now.
    let after = read_ahead(&devices[0]);
    let name = devices[0].trim_start_matches("/dev/");
    let is_free = !std::path::Path::new(&format!("/sys/block/{name}/loop")).exists();
    assert!(
        !is_free || after.trim() == before,
        "{after}, before {before}"
    );
    world.assert_nothing_left();
}

#[test]
fn sizes_of_odd_sectors_are_whole() {
    if !ready(&["losetup", "blockdev"]) {
        return;
    }
    let world = World::new();
    for (n, size) in [1usize, 512, 513, 4096, 4608, 65_535, 65_536 + 512, 200_000]
        .into_iter()
        .enumerate()
    {
        let point = format!("p{n}");
        std::fs::write(world.path("a.raw"), noise(n as u64, size)).unwrap();
        world.ok(&["backup", "web01", "vda=a.raw", "--full", "--point", &point]);
        let device = world.map(&[&format!("web01@{point}/vda")]);
        let mut expected = noise(n as u64, size);
        expected.resize(size.next_multiple_of(512), 0);
        assert!(read_device(&device) == expected, "{size} bytes");
        world.ok(&["unmap", &device]);
    }
    world.assert_nothing_left();
}

#[test]
fn a_filesystem_in_a_partition_is_mounted() {
    if !ready(&["losetup", "sgdisk", "mkfs.ext4", "partx"]) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vda", "--partitions"]);
    let scan = format!(
        "/sys/block/{}/loop/partscan",
        device.trim_start_matches("/dev/")
    );
    assert_eq!(std::fs::read_to_string(scan).unwrap().trim(), "1");
    let partition = first_partition(&device);
    let mount = Mount::new("ro,noload", &partition, world.path("mnt"));
    assert_eq!(
        std::fs::read_to_string(mount.0.join("hello")).unwrap(),
        "hello\n"
    );
    // In use: named, and nothing is detached behind its back, neither now nor later.
    let said = world.fails(1, &["unmap", &device]);
    assert!(
        said.contains("mounted at") && said.contains(text(&mount.0)),
        "{said}"
    );
    assert!(world.fails(1, &["unmap", "--all"]).contains("in use"));
    assert_eq!(
        std::fs::read_to_string(mount.0.join("hello")).unwrap(),
        "hello\n"
    );
    drop(mount);
    assert_eq!(world.list()[0]["state"], "live");
    world.ok(&["unmap", "web01@one/vda"]);
    world.assert_nothing_left();
}

#[test]
fn one_that_is_open_is_not_detached_lazily() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    let open = std::fs::File::open(&device).unwrap();
    let said = world.fails(1, &["unmap", &device]);
    // This very process.
    assert!(
        said.contains(&format!("({})", std::process::id())),
        "{said}"
    );
    let sys = format!(
        "/sys/block/{}/loop/autoclear",
        device.trim_start_matches("/dev/")
    );
    assert_eq!(std::fs::read_to_string(&sys).unwrap().trim(), "0");
    drop(open);
    assert_eq!(std::fs::read_to_string(&sys).unwrap().trim(), "0");
    assert_eq!(world.list()[0]["state"], "live");
    // Only what had it open as it was asked for: closed within the patience, it is no reason.
    let mut reader = Command::new("sleep")
        .arg("0.5")
        .stdin(std::fs::File::open(&device).unwrap())
        .spawn()
        .unwrap();
    world.ok(&["unmap", &device]);
    reader.wait().unwrap();
    world.assert_nothing_left();
}

#[test]
fn the_signal_to_end_is_obeyed_when_nobody_uses_it() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    let open = std::fs::File::open(&device).unwrap();
    world.signal(rustix::process::Signal::TERM);
    let log = || {
        let id = world.list()[0]["id"].as_str().unwrap().to_owned();
        std::fs::read_to_string(world.maps().join(id).join("log")).unwrap()
    };
    eventually("a word about it in the log", || log().contains("in use"));
    assert_eq!(world.list()[0]["state"], "live");
    assert!(read_device(&device) == world.restored("web01@one", "vdb"));
    drop(open);
    // More than once: somebody of this machine may have a look at the device just then. Not at once: two ask for an end without order.
    let has_ended = (0..5).any(|_| {
        world.signal_all(rustix::process::Signal::TERM);
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            world.list().is_empty()
        })
    });
    assert!(has_ended, "{:?}", world.list());
    world.assert_nothing_left();
}

#[test]
fn a_point_that_is_forgotten_stays_readable() {
    if !ready(&["losetup", "blockdev"]) {
        return;
    }
    let world = World::new();
    // Several layers, of which the map must have all.
    let mut bytes = noise(1, 1 << 20);
    for n in 0..5u8 {
        bytes[usize::from(n) * 150_000] ^= 0xff;
        std::fs::write(world.path("a.raw"), &bytes).unwrap();
        world.ok(&["backup", "web01", "vda=a.raw", "--point", &format!("p{n}")]);
    }
    let device = world.map(&["web01@latest/vda"]);
    // Its layers are merged, and what they were is gone from the trash.
    world.ok(&["forget", "web01", "--keep-last", "1", "--compact"]);
    world.ok(&["trash", "--empty"]);
    run("sh", &["-c", "echo 3 > /proc/sys/vm/drop_caches"]);
    assert!(read_device(&device) == bytes);
    // More than forgetting does: the repository is gone.
    std::fs::remove_dir_all(world.path("repo/vms")).unwrap();
    run("sh", &["-c", "echo 3 > /proc/sys/vm/drop_caches"]);
    assert!(read_device(&device) == bytes);
    world.ok(&["unmap", "web01@latest"]);
    world.assert_nothing_left();
}

/// A disk whose table counts in sectors of 4096 bytes has such a device, so that its partitions are where they were.
#[test]
fn a_disk_of_large_sectors_has_a_device_of_such() {
    if !ready(&["losetup", "sfdisk", "mkfs.ext4", "partx", "blockdev"]) {
        return;
    }
    let world = World::new();
    for label in ["dos", "gpt"] {
        let (disk, point) = (world.path("a.raw"), format!("p-{label}"));
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let device = run("losetup", &["-f", "--show", "-b", "4096", text(&disk)]);
        let script = format!(
            "printf 'label: {label}\\nstart=8MiB,size=16MiB\\n' | sfdisk -q --no-reread {}",
            device.trim()
        );
        run("sh", &["-c", &script]);
        run("losetup", &["-d", device.trim()]);
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "offset=8388608",
                text(&disk),
                "16M",
            ],
        );
        world.ok(&["backup", "web01", "vda=a.raw", "--full", "--point", &point]);
        let device = world.map(&[&format!("web01@{point}/vda"), "--partitions"]);
        assert_eq!(run("blockdev", &["--getss", &device]).trim(), "4096");
        let partition = first_partition(&device);
        let name = partition.trim_start_matches("/dev/");
        let start = std::fs::read_to_string(format!("/sys/class/block/{name}/start")).unwrap();
        assert_eq!(start.trim(), "16384", "in 512 bytes");
        let mount = Mount::new("ro,noload", &partition, world.path("mnt"));
        assert!(mount.0.join("lost+found").is_dir());
        drop(mount);
        let volumes = world.ok(&["volumes", &format!("web01@{point}"), "--json"]);
        assert!(volumes.contains("\"sector_bytes\": 4096"), "{volumes}");
        world.ok(&["unmap", &device]);
    }
    world.assert_nothing_left();
}
