//! Layouts of real distributions, made by their own tools and filled through the kernel: names of LVM volumes, subvolumes, stores,
//! deployments, partition types. The right values are what systemd's, LVM's and the kernel's documents say that such a machine mounts.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use restorefs::guest::system::{Files, System};

use crate::guest_image::Mount;
use crate::guest_lvm::{Lab, table};
use crate::guest_system::{opened, plan, read};
use crate::kit::need::has;
use crate::tool::run;

const MIB: usize = 1 << 20;

/// Files by path; an empty content is a directory, one that begins with `->` a link.
fn fill(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, path).unwrap(),
            None if content.is_empty() => std::fs::create_dir_all(path).unwrap(),
            None => std::fs::write(path, content).unwrap(),
        }
    }
}

/// An ext4 of 8 MiB with these files, as bytes.
fn ext4(dir: &Path, label: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let root = dir.join(format!("tree-{label}"));
    std::fs::create_dir_all(&root).unwrap();
    fill(&root, files);
    let image = dir.join(format!("image-{label}"));
    let (root, text) = (root.to_str().unwrap(), image.to_str().unwrap());
    run(
        "mkfs.ext4",
        &["-q", "-F", "-L", label, "-d", root, text, "8M"],
    );
    std::fs::read(image).unwrap()
}

/// A btrfs, mounted to be filled.
fn btrfs(dir: &Path, label: &str) -> Option<(PathBuf, Mount)> {
    if !has("mkfs.btrfs") || !has("btrfs") {
        return None;
    }
    let image = dir.join("image");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(128 << 20).unwrap();
    run(
        "mkfs.btrfs",
        &["-q", "-f", "-L", label, image.to_str().unwrap()],
    );
    let mount = Mount::new(&image, "rw")?;
    Some((image, mount))
}

fn subvolume(mount: &Mount, path: &str) {
    let path = mount.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    run(
        "btrfs",
        &["-q", "subvolume", "create", path.to_str().unwrap()],
    );
}

fn snapshot(mount: &Mount, from: &str, to: &str) {
    let at = |path: &str| mount.path().join(path).to_str().unwrap().to_owned();
    std::fs::create_dir_all(mount.path().join(to).parent().unwrap()).unwrap();
    run(
        "btrfs",
        &["-q", "subvolume", "snapshot", &at(from), &at(to)],
    );
}

/// What a system mounts, sorted.
fn mounts(system: &System) -> Vec<String> {
    let mut paths: Vec<String> = system
        .mounts
        .iter()
        .map(|mount| String::from_utf8(mount.path.clone()).unwrap())
        .collect();
    paths.sort();
    paths
}

fn systems(files: Files) -> Vec<System> {
    let Files::Systems(systems) = files else {
        panic!("no system: {files:?}");
    };
    systems
}

/// Ubuntu's installer names volumes by their UUIDs, SUSE's by their names.
#[test]
fn logical_volumes_are_found_by_udevs_links() {
    let Some(lab) = Lab::new(&[0]) else { return };
    lab.group("ubuntu-vg", &[0]);
    for name in ["ubuntu-lv", "usr", "var--data"] {
        let name = name.replace("--", "-");
        lab.create(&format!("-n {name} -L 8M ubuntu-vg"));
    }
    let plain = |text: String| text.trim().replace('-', "");
    let group = plain(lab.lvm("vgs --noheadings -o vg_uuid ubuntu-vg"));
    let usr = plain(lab.lvm("lvs --driverloaded n --noheadings -o lv_uuid ubuntu-vg/usr"));
    let by_id = "/dev/disk/by-id";
    let fstab = format!(
        "{by_id}/dm-uuid-LVM-{group}{usr} /usr ext4 defaults 0 1\n\
         {by_id}/dm-name-ubuntu--vg-var--data /var/data ext4 defaults 0 1\n\
         {by_id}/dm-uuid-LVM-{group}{} /home ext4 nofail 0 1\n",
        "x".repeat(32)
    );
    let dir = lab.dir.path().to_owned();
    let root = [
        ("etc/fstab", fstab.as_str()),
        ("usr", ""),
        ("home", ""),
        ("var/data", ""),
    ];
    lab.write("ubuntu-vg", "ubuntu-lv", &ext4(&dir, "root", &root));
    let content = [("lib/os-release", "ID=ubuntu\n")];
    lab.write("ubuntu-vg", "usr", &ext4(&dir, "usr", &content));
    let content = [("log", "line\n")];
    lab.write("ubuntu-vg", "var-data", &ext4(&dir, "data", &content));
    let (_dir, disks) = lab.disks();
    let (files, filesystems) = plan(&[("vda".to_owned(), disks[0].clone())]);
    let system = systems(files).remove(0);
    assert_eq!(
        read(&system, &filesystems, "usr/lib/os-release"),
        "ID=ubuntu\n"
    );
    assert_eq!(read(&system, &filesystems, "var/data/log"), "line\n");
    // A wrong UUID is still said.
    let [entry] = system.unjoined.as_slice() else {
        panic!("{:?}", system.unjoined);
    };
    assert_eq!(entry.target, "/home");
    assert_eq!(entry.class.as_str(), "missing_nofail");
}

