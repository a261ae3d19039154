//! What is on a point's disks and cannot be read is never silent: `ls`, `restore` and archives name it and end with exit code 3.
//!
//! The right values are fstab(5)'s and the kernel's: it mounts each of these filesystems, or refuses what the test has damaged.

use std::fs;

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

const ALWAYS: i32 = 3;

/// Disks by name, each with what it holds; the first is the root, with this fstab.
fn guest(place: &Place, fstab: &str, disks: &[(&str, &str)]) -> bool {
    if !has("mkfs.ext4") {
        return false;
    }
    let root = place.path("root");
    for dir in ["etc", "srv/data", "var", "home"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/fstab"), fstab).unwrap();
    fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
    fs::create_dir_all(place.path("data")).unwrap();
    fs::write(place.path("data/file"), "data\n").unwrap();
    let mut arguments = vec!["backup".to_owned(), "web01".to_owned()];
    for (name, content) in disks {
        let image = format!("{name}.raw");
        tool::ok(place, "truncate", &["-s", "16M", &image]);
        match *content {
            "root" => {
                tool::ok(
                    place,
                    "mkfs.ext4",
                    &["-qF", "-L", "root", "-d", "root", &image],
                );
            }
            "ext4" | "damaged" => {
                let label = format!("l-{name}");
                tool::ok(
                    place,
                    "mkfs.ext4",
                    &["-qF", "-L", &label, "-d", "data", &image],
                );
            }
            "swap" => {
                tool::ok(place, "mkswap", &["-q", &image]);
            }
            _ => {}
        }
        let put = |at: usize, bytes: &[u8]| {
            let mut all = fs::read(place.path(&image)).unwrap();
            all[at..at + bytes.len()].copy_from_slice(bytes);
            fs::write(place.path(&image), all).unwrap();
        };
        match *content {
            // The root's inode and its table are no more; the superblock is sound.
            "damaged" => put(2048, &[0xee; 256 << 10]),
            "luks" => put(0, b"LUKS\xba\xbe\0\x02"),
            "ntfs" => put(3, b"NTFS    "),
            "noise" => put(0, &[0x5a; 4096]),
            _ => {}
        }
        arguments.push(format!("{name}={image}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    place.ok(&arguments);
    true
}

/// The exit codes of `ls`, `restore` and an archive of a path, which are the same, and what they print on standard error.
fn taken(place: &Place, vm: &str, path: &str) -> (i32, String) {
    let asked = format!("{vm}@latest:{path}");
    let out = place.path(&format!("out-{}", uuid::Uuid::new_v4().simple()));
    let to = out.to_str().unwrap();
    let tar = format!("{to}.tar");
    let mut all = String::new();
    let mut codes = Vec::new();
    for arguments in [
        &["ls", &asked][..],
        &["restore", &asked, "--to", to],
        &["restore", &asked, "--to", &tar],
        &["restore", &asked, "--to", "-", "--format", "tar"],
    ] {
        let output = place.run(arguments);
        codes.push(output.status.code().unwrap());
        all.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    assert!(
        codes.iter().all(|code| *code == codes[0]),
        "{path}: {codes:?} {all}"
    );
    (codes[0], all)
}

fn is(place: &Place, path: &str, code: i32, words: &[&str]) {
    is_of(place, "web01", path, code, words);
}

/// An image of zeroes.
fn blank(place: &Place, name: &str) -> String {
    tool::ok(place, "truncate", &["-s", "32M", name]);
    name.to_owned()
}

fn is_of(place: &Place, vm: &str, path: &str, code: i32, words: &[&str]) {
    let (found, all) = taken(place, vm, path);
    assert_eq!(found, code, "{path}: {all}");
    for word in words {
        assert!(all.contains(word), "{path}: {word} in {all}");
    }
}

#[test]
fn each_reason_counts_as_it_should() {
    let place = Place::new();
    let fstab = "LABEL=root / ext4 defaults 0 1\nLABEL=l-vdb /srv/data ext4 nofail 0 2\n\
        nas:/x /home nfs defaults 0 0\nUUID=1234-5678 /var/none ext4 nofail 0 0\n\
        LABEL=l-vdc /opt ext4 noauto 0 0\ntmpfs /tmp tmpfs defaults 0 0\n";
    if !guest(
        &place,
        fstab,
        &[("vda", "root"), ("vdb", "damaged"), ("vdc", "ext4")],
    ) {
        return;
    }
    // It is there and damaged: nofail is no excuse.
    for path in ["/files", "/files/srv", "/files/srv/data"] {
        is(&place, path, ALWAYS, &["/files/srv/data (LABEL=l-vdb)"]);
    }
    let told = place.fails(3, &["ls", "web01@latest:/files/srv/data/file"]);
    assert!(told.contains("LABEL=l-vdb"), "{told}");
    for path in ["/files/etc", "/files/home", "/files/var", "/volumes/vda"] {
        is(&place, path, 0, &[]);
    }
    is(&place, "/files/home", 0, &["another machine"]);
    is(&place, "/volumes", ALWAYS, &["/volumes/vdb/raw"]);
    let told = place.fails(3, &["ls", "web01@latest:/volumes/vdb/raw"]);
    assert!(told.contains("vdb/raw"), "{told}");
    // A point's own names cost no look at the disks, and `volumes` is about what is there.
    place.ok(&["ls", "web01@latest"]);
    let table = place.ok(&["volumes", "web01@latest"]);
    for words in [
        "/files/srv/data",
        "unreadable",
        "not automatic",
        "missing nofail",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let json = place.json(&["volumes", "web01@latest"]);
    let classes: Vec<&str> = json["files"][0]["unjoined"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["class"].as_str().unwrap())
        .collect();
    assert_eq!(
        classes,
        ["elsewhere", "not_automatic", "unreadable", "missing_nofail"]
    );
}

#[test]
fn a_disk_that_is_not_there_is_missed() {
    let place = Place::new();
    let fstab = "LABEL=root / ext4 defaults 0 1\nUUID=4711 /srv/data xfs defaults 0 2\n/dev/mapper/vg0-var /var ext4 defaults 0 2\n";
    if !guest(&place, fstab, &[("vda", "root")]) {
        return;
    }
    is(&place, "/files", ALWAYS, &["/files/srv/data (UUID=4711)"]);
    is(&place, "/files/var", ALWAYS, &["/files/var"]);
    is(&place, "/files/etc", 0, &[]);
    // What cannot be read may hold it: that is the first cause.
    let place = Place::new();
    if guest(&place, fstab, &[("vda", "root"), ("vdb", "luks")]) {
        is(
            &place,
            "/files/srv/data",
            ALWAYS,
            &["missing: ", "vdb/raw: it is encrypted (LUKS)"],
        );
    }
}

#[test]
fn files_without_a_system_say_what_they_lack() {
    for (content, code, words) in [
        ("luks", ALWAYS, "encrypted (LUKS)"),
        ("ntfs", ALWAYS, "Windows; NTFS is not read yet"),
        ("damaged", ALWAYS, "/files"),
        ("noise", ALWAYS, "no filesystem and no partition table"),
        ("swap", 0, "swap"),
        ("blank", 0, "it is empty"),
    ] {
        let place = Place::new();
        if !guest(&place, "", &[("vda", content)]) {
            return;
        }
        is(&place, "/files", code, &[words]);
    }
    // What can be read beside it is read, and lacks nothing.
    let place = Place::new();
    if !guest(&place, "", &[("vda", "ext4"), ("vdb", "ntfs")]) {
        return;
    }
    is(&place, "/files", ALWAYS, &["NTFS is not read yet"]);
    is(&place, "/files/file", 0, &[]);
    is(&place, "/volumes/vda/raw", 0, &[]);
}

/// A filesystem whose journal is another disk: the journal has no files, and is named where it would have to be replayed.
#[test]
fn a_journal_on_another_disk_is_named() {
    if !has("mkfs.ext4") || !has("debugfs") || !crate::kit::need::is_root() {
        return;
    }
    let place = Place::new();
    let journal = tool::Loop::attach(&place, &blank(&place, "vdb.raw"), &[]);
    tool::ok(
        &place,
        "mke2fs",
        &["-qF", "-O", "journal_dev", "-b", "4096", &journal.device],
    );
    let data = tool::Loop::attach(&place, &blank(&place, "vda.raw"), &[]);
    let with = format!("device={}", journal.device);
    tool::ok(
        &place,
        "mkfs.ext4",
        &["-qF", "-b", "4096", "-J", &with, &data.device],
    );
    let save = |name: &str| {
        tool::ok(&place, "sync", &[]);
        place.ok(&["backup", name, "vda=vda.raw", "vdb=vdb.raw"]);
    };
    drop((data, journal));
    save("clean");
    is_of(&place, "clean", "/files", 0, &[]);
    // The mark of a filesystem that is in use.
    tool::ok(
        &place,
        "debugfs",
        &["-w", "-R", "feature needs_recovery", "vda.raw"],
    );
    save("dirty");
    is_of(&place, "dirty", "/files", ALWAYS, &["map --scratch"]);
    let json = place.json(&["volumes", "dirty@latest"]);
    let notes = json["notes"].to_string();
    assert!(notes.contains("vda/raw: its journal is vdb/raw"), "{notes}");
}
