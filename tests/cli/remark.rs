//! What people and cron mails read beside the outcome: nothing when all is well, and a remark when something is odd.

use std::fs;
use std::process::Output;

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_quiet_command_prints_nothing_when_all_is_well() {
    let place = Place::without_repository();
    place.disk("a.raw", 8, 1);
    fs::write(place.path("note.txt"), "x").unwrap();
    let quiet = |args: &[&str]| {
        for flag in ["-q", "--quiet"] {
            let mut all = vec![flag];
            all.extend_from_slice(args);
            if args[0] == "init" && place.repo().exists() {
                continue;
            }
            assert_eq!(
                words(&place.run(&all)),
                (String::new(), String::new()),
                "{args:?}"
            );
        }
    };
    quiet(&["init"]);
    quiet(&["backup", "web01", "vda=a.raw", "--attach", "note.txt"]);
    quiet(&["backup", "web01", "vda=a.raw", "--full"]);
    quiet(&["restore", "web01@latest", "vda", "out.raw", "--force"]);
    quiet(&["restore", "web01@latest", "--to", "dir", "--force"]);
    quiet(&[
        "restore",
        "web01@latest:/attached",
        "--to",
        "a.tar",
        "--force",
    ]);
    quiet(&["rebuild-catalog"]);
    let daemon = place.serve(&[]);
    place.ok(&["begin", "web01", "--session", "s"]);
    words(&place.run(&[
        "-q",
        "commit",
        "web01/s",
        "--unchanged",
        "vda",
        "--point",
        "p",
    ]));
    place.ok(&["begin", "web01", "--session", "s"]);
    let aborted = place.run(&["-q", "abort", "web01/s"]);
    assert_eq!(words(&aborted), (String::new(), String::new()));
    quiet(&["backup", "web01", "vda=a.raw"]);
    daemon.stop();
    // What was asked for is printed all the same, and so are warnings.
    assert!(words(&place.run(&["-q", "ls"])).0.contains("web01"));
    let json = words(&place.run(&["-q", "--json", "backup", "web01", "vda=a.raw"]));
    assert!(json.0.contains("\"point\"") && json.1.is_empty());
    let (_, said) = words(&place.run(&["-q", "backup", "web01", "vda=a.raw", "vdb=out.raw"]));
    assert!(
        said.contains("warning") && said.contains("stored in full"),
        "{said}"
    );
}

#[test]
fn a_name_that_is_new_is_remarked_upon() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    let said = |vm: &str| words(&place.run(&["backup", vm, "vda=a.raw"])).1;
    assert!(said("web01").contains("web01 is a new VM"));
    assert!(!said("web01").contains("new VM"));
    place.fails(1, &["backup", "WEB01", "vda=a.raw"]);
    assert!(said("wbe01").contains("there is web01, too"));
    assert!(!said("db-frankfurt").contains("too"));
    let daemon = place.serve(&[]);
    let begun = words(&place.run(&["begin", "web0l", "vda=1M"])).1;
    assert!(
        begun.contains("new VM") && begun.contains("web01"),
        "{begun}"
    );
    daemon.stop();
}

/// A disk with an ext4 that has this UUID and a file of that size.
fn ext4(place: &Place, name: &str, uuid: &str, megabytes: u32) {
    tool::ok(place, "truncate", &["-s", "64M", name]);
    let directory = format!("tree-{name}");
    fs::create_dir_all(place.path(&directory)).unwrap();
    let bytes: Vec<u8> = (0..megabytes << 20).map(|n| (n >> 7) as u8 | 1).collect();
    fs::write(place.path(&directory).join("file"), bytes).unwrap();
    let args = ["-qF", "-U", uuid, "-d", &directory, name];
    tool::ok(place, "mke2fs", &args);
}

