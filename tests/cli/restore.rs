//! `restore`: targets, refusals, and damage that is found.

use std::path::PathBuf;

use crate::kit::place::Place;

fn layers(place: &Place, vm: &str) -> Vec<PathBuf> {
    let dir = place.repo().join("vms").join(vm).join("layers");
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "qcow2"))
        .collect();
    all.sort();
    all
}

fn flip(path: &std::path::Path, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn an_existing_file_is_kept_unless_forced() {
    let place = Place::new();
    let disk = place.disk("a.raw", 3, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    std::fs::write(place.path("out.raw"), b"precious").unwrap();
    let said = place.fails(1, &["restore", "web01@latest", "vda", "out.raw"]);
    assert!(said.contains("exists"), "{said}");
    assert_eq!(std::fs::read(place.path("out.raw")).unwrap(), b"precious");
    place.ok(&["restore", "web01@latest", "vda", "out.raw", "--force"]);
    assert_eq!(std::fs::read(place.path("out.raw")).unwrap(), disk);
}

#[test]
fn a_flipped_bit_is_found_and_leaves_no_file() {
    let place = Place::new();
    place.disk("a.raw", 6, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    // The first data cluster lies behind the header.
    flip(&layers(&place, "web01")[0], 65_536 + 1234);
    let said = place.fails(3, &["restore", "web01@latest", "vda", "out.raw"]);
    assert!(
        said.contains("other content than that of the backup") && said.contains("vda"),
        "{said}"
    );
    assert!(!place.path("out.raw").exists());
    assert!(!place.path("out.raw.restoring").exists());
}

#[test]
fn a_flipped_bit_in_a_parents_cluster_is_not_completed_from() {
    let place = Place::new();
    place.disk("a.raw", 6, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    flip(&layers(&place, "web01")[0], 65_536 + 1234);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01"]);
    let session = begun["session"].as_str().unwrap();
    let uri: restorefs::nbd::proto::uri::Uri =
        daemon.uri(&format!("web01/{session}/vda")).parse().unwrap();
    let client = restorefs::nbd::client::Client::connect(&uri).unwrap();
    // 512 bytes of a cluster: the rest would have to come from the damaged parent.
    let written = restorefs::block::WriteAt::write_at(&client, 512, &[7; 512]);
    let error = written
        .and_then(|()| restorefs::block::WriteAt::flush(&client))
        .unwrap_err();
    assert_eq!(
        error.kind(),
        restorefs::error::ErrorKind::Io,
        "{}",
        error.report()
    );
    client.disconnect().ok();
    // The session says so, too, names point and range, and can still be aborted.
    let said = place.fails(3, &["commit", &format!("web01/{session}")]);
    assert!(said.contains("disk vda bytes 0 to 65536"), "{said}");
    place.ok(&["abort", &format!("web01/{session}")]);
    daemon.stop();
}

#[test]
fn a_missing_layer_and_a_changed_sidecar_are_named() {
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.disk("b.raw", 3, 2);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    let first = place.json(&["info", "web01@one"])["disks"][0]["layer"]
        .as_str()
        .unwrap()
        .to_owned();
    let layer = layers(&place, "web01")
        .into_iter()
        .find(|l| {
            l.to_string_lossy()
                .contains(first.trim_end_matches(".qcow2"))
        })
        .unwrap();
    let aside = place.path("aside");
    std::fs::rename(&layer, &aside).unwrap();
    let said = place.fails(3, &["restore", "web01@two", "vda", "out.raw"]);
    assert!(
        said.contains("missing") && said.contains(first.trim_end_matches(".qcow2")),
        "{said}"
    );
    std::fs::rename(&aside, &layer).unwrap();
    let sidecar = place.repo().join("vms/web01/points/one/point.json");
    flip(&sidecar, 40);
    let said = place.fails(3, &["restore", "web01@one", "vda", "out.raw"]);
    assert!(said.contains("point.json"), "{said}");
    place.ok(&["restore", "web01@two", "vda", "out.raw"]);
}

#[test]
fn a_parent_with_other_content_is_damage() {
    let place = Place::new();
    place.disk("a.raw", 6, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.disk("b.raw", 6, 2);
    place.ok(&["backup", "other", "vda=b.raw", "--point", "one"]);
    let mut changed = std::fs::read(place.path("a.raw")).unwrap();
    changed[0] ^= 1;
    std::fs::write(place.path("c.raw"), changed).unwrap();
    place.ok(&["backup", "web01", "vda=c.raw", "--point", "two"]);
    // The other VM's layer, with its own right sums, in the parent's slot.
    let name = |point: &str| {
        let layer = place.json(&["info", point])["disks"][0]["layer"]
            .as_str()
            .unwrap()
            .to_owned();
        layer.trim_end_matches(".qcow2").to_owned()
    };
    let (mine, theirs) = (name("web01@one"), name("other@one"));
    let dir = |vm: &str| place.repo().join("vms").join(vm).join("layers");
    std::fs::rename(
        dir("other").join(format!("{theirs}.qcow2")),
        dir("web01").join(format!("{mine}.qcow2")),
    )
    .unwrap();
    for entry in std::fs::read_dir(dir("other")).unwrap() {
        let sums = entry.unwrap().file_name().into_string().unwrap();
        if sums.starts_with(&theirs) {
            std::fs::rename(
                dir("other").join(&sums),
                dir("web01").join(sums.replace(&theirs, &mine)),
            )
            .unwrap();
        }
    }
    let said = place.fails(3, &["restore", "web01@one", "vda", "o"]);
    assert!(said.contains("another content than was recorded"), "{said}");
    place.fails(3, &["restore", "web01@two", "vda", "o"]);
    assert!(!place.path("o").exists());
}

#[test]
fn a_block_device_that_is_in_use_is_refused() {
    use std::process::Command;

    if !rustix::process::geteuid().is_root() || !crate::kit::need::has("mkfs.ext4") {
        return;
    }
    let place = Place::new();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .current_dir(place.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    run("truncate", &["-s", "32M", "fs.raw"]);
    run("mkfs.ext4", &["-q", "fs.raw"]);
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    run("truncate", &["-s", "32M", "target.raw"]);
    let device = run("losetup", &["-f", "--show", "target.raw"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        // What the device had before does not shine through the holes.
        std::fs::write(&device, vec![0xee; 32 << 20]).unwrap();
        place.ok(&["restore", "web01@latest", "vda", &device]);
        assert!(std::fs::read(&device).unwrap() == std::fs::read(place.path("fs.raw")).unwrap());
        // And a device is a source, too.
        place.ok(&["backup", "web02", &format!("vda={device}")]);
        run("mount", &[&device, "mnt"]);
        let said = place.fails(1, &["restore", "web01@latest", "vda", &device]);
        run("umount", &["mnt"]);
        assert!(
            said.contains("mounted at") && said.contains("--force"),
            "{said}"
        );
    });
    run("losetup", &["-d", &device]);
    outcome.unwrap();
}