/// After a rollback `@` is a new subvolume; `subvolid=0` is the top level, in which both are.
#[test]
fn a_rollback_and_the_top_level() {
    let temp = tempfile::tempdir().unwrap();
    let Some((image, mount)) = btrfs(temp.path(), "pool") else {
        return;
    };
    subvolume(&mount, "@");
    let fstab = "LABEL=pool / btrfs subvol=@ 0 0\nLABEL=pool /volumes/01 btrfs subvolid=0 0 0\n";
    fill(
        mount.path(),
        &[("@/etc/fstab", fstab), ("@/volumes/01", "")],
    );
    std::fs::rename(mount.path().join("@"), mount.path().join("old")).unwrap();
    snapshot(&mount, "old", "@");
    fill(mount.path(), &[("@/etc/hostname", "new\n")]);
    drop(mount);
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&image))]);
    let systems = systems(files);
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(
        read(system, &filesystems, "volumes/01/@/etc/hostname"),
        "new\n"
    );
    assert_eq!(read(system, &filesystems, "etc/hostname"), "new\n");
    assert!(system.unjoined.is_empty(), "{:?}", system.unjoined);
}

/// SUSE's root is the default subvolume, a snapshot; the other snapshots are none.
#[test]
fn the_default_snapshot_is_the_root() {
    let temp = tempfile::tempdir().unwrap();
    let Some((image, mount)) = btrfs(temp.path(), "suse") else {
        return;
    };
    for path in ["@", "@/var", "@/.snapshots", "@/.snapshots/1/snapshot"] {
        subvolume(&mount, path);
    }
    let root = "@/.snapshots/1/snapshot";
    let fstab = "LABEL=suse / btrfs defaults 0 0\nLABEL=suse /var btrfs subvol=/@/var 0 0\n\
        LABEL=suse /.snapshots btrfs subvol=/@/.snapshots 0 0\n";
    let at = |path: &str| format!("{root}/{path}");
    fill(
        mount.path(),
        &[
            (&at("etc/fstab"), fstab),
            (&at("etc/os-release"), "ID=sles\n"),
            (&at("var"), ""),
            (&at(".snapshots"), ""),
            ("@/var/log", "line\n"),
        ],
    );
    snapshot(&mount, root, "@/.snapshots/2/snapshot");
    fill(mount.path(), &[(&at("etc/hostname"), "suse\n")]);
    run(
        "btrfs",
        &[
            "subvolume",
            "set-default",
            mount.path().join(root).to_str().unwrap(),
        ],
    );
    drop(mount);
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&image))]);
    let systems = systems(files);
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    for (path, content) in [
        ("etc/hostname", "suse\n"),
        ("var/log", "line\n"),
        (".snapshots/2/snapshot/etc/os-release", "ID=sles\n"),
    ] {
        assert_eq!(read(system, &filesystems, path), content, "{path}");
    }
    assert!(system.unjoined.is_empty(), "{:?}", system.unjoined);
}

