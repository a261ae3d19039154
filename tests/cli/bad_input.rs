//! Bad input gets a clear error, and nothing is lost.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::kit::need::has;
use crate::kit::place::Place;

#[test]
fn names_that_cannot_be() {
    let place = Place::new();
    place.disk("a.raw", 1, 1);
    let long = "x".repeat(300);
    for name in [
        "",
        "a/b",
        "..",
        "a\n",
        ".hidden",
        "latest",
        "x.partial",
        "con",
        &long,
    ] {
        place.fails(2, &["backup", name, "vda=a.raw"]);
        place.fails(2, &["backup", "web01", "vda=a.raw", "--point", name]);
    }
    for disk in ["=a.raw", "vda=", "../x=a.raw", "vda"] {
        place.fails(2, &["backup", "web01", disk]);
    }
    assert_eq!(place.json(&["ls"]), serde_json::json!([]));
    let daemon = place.serve(&[]);
    place.fails(2, &["begin", "web02"]);
    place.fails(1, &["begin", "web02", "vda=1M", "--parent", "latest"]);
    drop(daemon);
    assert_eq!(place.json(&["ls"]), serde_json::json!([]));
    for target in ["../x", "web01@", "web01:/etc", "a@b@c"] {
        place.fails(2, &["ls", target]);
    }
    let said = place.fails(2, &["ls", "web01/latest/vda"]);
    assert!(said.contains("write VM, VM@POINT"), "{said}");
    let said = place.fails(2, &["ls", "web01@latest/vda"]);
    assert!(said.contains("VM@POINT:/PATH"), "{said}");
    place.fails(1, &["ls", "nobody"]);
    place.fails(1, &["info", "nobody@latest"]);
}

