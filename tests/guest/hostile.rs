//! Manipulated filesystems: a walk, a copy and a restore end, lose nothing else, and report the damage.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::content::put;
use crate::kernel::{Mounted, run, text};
use crate::kit::need::has;
use crate::kit::place::Place;
use crate::layout::ready;

/// Whatever takes longer hangs.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Writes over the one place in an image where these bytes stand.
fn patch(image: &mut [u8], find: &[u8], change: impl Fn(&mut [u8])) {
    let at: Vec<usize> = places(image, find);
    assert_eq!(at.len(), 1, "{}", find.escape_ascii());
    // The byte two before the name of an ext4 directory entry is its length.
    change(&mut image[at[0] - 2..at[0] + find.len()]);
}

fn places(image: &[u8], find: &[u8]) -> Vec<usize> {
    (0..image.len() - find.len())
        .filter(|at| image[*at] == find[0] && image[*at..].starts_with(find))
        .collect()
}

/// Gives an entry another name, which may be none.
fn rename(image: &mut [u8], from: &[u8], to: &[u8]) {
    patch(image, from, |entry| {
        entry[0] = to.len() as u8;
        entry[2..2 + to.len()].copy_from_slice(to);
    });
}

/// An ext4 with a directory that holds itself, impossible sizes and names, and two files in one place.
fn ext4(place: &Place) {
    let tree = place.path("tree");
    put(&tree.join("loop/a/b/file"), "deep");
    put(&tree.join("names/1/dotdotname"), "");
    put(&tree.join("names/2/slashedname"), "");
    put(&tree.join("names/3/emptyname"), "");
    put(&tree.join("huge"), "small in truth");
    put(&tree.join("one"), [0x11; 4096]);
    put(&tree.join("two"), [0x22; 4096]);
    put(&tree.join("good"), "still here");
    symlink("round", tree.join("round")).unwrap();
    symlink("pong", tree.join("ping")).unwrap();
    symlink("ping", tree.join("pong")).unwrap();
    let image = place.path("vda.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(24 << 20)
        .unwrap();
    run(
        "mkfs.ext4",
        &[
            "-q",
            "-F",
            "-b",
            "4096",
            "-O",
            "^metadata_csum,^has_journal,^extent,^dir_index,^64bit",
            "-d",
            text(&tree),
            text(&image),
        ],
    );
    let debugfs = |command: &str| run("debugfs", &["-w", "-R", command, text(&image)]);
    debugfs("ln /loop/a /loop/a/b/again");
    debugfs("sif /huge size 0xfffffffffffff000");
    let block = debugfs("bmap /one 0");
    debugfs(&format!("sif /two block[0] {}", block.trim()));
    let mut bytes = std::fs::read(&image).unwrap();
    rename(&mut bytes, b"dotdotname", b"..");
    rename(&mut bytes, b"slashedname", b"a/b");
    rename(&mut bytes, b"emptyname", b"");
    std::fs::write(image, bytes).unwrap();
}

/// A FAT with two files in one chain of clusters, and a directory that holds itself.
fn fat(place: &Place) {
    let image = place.path("vdb.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    run("mkfs.fat", &["-F", "16", text(&image)]);
    put(&place.path("fat/ONE.TXT"), [0x31; 9000]);
    put(&place.path("fat/TWO.TXT"), [0x32; 9000]);
    put(&place.path("fat/OUTER/INNER/DEEP.TXT"), "deep");
    for name in ["ONE.TXT", "TWO.TXT", "OUTER"] {
        let from = place.path("fat").join(name);
        run("mcopy", &["-s", "-i", text(&image), text(&from), "::"]);
    }
    let mut bytes = std::fs::read(&image).unwrap();
    let entry = |name: &[u8; 11], bytes: &[u8]| places(bytes, name)[0];
    // The first cluster of an entry is at its offset 26.
    let (one, two) = (entry(b"ONE     TXT", &bytes), entry(b"TWO     TXT", &bytes));
    bytes.copy_within(one + 26..one + 28, two + 26);
    let (outer, inner) = (entry(b"OUTER      ", &bytes), entry(b"INNER      ", &bytes));
    bytes.copy_within(outer + 26..outer + 28, inner + 26);
    std::fs::write(image, bytes).unwrap();
}

/// An XFS with a directory that holds itself, a size of 8 EiB less 4 KiB (a possible one), and an impossible name; its checksums are right.
fn xfs(place: &Place) {
    let image = place.path("vdc.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    run("mkfs.xfs", &["-q", text(&image)]);
    let at = place.path("xfs");
    let mounted = Mounted::new(&image, &at, "loop");
    std::fs::create_dir_all(at.join("loop/a/b/again")).unwrap();
    put(&at.join("names/axb"), "");
    put(&at.join("huge"), "small in truth");
    put(&at.join("good"), "still here");
    let ino = |name: &str| at.join(name).metadata().unwrap().ino();
    let (a, b, names, huge) = (ino("loop/a"), ino("loop/a/b"), ino("names"), ino("huge"));
    drop(mounted);
    for (inode, field, value) in [
        (b, "u3.sfdir3.list[0].inumber.i4", a.to_string()),
        (names, "u3.sfdir3.list[0].name", "\"a/b\"".to_owned()),
        (huge, "core.size", "0x7ffffffffffff000".to_owned()),
    ] {
        let (find, write) = (
            format!("inode {inode}"),
            format!("write -d {field} {value}"),
        );
        let said = run("xfs_db", &["-x", "-c", &find, "-c", &write, text(&image)]);
        assert!(said.contains(field), "{said}");
    }
}

/// Runs a program to its end, whatever that is.
fn ended(command: &mut Command) -> (Output, String) {
    let began = Instant::now();
    let output = command.output().unwrap();
    assert!(began.elapsed() < TIME_MAX, "{command:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output, said)
}

fn in_time(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", program]);
    command
}

fn walk(volume: &Path) {
    let (output, said) = ended(in_time("find").arg(volume).args(["-printf", "%P %i\\n"]));
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && output.status.code().is_some(),
        "{said}"
    );
    assert!(
        !listed.contains("/..") && !listed.contains("a/b/a/b/a/b/a/b"),
        "{listed}"
    );
    println!("find {}: {said}", volume.display());
}

#[test]
fn bent_filesystems_are_walked_copied_and_restored_to_an_end() {
    if !ready() || !has("debugfs") || !has("xfs_db") {
        return;
    }
    let place = Place::new();
    ext4(&place);
    fat(&place);
    xfs(&place);
    place.ok(&[
        "backup",
        "bad01",
        "vda=vda.raw",
        "vdb=vdb.raw",
        "vdc=vdc.raw",
        "--point",
        "one",
    ]);
    let mnt = place.path("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let daemon = place.serve(&["--mount", text(&mnt)]);
    let volumes = mnt.join("bad01/one/volumes");
    let (ext4, fat) = (volumes.join("vda/raw"), volumes.join("vdb/raw"));
    walk(&volumes.join("vdc/raw"));
    walk(&ext4);
    walk(&fat);
    assert_eq!(std::fs::read(ext4.join("good")).unwrap(), b"still here");
    // Two files in one place: both have what lies there.
    assert_eq!(std::fs::read(ext4.join("two")).unwrap(), [0x11; 4096]);
    assert_eq!(std::fs::read(fat.join("TWO.TXT")).unwrap(), [0x31; 9000]);
    for (name, errno) in [("round", 40), ("ping", 40)] {
        let error = std::fs::read(ext4.join(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{name}");
    }
    let beside = place.path("beside");
    put(&beside, "untouched");
    for (name, path) in [("ext4", "vda/raw"), ("fat", "vdb/raw"), ("xfs", "vdc/raw")] {
        let to = place.path(&format!("rsync-{name}"));
        std::fs::create_dir(&to).unwrap();
        let from = format!("{}/", text(&volumes.join(path)));
        let (output, said) =
            ended(in_time("rsync").args(["-aHAX", "--sparse", "--max-size=1g", &from, text(&to)]));
        assert!(
            !output.status.success() && output.status.code().is_some(),
            "{said}"
        );
        println!("rsync {name}: {said}");
        let to = place.path(&format!("restore-{name}"));
        let from = format!("bad01@one:/volumes/{path}");
        let (output, said) = ended(&mut place.command(&["restore", &from, "--to", text(&to)]));
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("not readable"), "{said}");
        println!("restore {name}: {said}");
        if name != "fat" {
            let good = std::fs::read(to.join("raw/good")).unwrap();
            assert_eq!(good, b"still here");
        }
        if name == "ext4" {
            // One file's impossible size once hid all that lay beside it.
            for bent in [
                "raw/huge",
                "raw/names/1",
                "raw/names/2",
                "raw/names/3",
                "raw/loop/a/b/again",
            ] {
                assert!(said.contains(bent), "{bent}: {said}");
            }
            let good = std::fs::read(to.join("raw/good")).unwrap();
            assert_eq!(good, b"still here");
        }
    }
    assert_eq!(std::fs::read(beside).unwrap(), b"untouched");
    daemon.stop();
}
