//! Plans over filesystems in memory.

use std::sync::Arc;

use super::{Files, Place, System, VolumeFacts, plan_files, plan_systems};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{GuestFs, GuestIno};
use crate::guest::memory::MemoryFs;
use crate::guest::volume::{Alias, Origin};

/// Volumes of a guest: partitions of its first disk, each with a filesystem or none.
#[derive(Default)]
struct Guest {
    facts: Vec<VolumeFacts>,
    filesystems: Vec<Option<Arc<MemoryFs>>>,
}

impl Guest {
    fn add(&mut self, fs: Option<MemoryFs>) -> &mut VolumeFacts {
        let number = self.facts.len() + 1;
        let info = fs.as_ref().map(|fs| fs.info().clone());
        self.facts.push(VolumeFacts {
            path: format!("vda/part/{number}"),
            origin: Origin::Partition {
                disk: Some(0),
                number: u32::try_from(number).unwrap(),
            },
            label: info.as_ref().and_then(|info| info.label.clone()),
            uuid: info.and_then(|info| info.uuid),
            part_label: None,
            part_uuid: None,
            format: Some("ext4".to_owned()),
            serial: None,
            disks: vec![0],
            is_snapshot: false,
            alias: Alias::default(),
            may_open: true,
            obstacle: None,
        });
        self.filesystems.push(fs.map(Arc::new));
        self.facts.last_mut().unwrap()
    }

    fn open(&self, at: usize) -> Result<Arc<dyn GuestFs>> {
        match self.filesystems.get(at) {
            Some(Some(fs)) => Ok(Arc::<MemoryFs>::clone(fs)),
            _ => Err(Error::new(ErrorKind::Corrupt, "the filesystem is damaged")),
        }
    }

    fn systems(&self) -> Vec<System> {
        plan_systems(&self.facts, &|at| self.open(at))
    }

    fn files(&self) -> Files {
        plan_files(&self.facts, &|at| self.open(at))
    }

    fn place(&self, volume: usize, path: &str) -> Place {
        let fs = self.filesystems.get(volume).unwrap().as_ref().unwrap();
        let ino = fs.resolve(path).unwrap();
        Place { volume, ino }
    }
}

/// A filesystem with that label and UUID, these directories and, unless empty, this fstab.
fn fs(label: &str, uuid: &str, directories: &[&str], fstab: &str) -> MemoryFs {
    let mut fs = MemoryFs::new();
    fs.set_label(label, uuid);
    for path in directories {
        fs.directory(path).unwrap();
    }
    if !fstab.is_empty() {
        fs.directory("etc").unwrap();
        fs.file("etc/fstab", fstab.as_bytes()).unwrap();
    }
    fs
}

fn mounts(system: &System) -> Vec<(String, usize, Place)> {
    system
        .mounts
        .iter()
        .map(|mount| {
            let path = String::from_utf8(mount.path.clone()).unwrap();
            (path, mount.root.volume, mount.over)
        })
        .collect()
}

fn reasons(system: &System) -> Vec<(&str, &str)> {
    system
        .unjoined
        .iter()
        .map(|entry| (entry.target.as_str(), entry.reason.as_str()))
        .collect()
}

