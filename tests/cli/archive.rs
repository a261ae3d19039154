//! `restore VM@POINT:/PATH` as a stream: what other programs make of the archives, and what happens when something goes wrong.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kit::need::{has, has_all, is_root};
use crate::kit::place::Place;

/// Where the files are in the tree.
const TREE: &str = "web01@latest:/volumes/vda/raw/tree";

/// What a guest has, by a shell in its filesystem's directory.
const FILL: &str = r#"
set -e
n() { printf "$1%.0s" $(seq $2); }
mkdir -p tree/etc/deep "tree/ünï" "tree/$(n d 120)/$(n e 120)"; cd tree
echo hi > etc/a; ln etc/a etc/zlink; echo long > "etc/$(n n 200)"; echo u > "ünï/ö"
printf bad > "$(printf 'nonutf\377')"; echo z > "$(n d 120)/$(n e 120)/f"
ln -s ../../../etc/passwd esc; ln -s "$(n x 150)" longlink; ln esc esc2
mknod null c 1 3; mknod blk b 8 1; mkfifo pipe; : > empty
cp /bin/true suid; chmod 4755 suid; chmod 1777 etc/deep; chown 70000:4000000000 empty; chown -h 7:8 esc
setfattr -n user.eq=x -v v=1 etc/a; setfattr -n trusted.t -v 0x0001ff0a etc/deep
echo 3 > "$(n b 120)$(printf '\376')"; truncate -s 64K "$(printf 'new\nline\377')"; ln -s "$(printf '\377')" odd
cp /bin/true capable; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 capable
setfacl -m u:1234:rw,g:55:r etc/a; setfacl -d -m u:1:rwx etc/deep
truncate -s 20M sparse; echo x | dd of=sparse bs=1 seek=7000000 conv=notrunc status=none
echo tail | dd of=sparse bs=1 seek=9000001 conv=notrunc status=none
truncate -s 3M hole; dd if=/dev/urandom of=ragged bs=4096 seek=10 count=1 status=none
dd if=/dev/urandom of=ragged bs=1000 seek=100 count=1 conv=notrunc status=none
dd if=/dev/urandom of=big bs=1M count=12 status=none; fallocate -l 1M allocated
touch -d '1955-11-05 06:15:00.25 UTC' etc/a; touch -h -d '1999-01-01 01:01:01.5 UTC' esc
touch -d '2001-01-01 00:00:00.123456789 UTC' etc/deep; touch -d '2010-10-10 10:10:10.5 UTC' .
"#;