#[test]
fn what_is_not_there() {
    let place = Place::new();
    place.disk("a.raw", 1, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    for (args, word) in [
        (vec!["backup", "web01", "vda=nowhere.raw"], "nowhere.raw"),
        (vec!["restore", "web01@yesterday", "vda", "o"], "yesterday"),
        (vec!["restore", "web01@latest~7", "vda", "o"], "only 1"),
        (vec!["restore", "web01@latest", "vdz", "o"], "vda"),
        (vec!["ls", "web01@latest:/volumes/vda/part/9"], "part"),
        (vec!["begin", "web01"], "restorefs serve"),
        (vec!["commit", "web01/x"], "restorefs serve"),
        (vec!["abort", "web01/x"], "no session"),
    ] {
        let said = place.fails(1, &args);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let said = place.fails(10, &["-r", "/nowhere", "ls"]);
    assert!(said.contains("restorefs init"), "{said}");
    let said = place.fails(1, &["init"]);
    assert!(said.contains("already"), "{said}");
}

#[test]
fn a_raw_source_that_begins_like_qcow2_is_backed_up_as_raw() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    let made = Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "/etc/shadow",
            "-F",
            "raw",
            "guest.raw",
            "1M",
        ])
        .current_dir(place.dir.path())
        .status()
        .unwrap();
    assert!(made.success());
    let bytes = std::fs::read(place.path("guest.raw")).unwrap();
    place.ok(&["backup", "web01", "vda=guest.raw"]);
    assert_eq!(place.restored("web01@latest", "vda"), bytes);
    // Said to be QCOW2, its backing file opens nothing.
    let said = place.fails(1, &["backup", "other", "vda=qcow2:guest.raw"]);
    assert!(
        said.contains("/etc/shadow") && said.contains("--allow-backing"),
        "{said}"
    );
    assert_eq!(place.json(&["ls"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_source_with_a_hostile_data_file_opens_nothing() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    let run = |args: &[&str]| {
        assert!(
            Command::new("qemu-img")
                .args(args)
                .current_dir(place.dir.path())
                .status()
                .unwrap()
                .success()
        )
    };
    std::fs::write(place.path("secret"), vec![7; 1 << 20]).unwrap();
    run(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=secret,data_file_raw=on",
        "d.qcow2",
        "1M",
    ]);
    let said = place.fails(1, &["backup", "web01", "vda=d.qcow2"]);
    assert!(said.contains("secret"), "{said}");
    place.ok(&["backup", "web01", "vda=d.qcow2", "--allow-backing", "."]);
}

#[test]
fn damaged_images_and_things_that_are_no_images() {
    let place = Place::new();
    std::fs::write(
        place.path("text.qcow2"),
        b"hello, this is no image at all, and it is long enough to be one.......",
    )
    .unwrap();
    let said = place.fails(3, &["backup", "web01", "vda=text.qcow2"]);
    assert!(said.contains("text.qcow2"), "{said}");
    std::fs::write(place.path("empty.raw"), b"").unwrap();
    place.fails(2, &["backup", "web01", "vda=empty.raw"]);
    place.fails(2, &["backup", "web01", "vda=x.raw", "--format", "ext4"]);
    place.disk("a.raw", 1, 1);
    place.fails(2, &["backup", "web01", "vda=a.raw", "--compress", "lzma"]);
    place.fails(2, &["backup", "web01", "vda=a.raw", "VDA=a.raw"]);
}

#[test]
fn sidecars_that_are_empty_cut_or_newer() {
    let place = Place::new();
    place.disk("a.raw", 2, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let point = place.repo().join("vms/web01/points/one/point.json");
    let good = std::fs::read(&point).unwrap();
    std::fs::set_permissions(&point, std::fs::Permissions::from_mode(0o644)).unwrap();
    for bad in [&b""[..], &good[..good.len() / 2]] {
        std::fs::write(&point, bad).unwrap();
        let said = place.fails(3, &["restore", "web01@one", "vda", "o"]);
        assert!(said.contains("point.json"), "{said}");
    }
    std::fs::write(&point, &good).unwrap();
    // index.json is rebuilt from the points.
    let index = place.repo().join("vms/web01/index.json");
    std::fs::write(&index, b"{").unwrap();
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 1);
    place.ok(&["rebuild-catalog"]);
    assert!(std::fs::read(&index).unwrap().len() > 100);
    // The catalog is rebuilt when it is damaged or missing.
    std::fs::write(place.repo().join("catalog.redb"), vec![0xee; 5000]).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    std::fs::remove_file(place.repo().join("catalog.redb")).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "three"]);
    let format = place.repo().join("restorefs.json");
    let text = std::fs::read_to_string(&format)
        .unwrap()
        .replace("\"format_version\": 1", "\"format_version\": 2");
    std::fs::set_permissions(&format, std::fs::Permissions::from_mode(0o644)).unwrap();
    // A newer release would write the hash of what it wrote.
    let end = text.rfind(",\n  \"blake3\"").unwrap();
    std::fs::write(&format, format!("{}\n}}\n", &text[..end])).unwrap();
    let said = place.fails(1, &["ls"]);
    assert!(said.contains("format 2"), "{said}");
}

#[test]
fn a_chain_with_a_loop_or_a_parent_elsewhere() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    place.disk("a.raw", 2, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.disk("b.raw", 2, 2);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    let layers = place.repo().join("vms/web01/layers");
    let name = |point: &str| {
        place.json(&["info", point])["disks"][0]["layer"]
            .as_str()
            .unwrap()
            .trim_end_matches(".qcow2")
            .to_owned()
            + ".qcow2"
    };
    let (one, two) = (name("web01@one"), name("web01@two"));
    let rebase = |file: &str, backing: &str| {
        std::fs::set_permissions(layers.join(file), std::fs::Permissions::from_mode(0o644))
            .unwrap();
        let done = Command::new("qemu-img")
            .args([
                "rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, file,
            ])
            .current_dir(&layers)
            .status()
            .unwrap();
        assert!(done.success());
    };
    rebase(&one, &two);
    let said = place.fails(3, &["restore", "web01@two", "vda", "o"]);
    assert!(said.contains("loop"), "{said}");
    rebase(&one, "/etc/passwd");
    let said = place.fails(3, &["restore", "web01@two", "vda", "o"]);
    assert!(said.contains("not a layer of this VM"), "{said}");
    rebase(&two, "../../../../etc/x.qcow2");
    place.fails(3, &["restore", "web01@two", "vda", "o"]);
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let place = Place::new();
    let lock = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(place.repo().join("lock"))
        .unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    place.disk("a.raw", 1, 1);
    let said = place.fails(11, &["backup", "web01", "vda=a.raw"]);
    assert!(said.contains("being written"), "{said}");
    // Reading needs no lock.
    place.ok(&["ls"]);
}

