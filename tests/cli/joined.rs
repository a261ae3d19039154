//! What `files/` joins by the serial number of a disk, by what alone fits, and by ostree; and what it refuses by name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A disk with one partition that holds an ext4 of this directory.
fn disk(place: &Place, name: &str, tree: &str) {
    let image = format!("{name}.fs");
    tool::ok(place, "mkfs.ext4", &["-qF", "-d", tree, &image, "8M"]);
    let script = format!(
        "truncate -s 10M {name}.raw; printf 'label: gpt\\nstart=1MiB, size=8MiB\\n' | sfdisk -q {name}.raw; \
         dd if={image} of={name}.raw bs=1M seek=1 conv=notrunc status=none"
    );
    tool::ok(place, "sh", &["-ec", &script]);
}

#[test]
fn disks_are_known_by_their_serial_numbers() {
    if !has("mkfs.ext4") || !has("sfdisk") {
        return;
    }
    let place = Place::new();
    let fstab = "/dev/disk/by-path/pci-0000:00:07.0-part1 / ext4 defaults 0 1\n\
        /dev/disk/by-id/virtio-vol-0abc-part1 /data ext4 defaults 0 2\n\
        /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_vol-0def-part1 /more ext4 defaults 0 2\n";
    put(&place.path("root/etc/fstab"), fstab);
    for dir in ["root/data", "root/more"] {
        fs::create_dir_all(place.path(dir)).unwrap();
    }
    for name in ["one", "two"] {
        put(&place.path(&format!("{name}/is")), name);
    }
    for (name, tree) in [("vda", "root"), ("vdb", "one"), ("vdc", "two")] {
        disk(&place, name, tree);
    }
    let disks = ["vda=vda.raw", "vdb=vdb.raw", "vdc=vdc.raw"];
    let keys = ["--key", "vdb=vol-0def", "--key", "vdc=vol-0abc"];
    let with = [&["backup", "keys"][..], &disks, &keys].concat();
    place.ok(&with);
    let read = |path: &str| {
        let to = place.path("out");
        let _ = fs::remove_dir_all(&to);
        place.ok(&["restore", path, "--to", to.to_str().unwrap()]);
        fs::read_to_string(to.join("is")).unwrap()
    };
    assert_eq!(read("keys@latest:/files/data/is"), "two");
    assert_eq!(read("keys@latest:/files/more/is"), "one");
    // Without them several fit: none is joined, and all are named.
    place.ok(&[&["backup", "plain"][..], &disks].concat());
    let said = place.fails(3, &["ls", "plain@latest:/files/data"]);
    for words in ["vdb/part/1, vdc/part/1", "--key"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // With one key the other disk alone is left, and that is said.
    place.ok(&[&["backup", "half"][..], &disks, &keys[..2]].concat());
    assert_eq!(read("half@latest:/files/more/is"), "one");
    assert_eq!(read("half@latest:/files/data/is"), "two");
    let json = place.json(&["volumes", "half@latest"]);
    let notes = json["files"][0]["notes"].to_string();
    assert!(notes.contains("vdc/part/1 alone fits"), "{notes}");
}

/// `/home` of a deployment is a link into `/var`, which lies beside it.
#[test]
fn a_deployment_is_read_with_its_var() {
    if !has("mkfs.ext4") || !has("sfdisk") {
        return;
    }
    let place = Place::new();
    let at = |path: &str| place.path("root/ostree/deploy/fedora").join(path);
    put(&at("deploy/aaa.0/usr/lib/os-release"), "ID=fedora\n");
    put(&at("deploy/aaa.0/etc/hostname"), "iot\n");
    fs::create_dir_all(at("deploy/aaa.0/var")).unwrap();
    symlink("var/home", at("deploy/aaa.0/home")).unwrap();
    put(&at("var/home/core/is"), "here");
    disk(&place, "vda", "root");
    place.ok(&["backup", "web01", "vda=vda.raw"]);
    for path in ["home/core", "var/home/core"] {
        let listed = place.ok(&["ls", &format!("web01@latest:/files/{path}")]);
        assert!(listed.contains("is"), "{listed}");
    }
    let to = place.path("out");
    place.ok(&[
        "restore",
        "web01@latest:/files",
        "--to",
        to.to_str().unwrap(),
    ]);
    let found = fs::read_to_string(to.join("files/var/home/core/is")).unwrap();
    assert_eq!(found, "here");
    assert!(!to.join("files/ostree").exists());
}