/// NixOS beside another system on one btrfs, with snapshots of both.
#[test]
fn two_systems_and_a_store_on_one_btrfs() {
    let temp = tempfile::tempdir().unwrap();
    let Some((image, mount)) = btrfs(temp.path(), "nixos") else {
        return;
    };
    for path in ["@root", "@nix", "@home", "@debian"] {
        subvolume(&mount, path);
    }
    let by = "/dev/disk/by-label/nixos";
    let fstab = format!(
        "{by} / btrfs subvol=/@root 0 0\n{by} /nix btrfs subvol=@nix,compress=zstd 0 0\n{by} /home btrfs subvol=@home 0 0\n"
    );
    fill(
        mount.path(),
        &[
            ("@root/etc/NIXOS", " "),
            ("@root/etc/fstab", "->/etc/static/fstab"),
            ("@root/etc/static", "->/nix/store/abc-etc/etc"),
            ("@root/nix", ""),
            ("@root/home", ""),
            ("@nix/store/abc-etc/etc/fstab", &fstab),
            ("@home/notes", "hello\n"),
            (
                "@debian/etc/fstab",
                "LABEL=nixos / btrfs subvol=@debian 0 0\n",
            ),
            ("@debian/etc/hostname", "debian\n"),
        ],
    );
    snapshot(&mount, "@root", "timeshift-btrfs/snapshots/1/@");
    snapshot(&mount, "@debian", "before");
    drop(mount);
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&image))]);
    let mut systems = systems(files);
    assert_eq!(systems.len(), 2, "{systems:?}");
    systems.sort_by_key(|system| system.mounts.len());
    assert_eq!(read(&systems[0], &filesystems, "etc/hostname"), "debian\n");
    let nixos = &systems[1];
    assert_eq!(mounts(nixos), ["/home", "/nix"]);
    assert_eq!(read(nixos, &filesystems, "home/notes"), "hello\n");
    assert_eq!(
        read(nixos, &filesystems, "nix/store/abc-etc/etc/fstab"),
        fstab
    );
    assert!(nixos.unjoined.is_empty(), "{:?}", nixos.unjoined);
}

/// No fstab: mount units that are enabled, and partitions by their types; the second root is a system of its own.
#[test]
fn partitions_are_mounted_by_their_types() {
    if !has("mkfs.ext4") || !has("sfdisk") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let disk = temp.path().join("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(80 << 20).unwrap();
    const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
    const VAR: &str = "4D21B016-B534-45C2-A9FB-5C16E091FD2D";
    const HOME: &str = "933AC7E1-2EB4-4F13-B844-0E14E2AEF915";
    let unit = |what: &str, place: &str| {
        format!(
            "[Mount]\nWhat=/dev/disk/by-label/{what}\nWhere={place}\nType=ext4\nOptions=noatime\n[Install]\nWantedBy=local-fs.target\n"
        )
    };
    let (data, other) = (unit("DATA", "/srv/my-data"), unit("OTHER", "/opt"));
    let units = "etc/systemd/system";
    let root = [
        ("etc/os-release", "ID=fedora\n".to_owned()),
        ("var", String::new()),
        ("home", String::new()),
        ("srv/my-data", String::new()),
        ("opt", String::new()),
        (&format!("{units}/srv-my\\x2ddata.mount"), data),
        (&format!("{units}/opt.mount"), other),
        (
            &format!("{units}/local-fs.target.wants/srv-my\\x2ddata.mount"),
            "->../srv-my\\x2ddata.mount".to_owned(),
        ),
    ];
    let root: Vec<(&str, &str)> = root.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let images = [
        (ROOT, "", ext4(temp.path(), "one", &root)),
        (VAR, "", ext4(temp.path(), "var", &[("log", "line\n")])),
        // Not automatic, the first that is, and one more.
        (HOME, "63", ext4(temp.path(), "h1", &[("is", "h1")])),
        (HOME, "", ext4(temp.path(), "h2", &[("is", "h2")])),
        (HOME, "", ext4(temp.path(), "h3", &[("is", "h3")])),
        (
            "linux",
            "",
            ext4(temp.path(), "DATA", &[("file", "data\n")]),
        ),
        (
            "linux",
            "",
            ext4(temp.path(), "OTHER", &[("file", "other\n")]),
        ),
        (
            ROOT,
            "",
            ext4(temp.path(), "two", &[("etc/os-release", "ID=two\n")]),
        ),
    ];
    let mut script = "label: gpt\n".to_owned();
    for (n, (kind, attribute, _)) in images.iter().enumerate() {
        let start = 1 + n * 9;
        let attributes = match attribute.is_empty() {
            true => String::new(),
            false => format!(", attrs=GUID:{attribute}"),
        };
        script.push_str(&format!(
            "start={start}MiB, size=8MiB, type={kind}{attributes}\n"
        ));
    }
    table(&disk, &script);
    let mut bytes = std::fs::read(&disk).unwrap();
    for (n, (.., image)) in images.iter().enumerate() {
        let at = (1 + n * 9) * MIB;
        bytes[at..at + image.len()].copy_from_slice(image);
    }
    std::fs::write(&disk, bytes).unwrap();
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&disk))]);
    let systems = systems(files);
    assert_eq!(systems.len(), 2, "{systems:?}");
    let system = &systems[0];
    assert_eq!(mounts(system), ["/home", "/srv/my-data", "/var"]);
    for (path, content) in [
        ("var/log", "line\n"),
        ("home/is", "h2"),
        ("srv/my-data/file", "data\n"),
    ] {
        assert_eq!(read(system, &filesystems, path), content, "{path}");
    }
    let notes = system.notes.join("\n");
    for part in ["vda/part/3", "vda/part/5", "vda/part/2 is mounted at /var"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    // The fstab wins over both.
    let mut with = root.clone();
    with.push((
        "etc/fstab",
        "LABEL=OTHER /srv/my-data ext4 defaults 0 0\nLABEL=h3 /home ext4 defaults 0 0\n",
    ));
    let mut bytes = std::fs::read(&disk).unwrap();
    let image = ext4(&temp.path().join("tree-one"), "one", &with);
    bytes[MIB..MIB + image.len()].copy_from_slice(&image);
    std::fs::write(&disk, bytes).unwrap();
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&disk))]);
    let Files::Systems(systems) = files else {
        panic!("no system");
    };
    let system = &systems[0];
    assert_eq!(read(system, &filesystems, "srv/my-data/file"), "other\n");
    assert_eq!(read(system, &filesystems, "home/is"), "h3");
    assert_eq!(read(system, &filesystems, "var/log"), "line\n");
}

