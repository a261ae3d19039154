//! A chain that is broken does not go on growing: whoever begins a session looks at each layer below it. The right values are the
//! kernel's: bytes of the sources, and files as they were before they were harmed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::kit::need::can_mount;
use crate::kit::place::Place;

/// A VM with three points, one two three, each of two disks; every layer differs from the one below.
struct Chain {
    place: Place,
    vda: Vec<u8>,
    vdb: Vec<u8>,
}

/// A way to harm the repository.
type Harm = fn(&Chain);

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

impl Chain {
    fn new() -> Self {
        let place = Place::new();
        let (mut vda, vdb) = (place.disk("a.raw", 8, 1), place.disk("b.raw", 4, 2));
        for (point, cluster) in [("one", 0), ("two", 3), ("three", 5)] {
            vda[cluster * 65_536 + 9] ^= 0xff;
            std::fs::write(place.path("a.raw"), &vda).unwrap();
            place.ok(&[
                "backup",
                "web01",
                "vda=a.raw",
                "vdb=b.raw",
                "--point",
                point,
            ]);
        }
        Self { place, vda, vdb }
    }

    fn vm(&self) -> PathBuf {
        self.place.repo().join("vms/web01")
    }

    fn layer(&self, point: &str, disk: &str) -> PathBuf {
        let bytes = std::fs::read(self.vm().join(format!("points/{point}/point.json"))).unwrap();
        let point: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let mut disks = point["disks"].as_array().unwrap().iter();
        let disk = disks.find(|d| d["name"] == disk).unwrap();
        let slot = disk["layer"].as_str().unwrap();
        self.vm().join(format!("layers/{slot}.qcow2"))
    }

    fn sums(&self, point: &str, disk: &str) -> PathBuf {
        let layer = self.layer(point, disk);
        let slot = layer.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut entries = std::fs::read_dir(self.vm().join("layers")).unwrap();
        entries
            .find_map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name.starts_with(&slot) && name.ends_with(".sums")).then_some(path)
            })
            .unwrap()
    }

    fn points(&self) -> usize {
        self.place.json(&["ls", "web01"]).as_array().unwrap().len()
    }
}

const HARMS: [(&str, Harm); 8] = [
    ("the parent's layer is missing", |chain| {
        std::fs::remove_file(chain.layer("three", "vda")).unwrap();
    }),
    ("the parent's layer is cut", |chain| {
        overwrite(&chain.layer("three", "vda"), |bytes| {
            bytes.truncate(bytes.len() - 65_536)
        });
    }),
    ("the parent's layer is empty", |chain| {
        overwrite(&chain.layer("three", "vda"), Vec::clear);
    }),
    ("another disk's layer lies in the slot", |chain| {
        let other = std::fs::read(chain.layer("three", "vdb")).unwrap();
        overwrite(&chain.layer("three", "vda"), |bytes| *bytes = other);
    }),
    ("the grandparent's layer is missing", |chain| {
        std::fs::remove_file(chain.layer("one", "vda")).unwrap();
    }),
    ("the layer between is another point's", |chain| {
        let other = std::fs::read(chain.layer("one", "vda")).unwrap();
        overwrite(&chain.layer("two", "vda"), |bytes| *bytes = other);
    }),
    ("sums are missing deep in the chain", |chain| {
        std::fs::remove_file(chain.sums("two", "vda")).unwrap();
    }),
    ("the parent's sums are cut", |chain| {
        overwrite(&chain.sums("three", "vda"), |bytes| {
            bytes.truncate(bytes.len() - 32)
        });
    }),
];

