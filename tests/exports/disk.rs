//! Whole disks under QEMU's tools: the files in `disks/` are raw images.

use std::process::Command;

use crate::kit::need::free_port;
use crate::world::{Mount, Server, VDB_BYTES, World, ready, run, text};

#[test]
fn qemu_img_reads_a_disk() {
    if !ready(&["qemu-img"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let (disk, out) = (mount.point("disks/vda.raw"), world.path("out.qcow2"));
    let (disk, out) = (text(&disk), text(&out));
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", disk, out],
    );
    let raw = world.path("vda.raw");
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "qcow2", text(&raw), out],
    );
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", text(&raw), disk],
    );
    // Holes are told: three terabytes are mapped in a moment.
    let map = run(
        "qemu-img",
        &[
            "map",
            "-f",
            "raw",
            "--output=json",
            text(&mount.point("disks/vdb.raw")),
        ],
    );
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let extents = map.as_array().unwrap();
    let length: u64 = extents.iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(length, VDB_BYTES);
    let data: u64 = extents
        .iter()
        .filter(|e| e["data"] == true)
        .map(|e| e["length"].as_u64().unwrap())
        .sum();
    assert!(0 < data && data <= 1 << 20, "{map}");
    // As a backing file: what is written goes elsewhere.
    let scratch = world.path("scratch.qcow2");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            disk,
            text(&scratch),
        ],
    );
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            text(&raw),
            text(&scratch),
        ],
    );
}

/// The disk of a mount under qemu-nbd, and its URI.
fn served(mount: &Mount, disk: &str) -> (Server, String) {
    let port = free_port();
    let mut command = Command::new("qemu-nbd");
    let arguments = ["-r", "-f", "raw", "-t", "-b", "127.0.0.1", "-p"];
    command.args(arguments).arg(port.to_string());
    command.arg(mount.point(&format!("disks/{disk}.raw")));
    let server = Server::start(&mut command, port);
    (server, format!("nbd://127.0.0.1:{port}"))
}

#[test]
fn qemu_nbd_serves_the_disks() {
    if !ready(&["qemu-nbd", "nbdinfo", "nbdcopy", "cmp"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let (_vda, uri) = served(&mount, "vda");
    let out = world.path("out.raw");
    run("nbdcopy", &[&uri, text(&out)]);
    run("cmp", &[text(&out), text(&world.path("vda.raw"))]);
    let (_vdb, uri) = served(&mount, "vdb");
    let size = run("nbdinfo", &["--size", &uri]);
    assert_eq!(size.trim(), VDB_BYTES.to_string());
    let map = run("nbdinfo", &["--map", "--totals", &uri]);
    assert!(map.contains("65536 "), "{map}");
}