#[test]
fn a_full_disk_fails_the_backup_and_leaves_the_repository_whole() {
    if !rustix::process::geteuid().is_root() || !has("mkfs.ext4") {
        return;
    }
    let place = Place::new();
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program)
            .args(args)
            .current_dir(place.dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "{program} {args:?}");
    };
    run("truncate", &["-s", "24M", "small.img"]);
    run("mkfs.ext4", &["-q", "small.img"]);
    std::fs::create_dir(place.path("small")).unwrap();
    run("mount", &["-o", "loop", "small.img", "small"]);
    let repo = place.path("small/repo");
    let repo = repo.to_str().unwrap();
    let outcome = std::panic::catch_unwind(|| {
        place.ok(&["-r", repo, "init"]);
        let disk = place.disk("a.raw", 60, 1);
        place.ok(&["-r", repo, "backup", "web01", "vda=a.raw", "--point", "one"]);
        let mut noise = vec![0u8; 40 << 20];
        for (n, byte) in noise.iter_mut().enumerate() {
            *byte = (n.wrapping_mul(2_654_435_761) >> 13) as u8;
        }
        std::fs::write(place.path("big.raw"), &noise).unwrap();
        let said = place.fails(
            1,
            &[
                "-r",
                repo,
                "backup",
                "web01",
                "vda=big.raw",
                "--point",
                "two",
            ],
        );
        assert!(said.to_lowercase().contains("space"), "{said}");
        assert_eq!(
            place
                .json(&["-r", repo, "ls", "web01"])
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(place.json(&["-r", repo, "sessions"]), serde_json::json!([]));
        place.ok(&["-r", repo, "restore", "web01@one", "vda", "o.raw"]);
        assert_eq!(std::fs::read(place.path("o.raw")).unwrap(), disk);
        place.ok(&[
            "-r",
            repo,
            "backup",
            "web01",
            "vda=a.raw",
            "--full",
            "--point",
            "three",
        ]);
    });
    run("umount", &["small"]);
    outcome.unwrap();
}

#[test]
fn options_that_a_read_only_mount_cannot_have() {
    let place = Place::new();
    let dir = place.path("mnt");
    std::fs::create_dir(&dir).unwrap();
    for option in ["rw", "allow_forget"] {
        let said = place.fails(2, &["mount", "-o", option, dir.to_str().unwrap()]);
        assert!(said.contains("serve --mount"), "{said}");
    }
}

#[test]
fn sessions_that_are_gone_and_names_that_are_taken() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    // Where the end of one that is not there any more is found.
    let said = place.fails(1, &["commit", "web01/gone"]);
    assert!(said.contains("restorefs jobs"), "{said}");
    // A name that is taken is said as it is written, and no flag is advised that this door does not have.
    place.disk("a.raw", 4, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let said = place.fails(1, &["begin", "web01", "--session", "ONE"]);
    assert!(said.contains("session one already"), "{said}");
    assert!(
        said.contains("upper and lower case") && !said.contains("--point"),
        "{said}"
    );
    daemon.stop();
}