#[test]
fn a_system_with_what_it_mounts() {
    let mut guest = Guest::default();
    let fstab = "UUID=aaaa-1 / ext4 defaults 0 1\n\
        UUID=cccc-3 /home/shared ext4 defaults 0 2\nLABEL=home /home ext4 noatime 0 2\n\
        tmpfs /tmp tmpfs size=1G 0 0\n/dev/vda5 none swap sw 0 0\n\
        server:/export /net nfs defaults 0 0\n//server/share /net cifs defaults 0 0\n\
        /dev/vda4 /data ext4 defaults 0 0\nUUID=none /gone ext4 nofail 0 0\n\
        LABEL=home /away ext4 noauto 0 0\n/dev/cdrom /media udf noauto 0 0\n\
        /home/shared/pub /srv/pub none bind 0 0\n/dev/vda3 /nowhere ext4 defaults 0 0\n";
    let directories = [
        "home", "net", "data", "gone", "srv", "srv/pub", "usr", "usr/lib",
    ];
    let mut root = fs("root fs", "aaaa-1", &directories, fstab);
    let release = "PRETTY_NAME=\"Debian 12\"\nID=debian\nVERSION_ID=\"12\"\n";
    root.file("usr/lib/os-release", release.as_bytes()).unwrap();
    root.symlink("etc/os-release", "../usr/lib/os-release")
        .unwrap();
    guest.add(Some(root));
    guest.add(Some(fs("home", "bbbb-2", &["shared"], "")));
    guest.add(Some(fs("shared", "cccc-3", &["pub"], "")));
    guest.add(None);
    let systems = guest.systems();
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    // The label has a blank, so the system's name is taken.
    assert_eq!(system.label, "debian-12");
    assert_eq!(system.name.as_deref(), Some("Debian 12"));
    assert_eq!(system.root, guest.place(0, ""));
    assert_eq!(
        mounts(system),
        [
            ("/home".to_owned(), 1, guest.place(0, "home")),
            ("/home/shared".to_owned(), 2, guest.place(1, "shared")),
            ("/srv/pub".to_owned(), 2, guest.place(0, "srv/pub")),
        ]
    );
    let bound = system.mounts.last().unwrap().root;
    assert_eq!(bound, guest.place(2, "pub"));
    let reasons = reasons(system);
    let targets: Vec<&str> = reasons.iter().map(|(target, _)| *target).collect();
    assert_eq!(
        targets,
        ["/net", "/net", "/away", "/data", "/gone", "/nowhere"]
    );
    for (at, part) in [
        (0, "another machine"),
        (2, "noauto"),
        (3, "is damaged"),
        (4, "no such volume"),
        (5, "mount point"),
    ] {
        assert!(reasons[at].1.contains(part), "{reasons:?}");
    }
}

#[test]
fn mount_points_are_resolved_inside_the_guest() {
    let mut guest = Guest::default();
    let fstab = "/dev/vda1 / ext4\n/dev/vda2 /var/www ext4\n/dev/vda3 /loop/x ext4\n\
        /dev/vda4 /up/../../../../opt ext4\n";
    let mut root = fs("r", "1", &["srv", "srv/web", "var", "opt"], fstab);
    root.symlink("var/www", "/srv/../../../srv/./link").unwrap();
    root.symlink("srv/link", "web").unwrap();
    root.symlink("loop", "loop").unwrap();
    root.symlink("up", "../../..").unwrap();
    guest.add(Some(root));
    for n in 2..5 {
        guest.add(Some(fs(&format!("v{n}"), "x", &[], "")));
    }
    let systems = guest.systems();
    assert_eq!(
        mounts(&systems[0]),
        [
            ("/srv/web".to_owned(), 1, guest.place(0, "srv/web")),
            ("/opt".to_owned(), 3, guest.place(0, "opt")),
        ]
    );
    assert!(reasons(&systems[0])[0].1.contains("symlinks without end"));
}

#[test]
fn subvolumes_are_roots_and_mounts() {
    let mut guest = Guest::default();
    let mut pool = fs("pool", "p", &["@", "@/etc", "@/home", "@home", "snap"], "");
    let fstab = "UUID=p / btrfs subvol=/@,compress=zstd 0 0\nUUID=p /home btrfs subvolid=257 0 0\n\
        UUID=p /home btrfs subvol=none 0 0\nUUID=p /home btrfs subvolid=x 0 0\n";
    pool.file("@/etc/fstab", fstab.as_bytes()).unwrap();
    pool.set_subvolume("", 5).unwrap();
    pool.set_subvolume("@", 256).unwrap();
    pool.set_subvolume("@home", 257).unwrap();
    guest.add(Some(pool));
    let systems = guest.systems();
    assert_eq!(systems.len(), 1);
    assert_eq!(systems[0].root, guest.place(0, "@"));
    assert_eq!(systems[0].label, "pool");
    let mount = &systems[0].mounts[0];
    assert_eq!(
        (mount.over, mount.root),
        (guest.place(0, "@/home"), guest.place(0, "@home"))
    );
    let reasons = reasons(&systems[0]);
    assert!(reasons[0].1.contains("no such subvolume"), "{reasons:?}");
    assert!(reasons[1].1.contains("subvolid"), "{reasons:?}");
}

