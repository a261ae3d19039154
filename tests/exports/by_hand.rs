//! What administrators type: tar, find, du, df, stat.

use std::os::unix::fs::MetadataExt;

use crate::world::{OLD, World, ready, run, text};

#[test]
fn tar_takes_a_guest_as_it_is() {
    if !ready(&["tar", "rsync"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("");
    let (archive, to) = (world.path("a.tar"), world.path("to"));
    std::fs::create_dir(&to).unwrap();
    let files = mount.point("files");
    let all = ["--acls", "--xattrs", "--sparse", "--numeric-owner"];
    run(
        "tar",
        &[&all[..], &["-cf", text(&archive), "-C", text(&files), "."]].concat(),
    );
    run(
        "tar",
        &[&all[..], &["-xpf", text(&archive), "-C", text(&to)]].concat(),
    );
    world.assert_copied(&to);
    // A hole of 5 MiB is not in the archive.
    assert!(archive.metadata().unwrap().len() < 7 << 20);
    run(
        "tar",
        &["--compare", "-f", text(&archive), "-C", text(&files)],
    );
}

#[test]
fn find_finds_by_time_and_name() {
    if !ready(&["find"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("");
    let files = mount.point("files");
    let old = files.join(OLD);
    let newer = run(
        "find",
        &[text(&files.join("srv")), "-type", "f", "-newer", text(&old)],
    );
    // All but itself.
    assert_eq!(newer.lines().count(), 502, "{newer}");
    assert_eq!(run("find", &[text(&files), "-newermt", "2900-01-01"]), "");
    let before = run(
        "find",
        &[text(&files), "-type", "f", "!", "-newermt", "2000-01-01"],
    );
    assert_eq!(before.trim_end(), text(&old));
    let links = run(
        "find",
        &[text(&files), "-samefile", text(&files.join("etc/passwd"))],
    );
    assert_eq!(links.lines().count(), 2, "{links}");
    // From the top: no loop, no complaint.
    let all = run("find", &[text(mount.root()), "-name", "vdb.raw"]);
    assert_eq!(all.lines().count(), 1, "{all}");
}

#[test]
fn du_and_df_tell_the_truth() {
    if !ready(&["du", "df"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("");
    let info: serde_json::Value =
        serde_json::from_slice(&std::fs::read(mount.point("info.json")).unwrap()).unwrap();
    let mut data = 0;
    for disk in info["disks"].as_array().unwrap() {
        let path = mount.point(&format!("disks/{}.raw", disk["name"].as_str().unwrap()));
        let bytes = disk["data_bytes"].as_u64().unwrap();
        assert!(bytes > 0);
        assert_eq!(path.metadata().unwrap().blocks() * 512, bytes, "{disk}");
        let du = run("du", &["--block-size=1", text(&path)]);
        assert_eq!(
            du.split_whitespace().next(),
            Some(bytes.to_string().as_str())
        );
        data += bytes;
    }
    let du = run("du", &["-s", "--block-size=1", text(&mount.point("disks"))]);
    let sum: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(sum, data);
    let apparent = run(
        "du",
        &[
            "--apparent-size",
            "--block-size=1",
            text(&mount.point("disks/vdb.raw")),
        ],
    );
    assert!(
        apparent.starts_with(&(3u64 << 40).to_string()),
        "{apparent}"
    );
    // The guest's files: as its own kernel counts them.
    let files = mount.point("files/srv/sparse").metadata().unwrap();
    assert!(files.blocks() * 512 < 64 << 10 && files.len() == 5 << 20);
    // df: the filesystem that the repository is on.
    let of = |path: &std::path::Path| {
        let said = run("df", &["-B4096", "--output=size", text(path)]);
        said.lines().last().unwrap().trim().to_owned()
    };
    assert_eq!(of(mount.root()), of(&world.place.repo()));
    let named = run("df", &["--output=fstype,target", text(mount.root())]);
    assert!(named.contains("fuse.restorefs"), "{named}");
}
