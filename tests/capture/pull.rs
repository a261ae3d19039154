//! Bare NBD exports (`--pull`): a bitmap counts only if it is the parent's change id; a lost connection is no retry.

use std::process::{Child, Command, Stdio};

use crate::kit::need::has_all;
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(place: &Place, program: &str, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .current_dir(place.dir.path())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "{program} {args:?}");
}

/// A server of an image, with one of its bitmaps.
fn serve(place: &Place, bitmap: Option<&str>) -> Server {
    let socket = place.path("pull.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new("qemu-nbd");
    command
        .args(["-t", "-r", "-f", "qcow2", "-x", "vda", "-k"])
        .arg(&socket);
    if let Some(name) = bitmap {
        command.args(["-B", name]);
    }
    let child = command
        .arg("a.qcow2")
        .current_dir(place.dir.path())
        .spawn()
        .unwrap();
    let server = Server(child);
    eventually("qemu-nbd listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    server
}

#[test]
fn what_a_bitmap_calls_changed_is_copied_if_it_counts_from_the_parent() {
    if !has_all(&["qemu-img", "qemu-nbd", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let mut bytes = noise(5, 4 << 20);
    std::fs::write(place.path("a.raw"), &bytes).unwrap();
    run(
        &place,
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", "a.raw", "a.qcow2"],
    );
    let uri = format!(
        "vda=nbd+unix:///vda?socket={}",
        place.path("pull.sock").display()
    );
    let server = serve(&place, None);
    let first = place.json(&[
        "backup",
        "web01",
        "--pull",
        &uri,
        "--point",
        "one",
        "--change-id",
        "vda=b0",
    ]);
    assert_eq!(first["report"]["consistency"], "unknown", "{first}");
    drop(server);
    run(&place, "qemu-img", &["bitmap", "--add", "a.qcow2", "b0"]);
    run(
        &place,
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 9 1M 64k", "a.qcow2"],
    );
    bytes[1 << 20..(1 << 20) + 65_536].fill(9);
    let server = serve(&place, Some("b0"));
    let second = place.json(&[
        "backup",
        "web01",
        "--pull",
        &uri,
        "--bitmap",
        "vda=b0",
        "--point",
        "two",
        "--change-id",
        "vda=b1",
    ]);
    let disk = &second["report"]["disks"][0];
    assert_eq!(
        (&disk["changed_bytes"], &disk["read_bytes"]),
        (&65_536.into(), &65_536.into()),
        "{second}"
    );
    assert!(place.restored("web01@two", "vda") == bytes);
    // The parent is at b1 now.
    let output = place.run(&[
        "backup", "web01", "--pull", &uri, "--bitmap", "vda=b0", "--point", "three",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("does not count from the parent, whose change id is b1"),
        "{said}"
    );
    let said = place.fails(
        1,
        &[
            "backup", "web01", "--pull", &uri, "--bitmap", "vda=none", "--point", "four",
        ],
    );
    assert!(!said.is_empty());
    drop(server);
    // Mistakes in the command.
    for args in [
        &["backup", "web01", "--bitmap", "vda=b0"][..],
        &["backup", "web01", "--pull", "vda=a.raw"],
        &["backup", "web01", "--pull", &uri, "--bitmap", "vdb=b0"],
        &["backup", "web01", "vda=a.raw", "--pull", &uri],
        &["backup", "web01", "vda=a.raw", "--quiesce"],
    ] {
        let code = place.run(args).status.code();
        assert!(matches!(code, Some(1 | 2)), "{args:?}: {code:?}");
    }
    assert_eq!(place.json(&["sessions"]).as_array().unwrap().len(), 0);
}

/// A server that goes away and comes back may show another instant.
#[test]
fn a_lost_connection_is_the_end() {
    if !has_all(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let place = Place::new();
    std::fs::write(place.path("a.raw"), noise(6, 8 << 20)).unwrap();
    run(
        &place,
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", "a.raw", "a.qcow2"],
    );
    let uri = format!(
        "vda=nbd+unix:///vda?socket={}",
        place.path("pull.sock").display()
    );
    let server = serve(&place, None);
    let mut command = place.command(&["backup", "web01", "--pull", &uri, "--limit", "2M"]);
    let backup = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the copy has begun", || {
        let sessions = place.path("repo/vms/web01/points");
        std::fs::read_dir(sessions).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
    });
    drop(server);
    let _server = serve(&place, None);
    let output = backup.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        place.json(&["ls", "web01"]).to_string().contains("[]"),
        "no point is there"
    );
}
