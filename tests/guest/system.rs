//! A Debian guest over two disks is, file for file, what its own kernel would show.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use restorefs::chain::{Pool, PoolLimits};
use restorefs::fuse::{MountOptions, mount};
use restorefs::repo::Repository;
use restorefs::tree::Tree;
use serde_json::Value;

use crate::kernel::{Loop, Mounted, run, text};
use crate::kit::need::has;
use crate::layout::{Guest, Home, ready};

/// What rsync would change in `to` to make it `from`.
fn differences(from: &Path, to: &Path, more: &[&str]) -> String {
    let (from, to) = (format!("{}/", text(from)), format!("{}/", text(to)));
    let arguments = ["-aHAXn", "--checksum", "--delete", "-i"];
    run("rsync", &[&arguments, more, &[&from, &to]].concat())
}

fn files_below(dir: &Path) -> usize {
    run("find", &[text(dir), "-printf", "."]).len()
}

/// `files/` against the kernel's mounts of the same bytes, and the ESP, which this kernel may not know, against what was put there.
fn is_as_by_kernel(guest: &Guest, point: &Path) {
    let files = point.join("files");
    let kernel = guest.by_kernel();
    let top = guest.path("kernel");
    let found = differences(&top, &files, &["--exclude=/boot/efi"]);
    assert_eq!(found, "");
    assert!(files_below(&files) > 3000);
    assert!(!files.join("home/below").exists());
    // The comparison itself can tell.
    let log = differences(&top.join("var"), &files.join("home"), &[]);
    assert!(log.contains("log/syslog"), "{log}");
    drop(kernel);
    run(
        "diff",
        &[
            "-r",
            text(&guest.path("efi")),
            text(&files.join("boot/efi")),
        ],
    );
}

/// A copy with everything that rsync knows of; a second one copies nothing.
fn is_copied(guest: &Guest, point: &Path) {
    let (from, to) = (
        format!("{}/", text(&point.join("files"))),
        guest.path("copy"),
    );
    std::fs::create_dir(&to).unwrap();
    run("rsync", &["-aHAX", "--sparse", &from, text(&to)]);
    let again = run("rsync", &["-aHAX", "--sparse", "-i", &from, text(&to)]);
    assert_eq!(again, "");
    let kernel = guest.by_kernel();
    let found = differences(&guest.path("kernel"), &to, &["--exclude=/boot/efi"]);
    assert_eq!(found, "");
    drop(kernel);
    let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    assert!(blocks(&to.join("hard/sparse")) < 200);
    std::fs::remove_dir_all(to).unwrap();
}

/// A partition and a logical volume as raw files, read by this kernel.
fn is_mounted_from_raw(guest: &Guest, point: &Path) {
    let volumes = point.join("volumes");
    run(
        "cmp",
        &[
            text(&volumes.join("lvm/vg0/var.raw")),
            text(&guest.path("var.img")),
        ],
    );
    let root = Loop::read_only(&volumes.join("vda/part/3.raw"));
    let at = guest.path("from-raw");
    let mounted = Mounted::new(Path::new(&root.0), &at, "ro,noload");
    assert_eq!(differences(&at, &volumes.join("vda/part/3"), &[]), "");
    drop(mounted);
}

fn volume<'a>(found: &'a Value, path: &str) -> &'a Value {
    let volumes = found["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["path"] == path);
    volume.unwrap_or_else(|| panic!("no {path} in {found}"))
}

/// `restorefs volumes` and `volumes.json` say the same, and what is right.
fn is_described(guest: &Guest, point: &Path) {
    let _ = std::fs::read_dir(point.join("volumes")).unwrap().count();
    let shown = std::fs::read(point.join("volumes.json")).unwrap();
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let said = guest.place.json(&["volumes", "db01@latest"]);
    assert_eq!(shown, said);
    assert_eq!(shown["complete"], true);
    let home = match guest.home {
        Home::Xfs => "xfs",
        Home::Btrfs => "btrfs",
    };
    for (path, content, state) in [
        ("vda/part/1", "vfat", "readable"),
        ("vda/part/2", "swap", "no_filesystem"),
        ("vda/part/3", "ext4", "readable"),
        ("lvm/vg0/var", "ext4", "readable"),
        ("vdb/part/2", home, "readable"),
    ] {
        let volume = volume(&shown, path);
        assert_eq!(volume["content"], content, "{volume}");
        assert_eq!(volume["state"], state, "{volume}");
    }
    for path in ["vda/part/4", "vdb/part/1"] {
        assert_eq!(volume(&shown, path)["member_of"], "LVM group vg0");
    }
    let tree = &shown["files"][0];
    assert_eq!(tree["system"], "Debian GNU/Linux, the guest");
    let mut mounts: Vec<(&str, &str)> = tree["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["path"].as_str().unwrap(), m["volume"].as_str().unwrap()))
        .collect();
    mounts.sort_unstable();
    assert_eq!(
        mounts,
        [
            ("/", "vda/part/3"),
            ("/boot/efi", "vda/part/1"),
            ("/home", "vdb/part/2"),
            ("/var", "lvm/vg0/var")
        ]
    );
    assert_eq!(tree["unjoined"].as_array().unwrap().len(), 0, "{tree}");
}

/// Everything, with readers where `isolation` says.
fn check(guest: &Guest, isolation: &str, thorough: bool) {
    let mnt = guest.path("mnt");
    std::fs::create_dir_all(&mnt).unwrap();
    let daemon = guest
        .place
        .serve(&["--mount", text(&mnt), "--guest-isolation", isolation]);
    let point = mnt.join("db01/latest");
    is_as_by_kernel(guest, &point);
    assert_eq!(
        crate::process::readers_of(daemon.child.id()).is_empty(),
        isolation == "thread"
    );
    is_described(guest, &point);
    if thorough {
        is_copied(guest, &point);
        is_mounted_from_raw(guest, &point);
    }
    daemon.stop();
}

#[test]
fn a_guest_over_two_disks_is_what_its_kernel_shows() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Xfs, 3000);
    guest.back_up("one");
    check(&guest, "process", true);
    check(&guest, "thread", false);
}

