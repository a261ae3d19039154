//! Writable devices: written data stays until they are unmapped, and the point never changes.

use std::os::unix::fs::FileExt;

use crate::kit::noise::noise;
use crate::world::{Mount, World, first_partition, read_device, ready, run, text};

const TOOLS: [&str; 5] = ["losetup", "sgdisk", "mkfs.ext4", "blockdev", "partx"];

#[test]
fn a_filesystem_is_written_and_checked_and_thrown_away() {
    if !ready(&TOOLS) || !ready(&["e2fsck", "fstrim"]) {
        return;
    }
    let world = World::with_guest();
    let before = world.restored("web01@one", "vda");
    let device = world.map(&[
        "--scratch",
        text(&world.path("")),
        "--partitions",
        "web01@one/vda",
    ]);
    assert_eq!(run("blockdev", &["--getro", &device]).trim(), "0");
    let partition = first_partition(&device);
    let content = noise(3, 3_000_000);
    {
        let mount = Mount::new("rw", &partition, world.path("mnt"));
        assert_eq!(
            std::fs::read_to_string(mount.0.join("hello")).unwrap(),
            "hello\n"
        );
        let file = std::fs::File::create(mount.0.join("new")).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        std::fs::write(mount.0.join("gone"), &content).unwrap();
        run("sync", &[]);
        std::fs::remove_file(mount.0.join("gone")).unwrap();
        std::fs::remove_file(mount.0.join("hello")).unwrap();
        run("fstrim", &[text(&mount.0)]);
    }
    run("blockdev", &["--flushbufs", &partition]);
    run("e2fsck", &["-fn", &partition]);
    {
        let mount = Mount::new("ro", &partition, world.path("mnt"));
        assert!(std::fs::read(mount.0.join("new")).unwrap() == content);
        assert!(!mount.0.join("hello").exists());
    }
    let entry = &world.list()[0];
    assert!(
        entry["scratch_bytes"].as_u64().unwrap() >= 3_000_000,
        "{entry}"
    );
    assert_eq!(entry["failed_requests"], 0, "{entry}");
    // No name of it is anywhere.
    let names: Vec<_> = std::fs::read_dir(world.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("scratch")),
        "{names:?}"
    );
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
    assert!(
        world.restored("web01@one", "vda") == before,
        "the point changed"
    );
    // And again from the beginning.
    let device = world.map(&["web01@one/vda", "--scratch"]);
    assert!(read_device(&device) == before);
    assert_eq!(world.list()[0]["scratch"], "/var/tmp");
    world.ok(&["unmap", &device]);
}

#[test]
fn what_is_written_anywhere_is_read_back() {
    if !ready(&TOOLS) || !ready(&["blkdiscard"]) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb", "--scratch=."]);
    let mut model = world.restored("web01@one", "vdb");
    let file = std::fs::File::options().write(true).open(&device).unwrap();
    // Sectors, pages, across both, and the last sector, which is in a page of its own.
    for (n, (at, length)) in [
        (512usize, 512usize),
        (4096, 4096),
        (60_000, 9001),
        (0, 1),
        (149_504, 512),
        (3584, 1024),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = noise(n as u64 + 50, length);
        file.write_all_at(&bytes, at as u64).unwrap();
        model[at..at + length].copy_from_slice(&bytes);
    }
    file.sync_all().unwrap();
    drop(file);
    assert!(read_device(&device) == model);
    // Discarded, and zeroed where nothing was written before.
    run("blkdiscard", &["-z", "-o", "20480", "-l", "10240", &device]);
    model[20_480..30_720].fill(0);
    assert!(read_device(&device) == model);
    run("blkdiscard", &["-o", "61440", "-l", "8192", &device]);
    let bytes = read_device(&device);
    assert!(
        bytes[61_440..69_632].iter().all(|byte| *byte == 0),
        "discarded ranges read as zero"
    );
    model[61_440..69_632].fill(0);
    assert!(bytes == model);
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}

#[test]
fn a_full_scratch_directory_is_an_error_of_that_write() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    std::fs::create_dir_all(world.path("small")).unwrap();
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=1M",
            "none",
            text(&world.path("small")),
        ],
    );
    let _small = Mount(world.path("small"));
    let before = world.restored("web01@one", "vda");
    let device = world.map(&["web01@one/vda", "--scratch=small"]);
    let written = std::process::Command::new("dd")
        .args([
            "if=/dev/urandom",
            &format!("of={device}"),
            "bs=64k",
            "count=100",
            "oflag=direct",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&written.stderr);
    assert!(
        !written.status.success() && said.contains("Input/output error"),
        "{said}"
    );
    let entry = &world.list()[0];
    assert!(entry["failed_requests"].as_u64().unwrap() > 0, "{entry}");
    assert!(
        entry["last_error"].as_str().unwrap().contains("No space"),
        "{entry}"
    );
    assert!(world.ok(&["map"]).contains("No space"));
    let log = world.maps().join(entry["id"].as_str().unwrap()).join("log");
    assert!(std::fs::read_to_string(log).unwrap().contains("NO SPACE"));
    // What was not reached is as it was.
    let bytes = read_device(&device);
    assert!(bytes[8 << 20..] == before[8 << 20..]);
    world.ok(&["unmap", &device]);
    assert!(world.restored("web01@one", "vda") == before);
    world.assert_nothing_left();
}