fn sh(place: &Place, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(place.dir.path())
        .env("TREE", TREE)
        .env("R", env!("CARGO_BIN_EXE_restorefs"))
        .env("RESTOREFS_REPO", place.repo())
        .env("RESTOREFS_RUNTIME_DIR", place.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {out}{said}");
    out
}

/// Whether guests can be made here.
fn ready() -> bool {
    // Guests are made by a mount.
    let tools = [
        "mkfs.ext4",
        "losetup",
        "rsync",
        "setfacl",
        "setfattr",
        "tar",
    ];
    is_root() && has_all(&tools)
}

/// A place whose `web01` has an ext4 filesystem that was filled by a script.
fn guest(fill: &str) -> Place {
    let place = Place::new();
    sh(
        &place,
        "truncate -s 128M fs.raw; mkfs.ext4 -q -b 4096 fs.raw; mkdir mnt; mount -o loop fs.raw mnt",
    );
    let filled = std::panic::catch_unwind(|| sh(&place, &format!("cd mnt; {fill}")));
    // Whoever else still has the mount, what is in it is on the disk.
    sh(&place, "sync -f mnt; umount mnt");
    filled.unwrap();
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    place
}

/// Runs a script while the guest's filesystem is mounted at `mnt`.
fn beside(place: &Place, script: &str) -> String {
    sh(place, "mount -o loop,ro fs.raw mnt");
    let done = std::panic::catch_unwind(|| sh(place, script));
    sh(place, "umount mnt");
    done.unwrap()
}

/// GNU tar makes of the stream what the kernel shows: owners, modes, times of directories, links, attributes, ACLs, holes.
#[test]
fn gnu_tar_makes_the_same_tree() {
    if !ready() {
        return;
    }
    let place = guest(FILL);
    for (format, unpack) in [("tar", "tar"), ("tar.zst", "zstd -dcq | tar")] {
        if format == "tar.zst" && !has("zstd") {
            continue;
        }
        sh(
            &place,
            &format!(
                "set -o pipefail; rm -rf out; mkdir out; $R restore $TREE --to - --format {format} \
                 | {unpack} --acls --xattrs --xattrs-include='*' -xpf - -C out"
            ),
        );
        let differences = beside(
            &place,
            "rsync -aHAXn --checksum --delete -i mnt/tree/ out/tree/ 2>&1",
        );
        assert_eq!(differences, "", "{format}");
        let larger = beside(
            &place,
            "list() { (cd $1; find . -type f -printf '%p\\t%b\\n' | LC_ALL=C sort); }
             LC_ALL=C join -t $'\\t' <(list mnt/tree) <(list out/tree) | awk -F '\\t' '$3 > $2'",
        );
        assert_eq!(larger, "", "{format}: more blocks than in the guest");
    }
    // The times of directories and of links, to the nanosecond.
    let times = |root: &str| {
        format!("(cd {root}/tree; find . -printf '%p %T@ %m %U %G\\n' | LC_ALL=C sort)")
    };
    beside(&place, &format!("diff <{} <{}", times("mnt"), times("out")));
}

/// The extension says the format; other programs read all of it.
#[test]
fn files_by_extension_and_other_readers() {
    if !ready() {
        return;
    }
    let place = guest(FILL);
    for name in ["t.tar", "t.tar.zst", "t.tzst", "t.zip"] {
        place.ok(&["restore", TREE, "--to", name]);
        assert!(!place.path(&format!("{name}.restoring")).exists());
        if has("bsdtar") {
            let count = sh(&place, &format!("bsdtar -tf {name} > list && wc -l < list"));
            // A zip has no device nodes and FIFO.
            let expected = if name == "t.zip" { 26 } else { 29 };
            assert_eq!(count.trim(), expected.to_string(), "{name}");
        }
    }
    let said = place.fails(1, &["restore", TREE, "--to", "t.tar"]);
    assert!(said.contains("exists"), "{said}");
    let answer = place.json(&["restore", TREE, "--to", "t.zip", "--force"]);
    assert_eq!(answer["skipped_count"], 3, "{answer}");
    assert_eq!(answer["failed_count"], 0, "{answer}");
    assert!(answer.to_string().contains("nonutf%FF"), "{answer}");
    if !has("unzip") {
        return;
    }
    sh(
        &place,
        "unzip -tq t.zip; mkdir out; unzip -K -q t.zip -d out",
    );
    let differences = beside(
        &place,
        "diff -rq --no-dereference -x 'nonutf*' -x 'bbb*' -x 'new*line*' -x null -x blk -x pipe mnt/tree out/tree 2>&1
         cmp mnt/tree/nonutf* out/tree/nonutf*
         cd mnt/tree; for f in suid etc/deep capable big; do
            [ $(stat -c '%a' $f) = $(stat -c '%a' ../../out/tree/$f) ] || echo mode $f
            [ $(stat -c '%Y' $f) = $(stat -c '%Y' ../../out/tree/$f) ] || echo time $f
         done",
    );
    assert_eq!(differences, "");
}

/// A pipe that nobody reads is no reason for words.
#[test]
fn a_closed_pipe_is_silent() {
    if !ready() {
        return;
    }
    let place = guest(
        "mkdir tree; dd if=/dev/urandom of=tree/big bs=1M count=12 status=none; cp tree/big tree/b2",
    );
    for format in ["tar", "tar.zst", "zip"] {
        let mut child = place
            .command(&["restore", TREE, "--to", "-", "--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 1000];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{format}");
    }
}

#[test]
fn what_is_asked_for_wrongly() {
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    let path = "web01@latest:/disks";
    let said = place.fails(2, &["restore", path, "--to", "-"]);
    assert!(said.contains("--format"), "{said}");
    place.fails(2, &["restore", path, "--to", "-", "--format", "dir"]);
    place.fails(2, &["restore", path, "--to", "-", "--format", "rar"]);
    // Of these a directory was made that had such a name.
    for name in ["t.tar.xz", "t.TGZ", "t.tar.gz", "t.7z"] {
        let said = place.fails(2, &["restore", path, "--to", name]);
        assert!(said.contains(name) && said.contains(".tar.zst"), "{said}");
        assert!(!place.path(name).exists());
    }
    let said = place.fails(2, &["restore", path, "out"]);
    assert!(said.contains("--to DIR"), "{said}");
    let said = place.fails(2, &["restore", "web01@latest", "vda"]);
    assert!(said.contains("DISK TARGET"), "{said}");
    let said = place.fails(
        2,
        &["restore", "web01@latest", "--to", "-", "--format", "tar"],
    );
    assert!(said.contains("files of a guest"), "{said}");
    // What the tree itself shows can be had, too; the report is not in the stream.
    let output = place.run(&["restore", path, "--to", "-", "--format", "tar", "--json"]);
    assert!(output.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(answer["files"], 1, "{answer}");
    assert!(output.stdout.windows(13).any(|w| w == b"disks/vda.raw"));
    let output = place.run(&["restore", path, "--to", "-", "--format", "tar", "-q"]);
    assert!(output.status.success() && output.stderr.is_empty());
    // A directory of such a name is a directory.
    std::fs::create_dir(place.path("dir.tar")).unwrap();
    place.ok(&["restore", path, "--to", "dir.tar"]);
    assert!(place.path("dir.tar/disks/vda.raw").exists());
    place.ok(&["restore", path, "--to", "plain.zip", "--format", "dir"]);
    assert!(place.path("plain.zip/disks/vda.raw").exists());
    place.ok(&["restore", path, "--to", "plain.tgz", "--format", "dir"]);
    assert!(place.path("plain.tgz/disks/vda.raw").exists());
}

/// Zeroes the first extent's depth and magic of a file, so that its content cannot be found.
fn damage(image: &Path, file: &str) {
    let status = Command::new("debugfs")
        .args(["-w", "-R", &format!("set_inode_field {file} block[0] 7")])
        .arg(image)
        .output()
        .unwrap();
    assert!(status.status.success());
}

/// A file whose extents are damaged is left out and named; all others are there.
#[test]
fn damage_in_the_guest_is_named() {
    if !ready() || !has("debugfs") {
        return;
    }
    let place = guest("mkdir tree; for f in a b c; do echo $f > tree/$f; done; ln tree/b tree/d");
    damage(&place.path("fs.raw"), "/tree/b");
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    let output = place.run(&["restore", TREE, "--to", "t.tar"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("tree/b: ") && said.contains("tree/d: "),
        "{said}"
    );
    assert_eq!(sh(&place, "tar tf t.tar"), "tree/\ntree/a\ntree/c\n");
}