#[test]
fn disks_that_were_swapped_are_remarked_upon() {
    if !has("mke2fs") {
        return;
    }
    let place = Place::new();
    let (a, b) = (
        "aaaaaaaa-0000-4000-8000-000000000001",
        "bbbbbbbb-0000-4000-8000-000000000002",
    );
    ext4(&place, "a.raw", a, 1);
    ext4(&place, "b.raw", b, 1);
    let backup = |one: &str, other: &str| {
        let (vda, vdb) = (format!("vda={one}"), format!("vdb={other}"));
        words(&place.run(&["backup", "db01", &vda, &vdb])).1
    };
    backup("a.raw", "b.raw");
    let said = backup("a.raw", "b.raw");
    assert!(!said.contains("UUID"), "{said}");
    let said = backup("b.raw", "a.raw");
    assert!(said.contains("disk vda has other UUIDs"), "{said}");
    assert!(
        said.contains("disk vdb had these: were two disks swapped?"),
        "{said}"
    );
    let noted = words(&place.run(&["volumes", "db01@latest"])).1;
    assert!(noted.contains("swapped"), "{noted}");
    // Made anew: nobody had these.
    ext4(&place, "c.raw", "cccccccc-0000-4000-8000-000000000003", 1);
    let said = backup("b.raw", "c.raw");
    assert!(
        said.contains("disk vdb has other UUIDs") && !said.contains("swapped"),
        "{said}"
    );
    // With keys it is known which is which.
    let keyed = |one: &str, other: &str, keys: [&str; 2]| {
        let (vda, vdb) = (format!("vda={one}"), format!("vdb={other}"));
        words(&place.run(&[
            "backup", "keyed", &vda, &vdb, "--key", keys[0], "--key", keys[1],
        ]))
        .1
    };
    keyed("a.raw", "b.raw", ["vda=A", "vdb=B"]);
    let said = keyed("b.raw", "a.raw", ["vda=B", "vdb=A"]);
    assert!(!said.contains("UUID"), "{said}");
}

#[test]
fn a_disk_that_changed_nearly_everywhere_is_remarked_upon() {
    let place = Place::new();
    let fill = |name: &str, seed: u8| {
        let bytes: Vec<u8> = (0..24_u32 << 20).map(|n| (n >> 8) as u8 ^ seed).collect();
        fs::write(place.path(name), bytes).unwrap();
    };
    fill("a.raw", 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    fill("a.raw", 2);
    let said = words(&place.run(&["backup", "web01", "vda=a.raw"])).1;
    assert!(
        said.contains("nearly everything on disk vda differs"),
        "{said}"
    );
    let said = words(&place.run(&["backup", "web01", "vda=a.raw"])).1;
    assert!(!said.contains("nearly"), "{said}");
}

#[test]
fn a_path_without_files_names_the_right_one() {
    if !has("mke2fs") {
        return;
    }
    let place = Place::new();
    ext4(&place, "a.raw", "aaaaaaaa-0000-4000-8000-000000000001", 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    for command in [
        vec!["ls", "web01@latest:/file"],
        vec!["restore", "web01@latest:/file", "--to", "x"],
    ] {
        let said = place.fails(1, &command);
        assert!(said.contains("/files/file"), "{said}");
    }
    let said = place.fails(1, &["ls", "web01@latest:/etc/nginx"]);
    assert!(said.contains("/volumes and /files"), "{said}");
}

/// What is readable and yet not as it should be is said where people look.
#[test]
fn notes_of_a_filesystem_stand_in_the_list_of_volumes() {
    if !has("mkfs.ext4") {
        return;
    }
    let place = Place::new();
    let make = "truncate -s 32M a.raw && mkfs.ext4 -q -O ^has_journal,metadata_csum,64bit -b 1024 -g 1024 a.raw";
    crate::tool::ok(&place, "sh", &["-ec", make]);
    // The checksum in the descriptor of group 2: `struct ext4_group_desc`, bg_checksum.
    let path = place.path("a.raw");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2048 + 2 * 64 + 0x1e] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw"]);
    let said = place.ok(&["volumes", "web01@latest"]);
    assert!(
        said.contains("readable") && said.contains("wrong checksums"),
        "{said}"
    );
}
