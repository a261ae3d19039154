//! Plans over filesystems in memory.

mod name;
mod root;

use std::sync::Arc;

use super::{FileLocation, Files, System, VolumeFacts, plan_files};
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
        systems(self.files())
    }

    fn files(&self) -> Files {
        plan_files(&self.facts, &|at| self.open(at))
    }

    fn place(&self, volume: usize, path: &str) -> FileLocation {
        let fs = self.filesystems.get(volume).unwrap().as_ref().unwrap();
        let ino = fs.resolve(path).unwrap();
        FileLocation { volume, ino }
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

fn systems(files: Files) -> Vec<System> {
    match files {
        Files::Systems(systems) => systems,
        _ => Vec::new(),
    }
}

fn mounts(system: &System) -> Vec<(String, usize, FileLocation)> {
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
    // The label contains a blank, so the name of the system is used.
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

/// A default subvolume that is itself a system wins; the root in the fstab wins over both.
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
    // A snapshot has the same UUID: it is a separate system.
    guest.add(Some(fs("SYS", "one", &["data"], fstab)));
    // A copy with a new UUID whose fstab names the first one is not a separate system.
    guest.add(Some(fs("copy", "two", &["data"], fstab)));
    // A system whose fstab names a missing disk.
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
    // An unreadable fstab does not hide the system, if another sign identifies it.
    let mut root = fs("r", "1", &["a"], "x");
    root.fail("etc/fstab", ErrorKind::Io).unwrap();
    root.file("etc/os-release", b"ID=x").unwrap();
    let mut guest = Guest::default();
    guest.add(Some(root));
    assert_eq!(guest.systems().len(), 1);
    assert_eq!(guest.systems()[0].root.ino, GuestIno(2));
    assert_eq!(guest.systems()[0].unjoined[0].source, "/etc/fstab");
}

/// The members of a filesystem over several devices have its UUID; the UUID refers to the volume that carries
/// it.
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
    // A format whose label only its reader can find.
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

/// Many volumes are opened, but only few are held open at once.
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
    let files = plan_files(&guest.facts, &|at| {
        let held = guest.filesystems.iter().flatten();
        most.set(
            most.get()
                .max(held.filter(|fs| Arc::strong_count(fs) > 1).count()),
        );
        guest.open(at)
    });
    assert_eq!(systems(files)[0].mounts[0].root.volume, 39);
    assert!(most.get() <= 8, "{}", most.get());
}
