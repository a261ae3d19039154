//! `files/`: a guest whose system is spread over disks, as its own fstab joins it.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use restorefs::block::{FileDisk, ReadAt};
use restorefs::sys::beneath::Access;

use crate::kit::wait::eventually;
use crate::world::{World, names, ready, run, text, unmount};

const POINT: &str = "web01/first";

/// A filesystem made of a directory.
fn image(world: &World, name: &str, label: &str, source: &Path) -> PathBuf {
    let image = world.path(name);
    std::fs::File::create(&image)
        .unwrap()
        .set_len(24 << 20)
        .unwrap();
    run(
        "mkfs.ext4",
        &["-q", "-F", "-L", label, "-d", text(source), text(&image)],
    );
    image
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The root on `vda`, `/srv/data` on `vdb`, and `/srv/data/deep/er` on `vdc`; an NFS share that is not there.
fn world() -> World {
    let world = World::empty();
    let (root, data, deeper) = (world.path("root"), world.path("data"), world.path("deeper"));
    put(
        &root.join("etc/fstab"),
        "# what it is made of\n\
         LABEL=root  /             ext4 errors=remount-ro 0 1\n\
         LABEL=data  /mnt/way/data ext4 defaults          0 2\n\
         /dev/vdc    /srv/data/deep/er ext4 defaults      0 2\n\
         nas:/export /mnt/share    nfs  ro                0 0\n\
         tmpfs       /tmp          tmpfs defaults         0 0\n",
    );
    put(
        &root.join("etc/os-release"),
        "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    put(&root.join("srv/data/hidden"), "below the mount");
    put(&root.join("usr/bin/tool"), "#!/bin/sh\n");
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    symlink("../srv", root.join("mnt-way")).unwrap();
    std::fs::create_dir(root.join("mnt")).unwrap();
    symlink("../srv", root.join("mnt/way")).unwrap();
    symlink("/etc/os-release", root.join("a/b/absolute")).unwrap();
    symlink("/", root.join("a/b/top")).unwrap();
    symlink("../../../../../../../../etc/passwd", root.join("a/b/climb")).unwrap();
    symlink("top/../../../../../etc/passwd", root.join("a/b/crafted")).unwrap();
    symlink("/srv/data/deep/er/file", root.join("a/b/over")).unwrap();
    symlink("../../usr/bin/tool", root.join("a/b/sound")).unwrap();
    symlink("nowhere/at/all", root.join("a/b/dangling")).unwrap();
    symlink("c", root.join("a/b/down")).unwrap();
    put(&data.join("file"), "on vdb");
    std::fs::create_dir_all(data.join("deep/er")).unwrap();
    symlink("/srv/data/file", data.join("deep/back")).unwrap();
    put(&deeper.join("file"), "on vdc");
    let images = [
        ("vda", image(&world, "vda.img", "root", &root)),
        ("vdb", image(&world, "vdb.img", "data", &data)),
        ("vdc", image(&world, "vdc.img", "deeper", &deeper)),
    ];
    let disks = images.map(|(name, path)| (name, FileDisk::open(&path, Access::Read).unwrap()));
    let disks: Vec<(&str, &dyn ReadAt)> = disks
        .iter()
        .map(|(name, disk)| (*name, disk as &dyn ReadAt))
        .collect();
    world.commit("web01", "first", &disks);
    world
}

/// The same, as a kernel joins it.
struct Kernel {
    mounted: Vec<PathBuf>,
}

impl Kernel {
    fn new(world: &World) -> Self {
        let top = world.path("kernel");
        std::fs::create_dir(&top).unwrap();
        let mut mounted = Vec::new();
        for (image, at) in [
            ("vda.img", ""),
            ("vdb.img", "srv/data"),
            ("vdc.img", "srv/data/deep/er"),
        ] {
            let at = top.join(at);
            run(
                "mount",
                &["-o", "loop,ro,noload", text(&world.path(image)), text(&at)],
            );
            mounted.push(at);
        }
        Self { mounted }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for at in self.mounted.iter().rev() {
            run("umount", &[text(at)]);
        }
    }
}

#[test]
fn a_system_is_joined_as_its_fstab_says() {
    if !ready() {
        return;
    }
    let world = world();
    let mount = world.mount();
    let files = world.at(POINT).join("files");
    let read = |path: &str| std::fs::read_to_string(files.join(path)).unwrap();
    assert_eq!(read("srv/data/file"), "on vdb");
    assert_eq!(read("srv/data/deep/er/file"), "on vdc");
    assert_eq!(read("mnt/way/data/file"), "on vdb");
    assert!(!files.join("srv/data/hidden").exists());
    let below = world.at(POINT).join("volumes/vda/raw/srv/data/hidden");
    assert_eq!(std::fs::read_to_string(below).unwrap(), "below the mount");
    // The way back up.
    assert_eq!(
        read("srv/data/deep/er/../../../../etc/os-release"),
        read("etc/os-release")
    );
    assert!(names(&files.join("..")).contains(&"info.json".to_owned()));
    let kernel = Kernel::new(&world);
    let (ours, theirs) = (
        format!("{}/", text(&files)),
        format!("{}/", text(&world.path("kernel"))),
    );
    let differences = run(
        "rsync",
        &["-aHAXni", "--checksum", "--delete", &theirs, &ours],
    );
    assert_eq!(differences, "");
    drop(kernel);
    unmount(&mount);
}

#[test]
fn no_inode_is_at_two_places() {
    if !ready() {
        return;
    }
    let world = world();
    let mount = world.mount();
    let listed = run(
        "find",
        &[text(&world.at("web01/first/")), "-printf", "%i %n %y %p\\n"],
    );
    let mut seen = std::collections::HashMap::new();
    for line in listed.lines() {
        let mut words = line.splitn(4, ' ');
        let (ino, links, kind) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap(),
        );
        let other = seen.insert(ino.to_owned(), line.to_owned());
        assert!(
            other.is_none() || (kind != "d" && links != "1"),
            "{line} and {other:?}"
        );
    }
    assert!(seen.len() > 60, "{}", seen.len());
    // The same after a remount.
    let ino = |path: &str| std::fs::metadata(world.at(POINT).join(path)).unwrap().ino();
    let paths = [
        "files",
        "files/etc",
        "files/srv/data",
        "files/srv/data/deep/er/file",
        "volumes/vdb/raw",
    ];
    let before = paths.map(ino);
    unmount(&mount);
    let mount = world.mount();
    assert_eq!(paths.map(ino), before);
    unmount(&mount);
}

#[test]
fn volumes_json_says_what_was_joined_and_what_not() {
    if !ready() {
        return;
    }
    let world = world();
    let mount = world.mount();
    assert_eq!(
        names(&world.at(POINT)),
        ["attached", "disks", "files", "info.json", "volumes"]
    );
    let text = std::fs::read_to_string(world.at(POINT).join("volumes.json")).unwrap();
    eventually("volumes.json", || {
        names(&world.at(POINT)).contains(&"volumes.json".to_owned())
    });
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tree = &value["files"][0];
    assert_eq!(tree["name"], "files");
    assert_eq!(tree["system"], "Debian GNU/Linux 12 (bookworm)");
    let paths: Vec<&str> = tree["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/", "/srv/data", "/srv/data/deep/er"]);
    assert_eq!(tree["mounts"][1]["volume"], "vdb/raw");
    let unjoined = tree["unjoined"].as_array().unwrap();
    assert_eq!(unjoined.len(), 1, "{unjoined:?}");
    assert_eq!(unjoined[0]["source"], "nas:/export");
    unmount(&mount);
}