#[test]
fn a_home_in_a_subvolume_is_what_its_kernel_shows() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Btrfs, 3000);
    guest.back_up("one");
    check(&guest, "process", false);
    check(&guest, "thread", false);
}

/// The program takes a directory out of the joined tree as rsync does.
#[test]
fn a_directory_is_restored_from_the_joined_tree() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Xfs, 200);
    guest.back_up("one");
    let to = guest.path("out");
    let arguments = [
        "restore",
        "db01@latest:/files/var/lib/hard",
        "--special",
        "--to",
    ];
    guest.place.ok(&[&arguments[..], &[text(&to)]].concat());
    let kernel = guest.by_kernel();
    let found = differences(&guest.path("kernel/var/lib/hard"), &to.join("hard"), &[]);
    assert_eq!(found, "");
    drop(kernel);
}

/// Who mounts as an ordinary user copies the whole guest as himself: all is his, readable, and the truth is in xattrs.
#[test]
fn an_ordinary_user_copies_a_whole_guest() {
    if !ready() || !has("setpriv") {
        return;
    }
    let guest = Guest::new(Home::Xfs, 200);
    guest.back_up("one");
    // The view of user 1000; root mounts it here, because the test cannot rely on a setuid helper.
    let mut options = MountOptions::default();
    options.parse("allow_other").unwrap();
    let view = options.tree_options(1000, 1001, false);
    assert!(view.single_user);
    let repository = Repository::open(&guest.place.repo()).unwrap();
    let tree = Tree::new(repository.into(), Pool::new(PoolLimits::default()), view).unwrap();
    let mnt = guest.path("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let mounted = mount(&tree, &mnt, &options).unwrap();
    let files = mnt.join("db01/latest/files");
    let out = guest.path("copy");
    std::fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(1000), Some(1001)).unwrap();
    let place = guest.place.dir.path();
    std::fs::set_permissions(place, PermissionsExt::from_mode(0o755)).unwrap();
    let user = ["--reuid=1000", "--regid=1001", "--clear-groups", "rsync"];
    let from = format!("{}/", text(&files));
    let rsync = [
        "-rltpHS",
        "--no-specials",
        "--no-devices",
        &from,
        text(&out),
    ];
    run("setpriv", &[&user[..], &rsync].concat());
    let kernel = guest.by_kernel();
    let (theirs, ours) = (guest.path("kernel/"), format!("{}/", text(&out)));
    let arguments = [
        "-rlHn",
        "--checksum",
        "--delete",
        "-i",
        "--exclude=/boot/efi",
    ];
    let found = run("rsync", &[&arguments[..], &[text(&theirs), &ours]].concat());
    // What only root can make is passed over, and said.
    let mut found: Vec<&str> = found.lines().collect();
    found.retain(|line| !line.starts_with("skipping non-regular file"));
    assert!(found.is_empty(), "{found:?}");
    drop(kernel);
    let said = run(
        "getfattr",
        &[
            "-d",
            "-m",
            "user.restorefs",
            text(&files.join("hard/setuid")),
        ],
    );
    for line in ["uid=\"1\"", "gid=\"2\"", "mode=\"6755\""] {
        assert!(said.contains(&format!("user.restorefs.{line}")), "{said}");
    }
    mounted.unmount(true).unwrap();
}

/// A backup without one of the disks: what lies on it is missed by name, with the physical volume that a group lacks.
#[test]
fn a_guest_without_one_disk_says_what_it_lacks() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Xfs, 20);
    guest.back_up("one");
    guest.place.ok(&[
        "backup",
        "db01",
        "vda=vda.raw",
        "--without",
        "vdb",
        "--point",
        "two",
    ]);
    for path in [
        "/files",
        "/files/var",
        "/files/home",
        "/files/var/log/syslog",
    ] {
        let told = guest.place.fails(3, &["ls", &format!("db01@two:{path}")]);
        if path.contains("var") {
            assert!(told.contains("PV ") && told.contains("missing"), "{told}");
        }
    }
    let to = guest.path("out");
    let told = guest
        .place
        .fails(3, &["restore", "db01@two:/files", "--to", text(&to)]);
    assert!(
        told.contains("LABEL=home") && told.contains("PV "),
        "{told}"
    );
    assert!(to.join("files/etc/fstab").exists());
    guest.place.ok(&["ls", "db01@two:/files/etc"]);
    guest.place.ok(&["ls", "db01@one:/files"]);
    let table = guest.place.ok(&["volumes", "db01@two"]);
    assert!(table.contains("/files/home"), "{table}");
}