/// A default subvolume that is itself a system wins; what fstab says of the root wins over both.
#[test]
fn the_default_subvolume_is_looked_at_first() {
    for (fstab, root) in [("", "new"), ("/dev/vda1 / btrfs subvolid=9\n", "old")] {
        let mut pool = fs("pool", "p", &["new", "new/etc", "old", "old/etc"], "");
        pool.file("new/etc/fstab", fstab.as_bytes()).unwrap();
        pool.file("old/etc/os-release", b"ID=old").unwrap();
        pool.set_subvolume("new", 8).unwrap();
        pool.set_subvolume("old", 9).unwrap();
        let mut guest = Guest::default();
        guest.add(Some(pool));
        assert_eq!(guest.systems()[0].root, guest.place(0, root));
    }
}

#[test]
fn copies_and_several_systems() {
    let mut guest = Guest::default();
    let fstab = "UUID=one / ext4\nLABEL=data /data ext4\n";
    guest.add(Some(fs("sys", "one", &["data"], fstab)));
    guest.add(Some(fs("data", "d", &[], "")));
    // A snapshot has the same UUID: it is a system of its own.
    guest.add(Some(fs("SYS", "one", &["data"], fstab)));
    // A copy with a new UUID whose fstab names the first is none.
    guest.add(Some(fs("copy", "two", &["data"], fstab)));
    // A system whose fstab names a disk that is not there.
    guest.add(Some(fs("..", "three", &[], "/dev/sdq9 / ext4\n")));
    let systems = guest.systems();
    let found: Vec<(&str, usize, usize)> = systems
        .iter()
        .map(|system| {
            (
                system.label.as_str(),
                system.root.volume,
                system.mounts.len(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [("sys", 0, 1), ("SYS-2", 2, 1), ("vda-part-5", 4, 0)]
    );
}

#[test]
fn encrypted_names_say_what_opens_them() {
    let mut guest = Guest::default();
    let fstab = "/dev/vda1 / ext4\n/dev/mapper/secret /s ext4\n/dev/dm-3 /t ext4\n";
    let mut root = fs("r", "1", &["s", "t"], fstab);
    root.file("etc/crypttab", b"# x\nsecret UUID=12 none luks\n")
        .unwrap();
    guest.add(Some(root));
    let systems = guest.systems();
    let reasons = reasons(&systems[0]);
    assert!(reasons[0].1.contains("UUID=12"), "{reasons:?}");
    assert!(reasons[1].1.contains("dm-N"), "{reasons:?}");
}

#[test]
fn a_later_mount_covers_an_earlier_one() {
    let mut guest = Guest::default();
    let fstab = "/dev/vda1 / ext4\n/dev/vda2 /a ext4\n/dev/vda3 /a ext4\n/dev/vda2 /a/in ext4\n\
        /dev/vda2 /x/.. ext4\n/dev/vda2 /etc/fstab ext4\n";
    guest.add(Some(fs("r", "1", &["a", "x"], fstab)));
    guest.add(Some(fs("two", "2", &[], "")));
    guest.add(Some(fs("three", "3", &["in"], "")));
    let systems = guest.systems();
    assert_eq!(
        mounts(&systems[0]),
        [
            ("/a".to_owned(), 1, guest.place(0, "a")),
            ("/a".to_owned(), 2, guest.place(1, "")),
            ("/a/in".to_owned(), 1, guest.place(2, "in")),
        ]
    );
    assert_eq!(systems[0].unjoined.len(), 2);
}

#[test]
fn disks_without_a_system() {
    let mut guest = Guest::default();
    assert_eq!(guest.files(), Files::Nothing);
    guest.add(None);
    assert_eq!(guest.files(), Files::Nothing);
    guest.add(Some(fs("data", "1", &["x"], "")));
    assert_eq!(guest.files(), Files::One(guest.place(1, "")));
    guest.add(Some(fs("data", "2", &["etc"], "")));
    guest.add(Some(fs("a/b", "3", &[], ""))).may_open = true;
    guest.add(Some(fs("locked", "4", &[], ""))).may_open = false;
    let Files::Several(places) = guest.files() else {
        panic!("{:?}", guest.files());
    };
    let names: Vec<&str> = places.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["data", "data-2", "vda-part-4"]);
    guest.add(Some(fs("root", "5", &[], "# nothing\n")));
    assert!(matches!(guest.files(), Files::Systems(systems) if systems.len() == 1));
}

#[test]
fn what_cannot_be_read_joins_nothing_else() {
    let mut guest = Guest::default();
    let mut root = fs("r", "1", &["a"], "/dev/vda1 / ext4\n/dev/vda2 /a ext4\n");
    root.fail("a", ErrorKind::Io).unwrap();
    guest.add(Some(root));
    guest.add(Some(fs("two", "2", &[], "")));
    let systems = guest.systems();
    assert!(systems[0].mounts.is_empty());
    assert_eq!(systems[0].unjoined.len(), 1);
    // An fstab that cannot be read is no reason to hide the system, if something else shows it.
    let mut root = fs("r", "1", &["a"], "x");
    root.fail("etc/fstab", ErrorKind::Io).unwrap();
    root.file("etc/os-release", b"ID=x").unwrap();
    let mut guest = Guest::default();
    guest.add(Some(root));
    assert_eq!(guest.systems().len(), 1);
    assert_eq!(guest.systems()[0].root.ino, GuestIno(2));
    assert_eq!(guest.systems()[0].unjoined[0].source, "/etc/fstab");
}

/// The members of a filesystem over several devices have its UUID; the volume that carries it is meant.
#[test]
fn members_are_passed_over() {
    let mut guest = Guest::default();
    guest.add(None).may_open = false;
    guest.facts[0].uuid = Some("pool".to_owned());
    guest.add(Some(fs(
        "r",
        "1",
        &["a"],
        "UUID=pool /a btrfs\nLABEL=late /etc ext4\n",
    )));
    guest.add(Some(fs("pool", "pool", &[], "")));
    // A format whose label only its reader knows.
    guest.add(Some(fs("late", "x", &[], ""))).label = None;
    let systems = guest.systems();
    let volumes: Vec<usize> = systems[0].mounts.iter().map(|m| m.root.volume).collect();
    assert_eq!(volumes, [2, 3]);
}

/// Each of two disks was the first one of its machine: both are systems.
#[test]
fn names_of_the_kernel_make_no_copy() {
    let mut guest = Guest::default();
    guest.add(Some(fs("one", "1", &[], "/dev/vda1 / ext4\n")));
    guest.add(Some(fs("two", "2", &[], "/dev/sda1 / ext4\n")));
    let labels: Vec<String> = guest.systems().into_iter().map(|s| s.label).collect();
    assert_eq!(labels, ["one", "two"]);
}

/// Many volumes are looked at, and few held open at once.
#[test]
fn few_filesystems_are_held() {
    let mut guest = Guest::default();
    guest.add(Some(fs(
        "r",
        "1",
        &["a"],
        "UUID=1 / ext4\nUUID=40 /a ext4\n",
    )));
    for n in 2..=40 {
        guest.add(Some(fs("v", &n.to_string(), &[], "")));
    }
    let most = std::cell::Cell::new(0);
    let systems = plan_systems(&guest.facts, &|at| {
        let held = guest.filesystems.iter().flatten();
        most.set(
            most.get()
                .max(held.filter(|fs| Arc::strong_count(fs) > 1).count()),
        );
        guest.open(at)
    });
    assert_eq!(systems[0].mounts[0].root.volume, 39);
    assert!(most.get() <= 8, "{}", most.get());
}

/// btrfs(5): `subvolid=0` is the top level (the kernel's btrfs_parse_subvol_options).
#[test]
fn the_number_zero_is_the_top_level() {
    let mut pool = fs("pool", "p", &["@", "@/etc", "@/volumes/01", "@data"], "");
    pool.file(
        "@/etc/fstab",
        b"UUID=p / btrfs subvol=@ 0 0\nUUID=p /volumes/01 btrfs subvolid=0 0 0\n",
    )
    .unwrap();
    pool.set_subvolume("", 5).unwrap();
    pool.set_subvolume("@", 256).unwrap();
    let mut guest = Guest::default();
    guest.add(Some(pool));
    let systems = guest.systems();
    assert_eq!(systems[0].mounts[0].root, guest.place(0, ""));
    assert!(systems[0].unjoined.is_empty(), "{:?}", systems[0].unjoined);
}

/// Any subvolume whose own fstab names it is a root; snapshots have the fstab of what they are snapshots of.
#[test]
fn roots_are_those_that_name_themselves() {
    let mut pool = fs("pool", "p", &["snapshots"], "");
    for (number, name) in [(256, "@arch"), (257, "distros/@debian"), (258, "before")] {
        let of = if name == "before" { "@arch" } else { name };
        pool.directory(&format!("{name}/etc")).unwrap();
        let fstab = format!("UUID=p / btrfs subvol=/{of} 0 0\n");
        pool.file(&format!("{name}/etc/fstab"), fstab.as_bytes())
            .unwrap();
        pool.set_subvolume(name, number).unwrap();
    }
    pool.directory("loose/etc").unwrap();
    pool.file("loose/etc/os-release", b"ID=x").unwrap();
    pool.set_subvolume("loose", 259).unwrap();
    let mut guest = Guest::default();
    let mut all = fs("none", "n", &[], "");
    all.set_subvolume("", 5).unwrap();
    guest.add(Some(all));
    // The first that was given is the default one here.
    let mut top = pool;
    top.set_subvolume("", 5).unwrap();
    guest.add(Some(top));
    let systems = guest.systems();
    let roots: Vec<_> = systems.iter().map(|system| system.root).collect();
    assert_eq!(
        roots,
        [guest.place(1, "@arch"), guest.place(1, "distros/@debian")]
    );
}

/// NixOS: the fstab is a link into the store, which that fstab mounts.
#[test]
fn an_fstab_may_lie_in_a_store() {
    let mut pool = fs("nixos", "p", &["@root/nix", "@root/home", "@home/me"], "");
    pool.file("@root/etc/NIXOS", b"").unwrap();
    pool.symlink("@root/etc/fstab", "/etc/static/fstab")
        .unwrap();
    pool.symlink("@root/etc/static", "/nix/store/abc-etc/etc")
        .unwrap();
    let fstab = "/dev/disk/by-label/nixos / btrfs subvol=/@root 0 0\n\
        /dev/disk/by-label/nixos /nix btrfs subvol=@nix,compress=zstd 0 0\n\
        /dev/disk/by-label/nixos /home btrfs subvol=@home 0 0\n";
    pool.file("@nix/store/abc-etc/etc/fstab", fstab.as_bytes())
        .unwrap();
    pool.file(
        "@nix/store/abc-etc/etc/os-release",
        b"ID=nixos\nVERSION_ID=24.05\n",
    )
    .unwrap();
    pool.symlink("@root/etc/os-release", "/etc/static/os-release")
        .unwrap();
    for (number, name) in [(5, ""), (256, "@root"), (257, "@nix"), (258, "@home")] {
        pool.set_subvolume(name, number).unwrap();
    }
    let mut guest = Guest::default();
    guest.add(Some(pool));
    let systems = guest.systems();
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(system.root, guest.place(0, "@root"));
    let paths: Vec<String> = mounts(system).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["/nix", "/home"]);
    assert!(system.unjoined.is_empty(), "{:?}", system.unjoined);
}

/// ostree: the deployment of the newest boot entry, with `/var` bound into it; the other one is a system of its own.
#[test]
fn a_deployment_is_a_root() {
    let mut disk = fs("root", "r", &["ostree/deploy/rhcos/var/home/core"], "");
    for (sum, version) in [("aaa.0", "41"), ("bbb.0", "40")] {
        let dir = format!("ostree/deploy/rhcos/deploy/{sum}");
        disk.directory(&format!("{dir}/etc")).unwrap();
        disk.directory(&format!("{dir}/var")).unwrap();
        let text = format!("ID=rhcos\nVERSION_ID={version}\n");
        disk.file(&format!("{dir}/usr/lib/os-release"), text.as_bytes())
            .unwrap();
        disk.symlink(&format!("{dir}/home"), "var/home").unwrap();
    }
    for (entry, sum) in [("ostree-1", "bbb.0"), ("ostree-2", "aaa.0")] {
        let link = format!("ostree/boot.1/rhcos/{entry}/0");
        disk.symlink(&link, &format!("../../../deploy/rhcos/deploy/{sum}"))
            .unwrap();
        let version = entry.trim_start_matches("ostree-");
        let text = format!("version {version}\noptions root=UUID=r ostree=/{link}\n");
        disk.file(
            &format!("boot/loader.1/entries/{entry}.conf"),
            text.as_bytes(),
        )
        .unwrap();
    }
    let mut guest = Guest::default();
    guest.add(Some(disk));
    let systems = guest.systems();
    let names: Vec<_> = systems
        .iter()
        .map(|system| (system.root, mounts(system)))
        .collect();
    let place = |path: &str| guest.place(0, &format!("ostree/deploy/rhcos/{path}"));
    let var = |sum: &str| {
        let over = place(&format!("deploy/{sum}/var"));
        vec![("/var".to_owned(), 0, over)]
    };
    assert_eq!(
        names,
        [
            (place("deploy/aaa.0"), var("aaa.0")),
            (place("deploy/bbb.0"), var("bbb.0"))
        ]
    );
    assert_eq!(systems[0].mounts[0].root, place("var"));
}

/// SUSE's root is a snapshot: the default subvolume. Another one is a root when the boot entry names it.
#[test]
fn a_snapshot_is_a_root_only_where_it_is_named() {
    for (entry, root) in [
        (false, "@/.snapshots/1/snapshot"),
        (true, "@/.snapshots/2/snapshot"),
    ] {
        let mut pool = fs("pool", "p", &["@/var/log"], "");
        for (n, number) in [(1, 300), (2, 301)] {
            let dir = format!("@/.snapshots/{n}/snapshot");
            pool.directory(&format!("{dir}/var")).unwrap();
            pool.file(
                &format!("{dir}/etc/fstab"),
                b"UUID=p / btrfs defaults 0 0\nUUID=p /var btrfs subvol=/@/var 0 0\n",
            )
            .unwrap();
            pool.set_subvolume(&dir, number).unwrap();
        }
        for (path, number) in [("", 5), ("@", 256), ("@/var", 257)] {
            pool.set_subvolume(path, number).unwrap();
        }
        let mut boot = fs("boot", "b", &[], "");
        if entry {
            boot.file(
                "loader/entries/a-1.conf",
                b"version 1\noptions root=UUID=p rootflags=subvol=@/.snapshots/2/snapshot\n",
            )
            .unwrap();
        }
        let mut guest = Guest::default();
        guest.add(Some(pool));
        guest.add(Some(boot));
        let systems = guest.systems();
        let roots: Vec<_> = systems.iter().map(|system| system.root).collect();
        assert_eq!(roots, [guest.place(0, root)]);
        assert_eq!(systems[0].mounts[0].root, guest.place(0, "@/var"));
    }
}

/// systemd.mount(5): enabled units are mounted, others are not; the fstab wins. A partition's type wins where neither says anything.
#[test]
fn units_and_types_say_what_the_fstab_does_not() {
    let directories = ["srv/my-data", "var", "home", "opt", "mnt", "boot"];
    let mut root = fs(
        "root",
        "r",
        &directories,
        "LABEL=mnt /mnt ext4 defaults 0 0\n",
    );
    root.file("boot/vmlinuz", b"k").unwrap();
    let unit = |label: &str, place: &str| {
        format!("[Mount]\nWhat=/dev/disk/by-label/{label}\nWhere={place}\nType=ext4\n")
    };
    for (name, label, place, wanted) in [
        ("srv-my\\x2ddata", "DATA", "/srv/my-data", true),
        ("opt", "OPT", "/opt", false),
        ("mnt", "DATA", "/mnt", true),
    ] {
        let file = format!("etc/systemd/system/{name}.mount");
        root.file(&file, unit(label, place).as_bytes()).unwrap();
        if wanted {
            root.symlink(
                &format!("etc/systemd/system/local-fs.target.wants/{name}.mount"),
                &format!("../{name}.mount"),
            )
            .unwrap();
        }
    }
    let mut guest = Guest::default();
    guest.add(Some(root));
    for (label, kind, is_automatic) in [
        ("DATA", "", true),
        ("OPT", "", true),
        ("mnt", "", true),
        ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d", true),
        ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", false),
        ("home2", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", true),
        ("home3", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", true),
        ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", true),
    ] {
        let facts = guest.add(Some(fs(label, label, &[], "")));
        facts.part_uuid = Some(format!("{label}-part"));
        facts.alias.gpt_type = Some(kind.to_owned());
        facts.alias.is_automatic = is_automatic;
    }
    let systems = guest.systems();
    let mut found: Vec<(String, usize)> = mounts(&systems[0])
        .into_iter()
        .zip(&systems[0].mounts)
        .map(|((path, ..), mount)| (path, mount.root.volume))
        .collect();
    found.sort();
    let expected = [("/home", 6), ("/mnt", 3), ("/srv/my-data", 1), ("/var", 4)];
    assert_eq!(found, expected.map(|(path, at)| (path.to_owned(), at)));
    let notes = systems[0].notes.join("\n");
    for words in [
        "no-auto",
        "vda/part/8: not mounted at /home: vda/part/7 is the first",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

/// udev's names: what LVM and md tell is exact; of hardware the serial number decides, else what alone fits.
#[test]
fn names_of_udev() {
    let id = "a".repeat(64);
    let fstab = format!(
        "/dev/vda1 / ext4\n/dev/disk/by-id/dm-uuid-LVM-{id} /usr ext4\n/dev/disk/by-id/dm-name-vg--a-var--data /data ext4\n\
         /dev/disk/by-id/virtio-vol-0abc-part1 /a ext4\n/dev/disk/by-path/virtio-pci-0000:00:07.0-part3 /b xfs\n\
         /dev/disk/by-id/scsi-0QEMU_x-part1 /c ext4\n/dev/md127 /m ext4\n/dev/disk/by-id/md-uuid-{}:00000000:00000000:00000000 /n ext4\n",
        "11223344"
    );
    let directories = ["usr", "data", "a", "b", "c", "m", "n"];
    let mut guest = Guest::default();
    guest.add(Some(fs("r", "1", &directories, &fstab)));
    let logical = |name: &str| Origin::Logical {
        group: "vg-a".to_owned(),
        name: name.to_owned(),
    };
    let part = |disk, number| Origin::Partition {
        disk: Some(disk),
        number,
    };
    for (origin, path, format) in [
        (logical("usr"), "lvm/vg-a/usr", "ext4"),
        (logical("var-data"), "lvm/vg-a/var-data", "ext4"),
        (part(1, 1), "vdb/part/1", "ext4"),
        (part(1, 3), "vdb/part/3", "xfs"),
        (part(2, 1), "vdc/part/1", "ext4"),
        (part(3, 1), "vdd/part/1", "ext4"),
        (
            Origin::Array {
                name: "root".to_owned(),
            },
            "md/root",
            "ext4",
        ),
    ] {
        let facts = guest.add(Some(fs(path, path, &[], "")));
        facts.origin = origin;
        facts.path = path.to_owned();
        facts.format = Some(format.to_owned());
    }
    guest.facts[1].alias.device_id = Some(id);
    guest.facts[3].serial = Some("vol-0abc".to_owned());
    guest.facts[7].alias.device_id = Some("11223344000000000000000000000000".to_owned());
    let systems = guest.systems();
    let found: Vec<(String, usize)> = systems[0]
        .mounts
        .iter()
        .map(|mount| {
            let path = String::from_utf8(mount.path.clone()).unwrap();
            (path, mount.root.volume)
        })
        .collect();
    let expected = [
        ("/usr", 1),
        ("/data", 2),
        ("/a", 3),
        ("/b", 4),
        ("/m", 7),
        ("/n", 7),
    ];
    assert_eq!(found, expected.map(|(path, at)| (path.to_owned(), at)));
    let [(target, reason)] = reasons(&systems[0])[..] else {
        panic!("{:?}", systems[0].unjoined);
    };
    assert_eq!(target, "/c");
    assert!(
        reason.contains("vdc/part/1, vdd/part/1") && reason.contains("--key"),
        "{reason}"
    );
    let notes = systems[0].notes.join("\n");
    assert!(notes.contains("vdb/part/3 alone fits"), "{notes}");
}

/// Filesystems that share a UUID: no snapshot, and what lies on the disk of the root; what remains is refused by name.
#[test]
fn one_name_of_several_filesystems() {
    let mut guest = Guest::default();
    let fstab = "UUID=1 / ext4\nUUID=same /a ext4\nUUID=snap /b ext4\nUUID=far /c ext4\nline\nx relative ext4\n";
    guest.add(Some(fs("r", "1", &["a", "b", "c"], fstab)));
    for (uuid, disk, is_snapshot) in [
        ("same", 0, false),
        ("same", 0, false),
        ("snap", 0, true),
        ("snap", 0, false),
        ("far", 1, false),
        ("far", 0, false),
    ] {
        let facts = guest.add(Some(fs("x", uuid, &[], "")));
        facts.disks = vec![disk];
        facts.is_snapshot = is_snapshot;
    }
    let systems = guest.systems();
    let found: Vec<usize> = systems[0].mounts.iter().map(|m| m.root.volume).collect();
    assert_eq!(found, [4, 6]);
    let [(target, reason)] = reasons(&systems[0])[..] else {
        panic!("{:?}", systems[0].unjoined);
    };
    assert_eq!(target, "/a");
    assert!(reason.contains("vda/part/2, vda/part/3"), "{reason}");
    let notes = systems[0].notes.join("\n");
    assert!(
        notes.contains("line 5") && notes.contains("relative"),
        "{notes}"
    );
}
