//! LVM volumes over all disks of a point, through the mount: what a guest's kernel told of them while they were in use.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use restorefs::block::{MemoryDisk, ReadAt};

use crate::world::{World, ready, run, text, unmount};

#[test]
fn volumes_and_their_files_are_those_of_the_guest() {
    if !ready() {
        return;
    }
    let world = World::empty();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/lvm-active");
    let disks = ["vda", "vdb", "vdc"].map(|name| {
        let packed = std::fs::read(images.join(format!("{name}.zst"))).unwrap();
        let bytes = zstd::decode_all(&packed[..]).unwrap();
        (name, MemoryDisk::from_bytes(&bytes))
    });
    let named: Vec<(&str, &dyn ReadAt)> = disks
        .iter()
        .map(|(name, disk)| (*name, disk as &dyn ReadAt))
        .collect();
    world.commit("web01", "first", &named);
    let mount = world.mount();
    let volumes = world.at("web01/first/volumes");
    let manifest = std::fs::read_to_string(images.join("manifest")).unwrap();
    let mut numbers = Vec::new();
    for line in manifest.lines() {
        let (expected, name) = line.split_once(' ').unwrap();
        let path = match name.contains('/') {
            true => volumes.join("lvm/vg0").join(name),
            false => volumes.join(format!("lvm/vg0/{name}.raw")),
        };
        let found = run("sha256sum", &[text(&path)]);
        assert_eq!(found.split_whitespace().next(), Some(expected), "{name}");
        numbers.push((path.clone(), path.metadata().unwrap().ino()));
    }
    // The parity volume is listed, and has its reason.
    let json = std::fs::read(world.at("web01/first/volumes.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let listed = json["volumes"].as_array().unwrap();
    let volume = |path: &str| listed.iter().find(|v| v["path"] == path).unwrap();
    assert_eq!(volume("lvm/vg0/parity")["state"], "unsupported");
    assert_eq!(volume("vda/raw")["member_of"], "LVM group vg0");
    assert_eq!(volume("lvm/vg0/thin")["state"], "readable");
    assert_eq!(volume("lvm/vg0/thin")["type"], "LVM thin");
    unmount(&mount);
    drop(mount);
    let mount = world.mount();
    for (path, number) in numbers {
        assert_eq!(path.metadata().unwrap().ino(), number, "{}", path.display());
    }
    unmount(&mount);
}