/// Rebased symlinks stay in the guest, whatever they say; verbatim ones are the guest's own words.
#[test]
fn rebased_symlinks_stay_in_the_guest() {
    if !ready() {
        return;
    }
    let world = world();
    let files = world.at(POINT).join("files");
    let target = |name: &str| {
        std::fs::read_link(files.join("a/b").join(name))
            .unwrap()
            .into_os_string()
            .into_string()
            .unwrap()
    };
    let mount = world.mount();
    assert_eq!(target("absolute"), "/etc/os-release");
    assert_eq!(target("climb"), "../../../../../../../../etc/passwd");
    unmount(&mount);
    let mount = world.mount_with("symlinks=rebase");
    for (name, expected) in [
        ("absolute", "../../etc/os-release"),
        ("top", "../.."),
        ("climb", "../../etc/passwd"),
        ("crafted", "../../etc/passwd"),
        ("over", "../../srv/data/deep/er/file"),
        ("sound", "../../usr/bin/tool"),
        ("dangling", "nowhere/at/all"),
        ("down", "c"),
    ] {
        assert_eq!(target(name), expected, "{name}");
    }
    assert_eq!(
        std::fs::read_to_string(files.join("a/b/over")).unwrap(),
        "on vdc"
    );
    assert_eq!(
        std::fs::read_to_string(files.join("srv/data/deep/back")).unwrap(),
        "on vdb"
    );
    // There is no /etc/passwd in this guest, and the host's is not shown.
    assert!(std::fs::read(files.join("a/b/crafted")).is_err());
    assert!(std::fs::read(files.join("a/b/climb")).is_err());
    unmount(&mount);
}

/// A deployment of ostree: what lies beside it on the same volume is bound into it, and its links lead there.
#[test]
fn links_of_a_deployment_are_rebased_into_what_is_bound() {
    if !ready() {
        return;
    }
    let world = World::empty();
    let root = world.path("root");
    let at = |path: &str| root.join("ostree/deploy/fedora").join(path);
    put(&at("deploy/aaa.0/etc/os-release"), "ID=fedora\n");
    put(&at("var/home/core/file"), "here");
    std::fs::create_dir_all(at("deploy/aaa.0/var")).unwrap();
    symlink("/var/home", at("deploy/aaa.0/home")).unwrap();
    let disk = FileDisk::open(image(&world, "vda.img", "root", &root), Access::Read).unwrap();
    world.commit("web01", "first", &[("vda", &disk as &dyn ReadAt)]);
    let mount = world.mount_with("symlinks=rebase");
    let files = world.at(POINT).join("files");
    assert_eq!(
        std::fs::read_link(files.join("home")).unwrap(),
        Path::new("var/home")
    );
    let read = |path: &str| std::fs::read_to_string(files.join(path)).unwrap();
    assert_eq!(read("home/core/file"), "here");
    assert_eq!(read("var/home/core/file"), "here");
    // The same file in the volume itself.
    let below = "volumes/vda/raw/ostree/deploy/fedora/var/home/core/file";
    assert_eq!(
        std::fs::read_to_string(world.at(POINT).join(below)).unwrap(),
        "here"
    );
    unmount(&mount);
}
