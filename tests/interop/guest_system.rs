//! A guest's own tree over real filesystems: root and home in LVM, boot on another disk, joined as the fstab says.

use std::path::Path;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::error::{Error, Result};
use restorefs::guest::fs::{GuestFs, GuestIno};
use restorefs::guest::system::{Files, System, VolumeFacts, plan_files};
use restorefs::guest::volume::scan_point;
use restorefs::sys::beneath::Access;

use crate::guest_image::Mount;
use crate::guest_lvm::{Lab, table};
use crate::kit::need::has;
use crate::tool::run;

const FSTAB: &str = "\
/dev/mapper/vg--a-root / ext4 errors=remount-ro 0 1
UUID=5a2e1a0c-7a1f-4c55-a4a5-1b8a7be1b7f1 /boot ext4 defaults 0 2
/dev/vg-a/home /srv/../home ext4 defaults 0 2
/home/alice /mnt/alice none bind 0 0
/dev/mapper/vg--a-swap none swap sw 0 0
PARTUUID=00000000-01 /data xfs nofail 0 2
proc /proc proc defaults 0 0
";

/// An ext4 image with these directories and files.
fn image(lab: &Lab, name: &str, files: &[(&str, &str)], options: &[&str]) -> std::path::PathBuf {
    let root = lab.dir.path().join(format!("tree-{name}"));
    for (path, content) in files {
        let path = root.join(path);
        if content.is_empty() {
            std::fs::create_dir_all(path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
    let image = lab.dir.path().join(name);
    let mut arguments = vec!["-q", "-F", "-d", root.to_str().unwrap()];
    arguments.extend(options);
    arguments.extend([image.to_str().unwrap(), "8M"]);
    run("mkfs.ext4", &arguments);
    image
}

pub(crate) fn plan(disks: &[(String, Arc<dyn ReadAt>)]) -> (Files, Vec<Option<Arc<dyn GuestFs>>>) {
    let scan = scan_point(disks);
    let sources: Vec<_> = disks.iter().map(|(_, disk)| Arc::clone(disk)).collect();
    let facts: Vec<VolumeFacts> = scan.volumes.iter().map(VolumeFacts::from).collect();
    let opened: Vec<Option<Arc<dyn GuestFs>>> = scan
        .volumes
        .iter()
        .map(|volume| volume.open(&sources).1.map(Arc::from))
        .collect();
    let open = |at: usize| -> Result<Arc<dyn GuestFs>> {
        opened[at]
            .clone()
            .ok_or_else(|| Error::unsupported("no reader"))
    };
    (plan_files(&facts, &open), opened)
}

/// Content of a file of the joined tree, found by walking the plan's places alone.
pub(crate) fn read(system: &System, opened: &[Option<Arc<dyn GuestFs>>], path: &str) -> String {
    let fs = |volume: usize| opened[volume].as_ref().unwrap();
    let mut place = system.root;
    for name in path.split('/') {
        place.ino = fs(place.volume).lookup(place.ino, name.as_bytes()).unwrap();
        if let Some(mount) = system.mounts.iter().rev().find(|mount| mount.over == place) {
            place = mount.root;
        }
    }
    let (fs, ino): (_, GuestIno) = (fs(place.volume), place.ino);
    let size = fs.attributes(ino).unwrap().size_bytes;
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    fs.read_encoded(ino, 0, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn opened(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

#[test]
fn root_home_and_boot_are_one_tree() {
    let Some(lab) = Lab::new(&[0]) else { return };
    lab.group("vg-a", &[0]);
    lab.create("-n root -L 8M vg-a");
    lab.create("-n home -L 8M vg-a");
    lab.create("-n swap -L 8M vg-a");
    let directories = [
        ("boot", ""),
        ("home", ""),
        ("srv", ""),
        ("mnt/alice", ""),
        ("data", ""),
    ];
    let mut files = vec![
        ("etc/fstab", FSTAB),
        ("etc/hostname", "web01\n"),
        (
            "usr/lib/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=12\n",
        ),
    ];
    files.extend(directories);
    let root = image(&lab, "root", &files, &[]);
    let home = image(&lab, "home", &[("alice/notes", "hello\n")], &["-L", "home"]);
    let uuid = ["-U", "5a2e1a0c-7a1f-4c55-a4a5-1b8a7be1b7f1"];
    let boot = image(&lab, "boot", &[("grub/grub.cfg", "set x\n")], &uuid);
    lab.write("vg-a", "root", &std::fs::read(root).unwrap());
    lab.write("vg-a", "home", &std::fs::read(home).unwrap());
    let first = lab.dir.path().join("first");
    std::fs::write(&first, vec![0; 12 << 20]).unwrap();
    table(&first, "label: dos\nstart=1MiB, size=8MiB\n");
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[1 << 20..9 << 20].copy_from_slice(&std::fs::read(boot).unwrap());
    std::fs::write(&first, bytes).unwrap();
    let (_dir, disks) = lab.disks();
    let named = [
        ("vda".to_owned(), opened(&first)),
        ("vdb".to_owned(), Arc::clone(&disks[0])),
    ];
    let (Files::Systems(systems), filesystems) = plan(&named) else {
        panic!("no system");
    };
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(system.label, "debian-12");
    assert_eq!(system.name.as_deref(), Some("Debian GNU/Linux 12"));
    for (path, content) in [
        ("etc/hostname", "web01\n"),
        ("home/alice/notes", "hello\n"),
        ("mnt/alice/notes", "hello\n"),
        ("boot/grub/grub.cfg", "set x\n"),
    ] {
        assert_eq!(read(system, &filesystems, path), content, "{path}");
    }
    let [unjoined] = system.unjoined.as_slice() else {
        panic!("{:?}", system.unjoined);
    };
    assert_eq!(unjoined.target, "/data");
    // The boot disk alone is one filesystem without a system.
    let (files, _) = plan(&named[..1]);
    assert!(
        matches!(files, Files::One(place) if place.volume == 0),
        "{files:?}"
    );
}

/// A root and a home in subvolumes of one btrfs, as distributions lay them out, and a snapshot that is no system of its own.
#[test]
fn subvolumes_are_joined() {
    if !has("mkfs.btrfs") || !has("btrfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    let uuid = "0b6a6c1e-32f5-4b0c-9f11-4d6bb2b0a001";
    run(
        "mkfs.btrfs",
        &[
            "-q",
            "-f",
            "-L",
            "fedora",
            "-U",
            uuid,
            image.to_str().unwrap(),
        ],
    );
    let Some(mount) = Mount::new(&image, "rw") else {
        return;
    };
    let at = |path: &str| mount.path().join(path).to_str().unwrap().to_owned();
    for name in ["root", "home", "var"] {
        run("btrfs", &["-q", "subvolume", "create", &at(name)]);
    }
    for path in ["root/etc", "root/home", "root/var"] {
        std::fs::create_dir(at(path)).unwrap();
    }
    let fstab = format!(
        "UUID={uuid} / btrfs subvol=root,compress=zstd:1 0 0\nUUID={uuid} /home btrfs subvol=/home 0 0\n\
         LABEL=fedora /var btrfs subvolid=258 0 0\n"
    );
    std::fs::write(at("root/etc/fstab"), fstab).unwrap();
    std::fs::write(at("home/notes"), "hello\n").unwrap();
    std::fs::write(at("var/log"), "line\n").unwrap();
    run(
        "btrfs",
        &["-q", "subvolume", "snapshot", &at("root"), &at("before")],
    );
    std::fs::write(at("root/etc/hostname"), "web02\n").unwrap();
    drop(mount);
    let (Files::Systems(systems), filesystems) = plan(&[("vda".to_owned(), opened(&image))]) else {
        panic!("no system");
    };
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(system.label, "fedora");
    assert!(system.unjoined.is_empty(), "{:?}", system.unjoined);
    for (path, content) in [
        ("etc/hostname", "web02\n"),
        ("home/notes", "hello\n"),
        ("var/log", "line\n"),
    ] {
        assert_eq!(read(system, &filesystems, path), content, "{path}");
    }
}