/// Fedora CoreOS and its like: the root is a deployment, and `/var` lies beside it.
#[test]
fn a_deployment_of_ostree_is_the_root() {
    if !has("mkfs.ext4") || !has("sfdisk") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let deploy = "ostree/deploy/rhcos";
    let link = |number: u32| format!("ostree/boot.1/rhcos/abc/{number}");
    let at = |sum: &str, path: &str| format!("{deploy}/deploy/{sum}/{path}");
    let mut files = vec![
        (
            format!("{deploy}/var/home/core/notes"),
            "hello\n".to_owned(),
        ),
        (link(0), "->../../../deploy/rhcos/deploy/aaa.0".to_owned()),
        (link(1), "->../../../deploy/rhcos/deploy/bbb.0".to_owned()),
    ];
    for sum in ["aaa.0", "bbb.0"] {
        files.extend([
            (at(sum, "etc/hostname"), format!("{sum}\n")),
            (at(sum, "usr/lib/os-release"), "ID=rhcos\n".to_owned()),
            (at(sum, "usr/etc"), String::new()),
            (at(sum, "var"), String::new()),
            (at(sum, "boot"), String::new()),
            (at(sum, "home"), "->var/home".to_owned()),
        ]);
    }
    let entry = |number: u32| {
        format!(
            "version {}\noptions ostree=/{}\n",
            10 - number,
            link(number)
        )
    };
    let boot = [
        ("loader".to_owned(), "->loader.1".to_owned()),
        ("loader.1/entries/ostree-2.conf".to_owned(), entry(0)),
        ("loader.1/entries/ostree-1.conf".to_owned(), entry(1)),
    ];
    let borrowed = |files: &[(String, String)]| {
        let files = files.iter();
        let files: Vec<_> = files.map(|(a, b)| (a.clone(), b.clone())).collect();
        files
    };
    let image = |label: &str, files: &[(String, String)]| {
        let files = borrowed(files);
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        ext4(temp.path(), label, &files)
    };
    let disk = temp.path().join("disk");
    std::fs::write(&disk, vec![0; 20 * MIB]).unwrap();
    table(
        &disk,
        "label: gpt\nstart=1MiB, size=8MiB\nstart=10MiB, size=8MiB\n",
    );
    let mut bytes = std::fs::read(&disk).unwrap();
    for (at, image) in [(1, image("boot", &boot)), (10, image("root", &files))] {
        bytes[at * MIB..at * MIB + image.len()].copy_from_slice(&image);
    }
    std::fs::write(&disk, bytes).unwrap();
    let (files, filesystems) = plan(&[("vda".to_owned(), opened(&disk))]);
    let systems = systems(files);
    let [newest, other] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(read(newest, &filesystems, "etc/hostname"), "aaa.0\n");
    assert_eq!(read(other, &filesystems, "etc/hostname"), "bbb.0\n");
    for system in &systems {
        assert_eq!(read(system, &filesystems, "var/home/core/notes"), "hello\n");
        assert_eq!(mounts(system), ["/var"]);
    }
}
