//! `restorefs mount` by an ordinary user, of a repository of his own, through the setuid helper fusermount3.
//!
//! # Why
//! Everything runs in a mount namespace, where `/etc/fuse.conf` and the rights of `/dev/fuse` are what the test needs, and a process
//! namespace, which ends the mounts when a step fails.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;

/// `nobody`, who has the repository. fusermount3 wants a user whom the system knows.
const USER: u32 = 65_534;

/// What the script begins with: `me` is the user, `other` somebody else.
const BEGIN: &str = "set -e -o pipefail
me() { setpriv --reuid 65534 --regid 65534 --clear-groups env RESTOREFS_REPO=$PWD/repo XDG_RUNTIME_DIR=$PWD/run \"$@\"; }
other() { setpriv --reuid 1 --regid 1 --clear-groups \"$@\"; }
refused() { if \"$@\" > said 2>&1; then echo 'not refused:' \"$@\"; else echo \"refused $(grep -c \"$WORDS\" said)\"; fi; }
# A copy of other tests' mounts would keep them alive here.
awk '/ - fuse.restorefs / {print $5}' /proc/self/mountinfo | while read -r mount; do umount -l \"$mount\" || :; done
mount -t tmpfs -o mode=755 none dev; mknod -m 666 dev/fuse c 10 229; mount --bind dev/fuse /dev/fuse
: > fuse.conf; mount --bind fuse.conf /etc/fuse.conf
me ./restorefs init > said; me ./restorefs backup -q web01 vda=a.raw --point one > said
FILES=mnt/web01/one/files
";

/// A directory that is the user's, with the program and a guest's disk: files that only root may read, and a program. `None` where this
/// cannot be tried.
fn place() -> Option<Place> {
    let tools = [
        "unshare",
        "setpriv",
        "fusermount3",
        "mke2fs",
        "mknod",
        "busybox",
        "mountpoint",
    ];
    if !can_mount() || !tools.iter().all(|tool| has(tool)) {
        return None;
    }
    let place = Place::without_repository();
    for dir in [
        "tree",
        "tree/etc",
        "tree/root",
        "tree/srv",
        "run",
        "mnt",
        "dev",
    ] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    let put = |name: &str, text: &str, mode: u32| {
        let path = place.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("tree/etc/fstab", "/dev/vda / ext4 defaults 0 1\n", 0o644);
    put("tree/etc/shadow", "root:secret\n", 0o600);
    put("tree/srv/closed", "closed to its owner\n", 0o000);
    put("tree/root/deep", "deep\n", 0o600);
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(place.path("tree/root"), closed).unwrap();
    std::fs::copy("/usr/bin/busybox", place.path("tree/srv/echo")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_restorefs"), place.path("restorefs")).unwrap();
    let image = place.path("a.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([place.path("tree"), image.clone()])
        .status();
    assert!(made.unwrap().success());
    for path in [
        place.dir.path(),
        &image,
        &place.path("run"),
        &place.path("mnt"),
    ] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.dir.path(), open).unwrap();
    Some(place)
}

/// Runs a script as root in the place; answers what it printed, without empty lines.
#[track_caller]
fn run(place: &Place, script: &str) -> Vec<String> {
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
        ])
        .arg(format!("{BEGIN}{script}"))
        .current_dir(place.dir.path())
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    let last = std::fs::read_to_string(place.path("said")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{out}\n{said}\n{last}",
        output.status
    );
    out.lines().map(str::to_owned).collect()
}

#[test]
fn a_user_reads_all_of_his_guest_and_nobody_else_does() {
    let Some(place) = place() else {
        return;
    };
    let script = "me ./restorefs mount mnt
        me cat $FILES/etc/shadow $FILES/srv/closed $FILES/root/deep
        me stat -c '%u:%g %A' $FILES/etc/shadow $FILES/root
        me getfattr --only-values -n user.restorefs.mode $FILES/srv/closed; echo
        WORDS='Permission denied' refused ls mnt
        WORDS='Permission denied' refused cat $FILES/etc/fstab
        WORDS='Permission denied' refused other ls mnt
        WORDS='Permission denied' refused other cat $FILES/etc/fstab
        WORDS='only root and the user who mounted it' refused other ./restorefs umount mnt
        me cmp mnt/web01/one/disks/vda.raw a.raw
        me sh -c \"exec sleep 2 < $FILES/etc/fstab\" & sleep 0.3
        WORDS='busy.*unmount lazily' refused me ./restorefs umount mnt
        me cat $FILES/etc/shadow
        wait
        me ./restorefs umount mnt
        if mountpoint -q mnt; then echo still mounted; fi";
    let said = run(&place, script);
    assert_eq!(
        said,
        [
            "root:secret",
            "closed to its owner",
            "deep",
            "65534:65534 -rw-------",
            "65534:65534 drwx------",
            "0000",
            "refused 1",
            "refused 1",
            "refused 1",
            "refused 1",
            "refused 1",
            "refused 1",
            "root:secret",
        ]
    );
}

/// Members of the user's group are others, too, also where he opens the socket's file to them.
#[test]
fn a_user_reads_his_points_over_nbd_and_nobody_but_root_does() {
    let Some(place) = place() else {
        return;
    };
    if !has("nbdinfo") {
        return;
    }
    let script = "U=\"nbd+unix:///web01/latest/vda?socket=$PWD/run/s\"
        member() { setpriv --reuid 1 --regid 65534 --clear-groups \"$@\"; }
        me ./restorefs mount --nbd run/s mnt
        stat -c '%U %a' run/s
        me nbdinfo --size \"$U\"
        nbdinfo --size \"$U\"
        WORDS='Permission denied' refused other nbdinfo \"$U\"
        WORDS='Permission denied' refused member nbdinfo \"$U\"
        chmod 666 run/s
        WORDS=nbdinfo refused other nbdinfo \"$U\"
        WORDS=nbdinfo refused member nbdinfo \"$U\"
        me nbdinfo --size \"$U\"
        me ./restorefs umount mnt
        sleep 0.5; ls run";
    let said = run(&place, script);
    assert_eq!(
        said,
        [
            "nobody 600",
            "16777216",
            "16777216",
            "refused 1",
            "refused 1",
            "refused 1",
            "refused 1",
            "16777216"
        ]
    );
}

#[test]
fn a_users_mount_runs_no_guest_programs_unless_he_says_so() {
    let Some(place) = place() else {
        return;
    };
    let script = "flags() { grep \" $PWD/mnt fuse.restorefs \" /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -x -E 'ro|nodev|nosuid|noexec' | sort | tr '\\n' ' '; echo; }
        me ./restorefs mount mnt
        flags
        WORDS='Permission denied' refused me $FILES/srv/echo hello
        me ./restorefs umount mnt
        me ./restorefs mount mnt -o exec
        flags
        me $FILES/srv/echo hello
        WORDS='Read-only' refused me touch mnt/x
        me ./restorefs umount mnt";
    let said = run(&place, script);
    assert_eq!(
        said,
        [
            "nodev noexec nosuid ro ",
            "refused 1",
            "nodev nosuid ro ",
            "hello",
            "refused 1"
        ]
    );
}

#[test]
fn a_user_lets_others_in_only_where_the_machine_allows_it() {
    let Some(place) = place() else {
        return;
    };
    let script =
        "WORDS='user_allow_other in /etc/fuse.conf' refused me ./restorefs mount mnt -o allow_other
        if mountpoint -q mnt; then echo mounted; fi
        echo user_allow_other > fuse.conf
        me ./restorefs mount mnt -o allow_other
        other ls mnt
        WORDS='Permission denied' refused other ls mnt/web01
        ls mnt/web01/one/disks
        me ./restorefs umount mnt
        me ./restorefs mount mnt -o allow_other,umask=022
        other ls mnt/web01/one/disks
        WORDS='Permission denied' refused other cat $FILES/etc/shadow
        me ./restorefs umount mnt";
    let said = run(&place, script);
    assert_eq!(
        said,
        [
            "refused 1",
            "web01",
            "refused 1",
            "vda.raw",
            "vda.raw",
            "refused 1"
        ]
    );
}

#[test]
fn what_is_missing_for_a_user_is_said() {
    let Some(place) = place() else {
        return;
    };
    let fusermount = Path::new("/usr/bin/fusermount3");
    if !fusermount.exists() {
        return;
    }
    // Root's mountpoint; no right to the device; no helper.
    let script = "mkdir roots
        WORDS='roots' refused me ./restorefs mount roots
        chmod 600 dev/fuse
        WORDS='access to /dev/fuse' refused me ./restorefs mount mnt
        chmod 666 dev/fuse
        mkdir empty; touch empty/fusermount3; mount --bind empty/fusermount3 /usr/bin/fusermount3
        WORDS='needs fusermount3' refused me ./restorefs mount mnt
        if mountpoint -q mnt; then echo mounted; fi";
    let said = run(&place, script);
    assert_eq!(said, ["refused 1", "refused 1", "refused 1"]);
}