#[test]
fn nothing_is_built_on_a_broken_chain_and_a_whole_disk_begins_anew() {
    for (what, harm) in HARMS {
        let chain = Chain::new();
        harm(&chain);
        let place = &chain.place;
        // Asked not to, and told that nothing new is there.
        let strict = place.fails(
            3,
            &["backup", "web01", "vda=a.raw", "vdb=b.raw", "--strict"],
        );
        assert!(
            strict.contains("vda") && strict.contains("--full vda"),
            "{what}: {strict}"
        );
        let unchanged = ["backup", "web01", "vdb=b.raw", "--unchanged", "vda"];
        let said = place.fails(3, &unchanged);
        assert!(said.contains("cannot be continued"), "{what}: {said}");
        assert_eq!(chain.points(), 3, "{what}");
        // The damage is shown, and by exit code.
        let said = place.fails(3, &["info", "web01@three"]);
        assert!(said.contains("the repository is damaged"), "{what}: {said}");
        place.fails(3, &["volumes", "web01@three"]);
        let said = place.fails(3, &["rebuild-catalog"]);
        assert!(said.contains("web01@three"), "{what}: {said}");
        place.ok(&["jobs"]);
        // What is read whole begins anew, aloud also where remarks are not wanted; the other disk goes on.
        let done = place.run(&[
            "-q",
            "backup",
            "web01",
            "vda=a.raw",
            "vdb=b.raw",
            "--point",
            "four",
        ]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{what}: {said}");
        assert!(
            said.contains("disk vda is stored in full"),
            "{what}: {said}"
        );
        let info = place.json(&["info", "web01@four"]);
        let reason = info["disks"][0]["full_reason"].as_str().unwrap_or_default();
        assert!(reason.contains("is damaged"), "{what}: {info}");
        assert_eq!(info["disks"][1]["kind"], "incremental", "{what}");
        assert_eq!(place.restored("web01@four", "vda"), chain.vda, "{what}");
        assert_eq!(place.restored("web01@four", "vdb"), chain.vdb, "{what}");
        // And the next one is an ordinary one.
        place.ok(&[
            "backup",
            "web01",
            "vda=a.raw",
            "--unchanged",
            "vdb",
            "--strict",
        ]);
    }
}

/// A session that was begun on sound ground is looked at again when it becomes a point, also by another daemon.
#[test]
fn a_session_whose_ground_breaks_does_not_become_a_point() {
    let chain = Chain::new();
    let place = &chain.place;
    let mut daemon = Some(place.serve(&[]));
    for (restart, kept) in [(false, "vda"), (true, "vdb")] {
        place.ok(&["begin", "web01", "--session", "s"]);
        if restart {
            daemon.take().unwrap().stop();
        }
        let layer = chain.layer("one", kept);
        let away = place.path("away");
        std::fs::rename(&layer, &away).unwrap();
        daemon.get_or_insert_with(|| place.serve(&[]));
        let args = [
            "commit",
            "web01/s",
            "--unchanged",
            "vda,vdb",
            "--point",
            kept,
        ];
        let said = place.fails(3, &args);
        assert!(said.contains(&format!("disk {kept} of web01")), "{said}");
        assert!(!place.repo().join("vms/web01/points").join(kept).exists());
        // It stays open, and goes on when the layer is there again.
        std::fs::rename(&away, &layer).unwrap();
        place.ok(&args);
        place.ok(&["info", &format!("web01@{kept}")]);
        assert_eq!(place.restored(&format!("web01@{kept}"), "vda"), chain.vda);
    }
    daemon.unwrap().stop();
}

#[test]
fn sessions_that_write_only_a_part_are_refused_until_the_disk_is_wanted_anew() {
    let chain = Chain::new();
    std::fs::remove_file(chain.layer("one", "vda")).unwrap();
    let place = &chain.place;
    let mounted = can_mount();
    let mut more = Vec::new();
    if mounted {
        std::fs::create_dir(place.path("mnt")).unwrap();
        more.extend(["--mount", "mnt"]);
    }
    let daemon = place.serve(&more);
    for args in [
        &["begin", "web01"][..],
        &["begin", "web01", "--changed-only"],
        &["begin", "web01", "--full", "vdb"],
    ] {
        let said = place.fails(3, args);
        assert!(said.contains("--full vda"), "{said}");
    }
    if mounted {
        let made = std::fs::create_dir(place.path("mnt/web01/x.partial"));
        let code = made.unwrap_err().raw_os_error();
        assert_eq!(code, Some(rustix::io::Errno::IO.raw_os_error()));
    }
    place.fails(
        3,
        &["backup", "web01", "vda=a.raw", "vdb=b.raw", "--strict"],
    );
    let begun = place.json(&["begin", "web01", "--full", "vda"]);
    assert_eq!(begun["disk_results"][0]["kind"], "full");
    let session = begun["session"].as_str().unwrap();
    place.ok(&["abort", &format!("web01/{session}")]);
    // Through the daemon, too, what is read whole begins anew.
    let done = place.run(&[
        "-q",
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "four",
    ]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("disk vda is stored in full"));
    assert_eq!(place.restored("web01@four", "vda"), chain.vda);
    daemon.stop();
}

#[test]
fn a_parent_whose_sidecar_is_damaged_is_not_built_on_and_no_disk_is_lost_on_the_way() {
    for harm in [
        (|path: &Path| overwrite(path, |bytes| bytes[200] ^= 1)) as fn(&Path),
        |path| overwrite(path, Vec::clear),
        |path| std::fs::remove_file(path).unwrap(),
    ] {
        let chain = Chain::new();
        let place = &chain.place;
        harm(&chain.vm().join("points/three/point.json"));
        place.fails(
            3,
            &["backup", "web01", "vda=a.raw", "vdb=b.raw", "--strict"],
        );
        // The index still knows the other disk.
        let said = place.fails(3, &["backup", "web01", "vda=a.raw"]);
        assert!(said.contains("vdb"), "{said}");
        place.fails(3, &["info", "web01@three"]);
        place.fails(3, &["rebuild-catalog"]);
        place.ok(&[
            "backup",
            "web01",
            "vda=a.raw",
            "vdb=b.raw",
            "--point",
            "four",
        ]);
        let info = place.json(&["info", "web01@four"]);
        assert_eq!(info["kind"], "full");
        assert!(
            info["disks"][1]["full_reason"]
                .as_str()
                .unwrap()
                .contains("damaged")
        );
        assert_eq!(place.restored("web01@four", "vda"), chain.vda);
        // What else hangs on the chain is as it was.
        assert_eq!(place.restored("web01@two", "vdb"), chain.vdb);
        let begun = place.run(&[
            "backup",
            "web01",
            "vda=a.raw",
            "--without",
            "vdb",
            "--point",
            "five",
        ]);
        assert!(begun.status.success());
    }
}

#[test]
fn a_whole_repository_has_no_damage_and_a_guests_own_is_none() {
    let chain = Chain::new();
    let place = &chain.place;
    // A disk that begins as an ext4 does and goes on as nothing does.
    let mut disk = vec![0; 4 << 20];
    disk[1080] = 0x53;
    disk[1081] = 0xef;
    std::fs::write(place.path("bad.raw"), &disk).unwrap();
    place.ok(&["backup", "db01", "vda=bad.raw"]);
    let volumes = place.json(&["volumes", "db01@latest"]);
    assert_ne!(volumes["volumes"][0]["state"], "readable");
    place.ok(&["info", "db01@latest"]);
    place.ok(&["info", "web01@one"]);
    assert_eq!(
        place.json(&["rebuild-catalog"])["damage"],
        serde_json::json!([])
    );
}

#[test]
fn an_attached_file_that_is_gone_or_cut_is_damage() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    std::fs::write(place.path("note.txt"), "by the way").unwrap();
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--attach",
        "note.txt",
        "--point",
        "one",
    ]);
    place.ok(&["info", "web01@one"]);
    let note = place.repo().join("vms/web01/points/one/attached/note.txt");
    overwrite(&note, |bytes| bytes.truncate(3));
    assert!(place.fails(3, &["info", "web01@one"]).contains("attached"));
    std::fs::remove_file(&note).unwrap();
    assert!(place.fails(3, &["rebuild-catalog"]).contains("attached"));
}

/// What lies below a missing layer may be wanted again, once that is restored from a copy.
#[test]
fn nothing_below_a_missing_layer_is_cleaned_up() {
    let chain = Chain::new();
    let place = &chain.place;
    if !can_mount() {
        return;
    }
    let (first, second) = (chain.layer("one", "vda"), chain.layer("two", "vda"));
    let kept = std::fs::read(&second).unwrap();
    std::fs::create_dir(place.path("mnt")).unwrap();
    let daemon = place.serve(&["--mount", "mnt", "-o", "allow_forget"]);
    std::fs::remove_dir(place.path("mnt/web01/one")).unwrap();
    daemon.stop();
    assert!(first.exists());
    std::fs::remove_file(&second).unwrap();
    // A stranger, so that the next owner looks for what nothing names.
    std::fs::copy(
        &first,
        chain.vm().join("layers/vdx-20200101T000000Z-abcdef.qcow2"),
    )
    .unwrap();
    place.run(&["rebuild-catalog"]);
    assert!(first.exists());
    std::fs::write(&second, kept).unwrap();
    assert_eq!(place.restored("web01@three", "vda"), chain.vda);
}
