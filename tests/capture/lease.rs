//! A backup through a daemon: its session has a lease, and outlives restarts of the daemon.

use std::process::Stdio;
use std::time::Duration;

use crate::fault::{is_copying, scene, slow};
use crate::kit::wait::eventually;
use crate::qemu::{Release, compare};
use crate::tracking::backup;

#[test]
fn a_restart_of_the_daemon_does_not_end_a_backup() {
    for in_order in [true, false] {
        let Some((place, mut qemu)) = scene(Release::New) else {
            return;
        };
        let daemon = place.serve(&[]);
        let child = slow(&place, &qemu, &["--point", "one"]);
        is_copying(&mut qemu);
        let before = qemu.disks.clone();
        qemu.write("vda", 88, 0, 512);
        match in_order {
            true => daemon.stop(),
            false => daemon.kill(),
        }
        std::thread::sleep(Duration::from_millis(500));
        let daemon = place.serve(&[]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "in order: {in_order}: {said}");
        compare(&place, "web01@one", &before);
        qemu.is_clean(2);
        let (two, _) = backup(&place, &qemu, "two", &[]);
        assert_eq!(crate::tracking::of(&two, "vda")["changed_bytes"], 65_536);
        compare(&place, "web01@two", &qemu.disks);
        place.ok(&["verify", "web01"]);
        daemon.stop();
    }
}

#[test]
fn a_killed_backup_frees_its_vm() {
    let Some((place, mut qemu)) = scene(Release::New) else {
        return;
    };
    let daemon = place.serve(&[]);
    let mut child = slow(&place, &qemu, &[]);
    is_copying(&mut qemu);
    let sessions = place.json(&["sessions"]);
    assert_eq!(sessions[0]["ttl_seconds"], 120, "{sessions}");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the guard has cleaned up", || qemu.ours().len() == 2);
    let socket = qemu.socket();
    let busy = place.fails(1, &["backup", "web01", "--qmp", &socket]);
    assert!(busy.contains("open session"), "{busy}");
    if std::env::var_os("RESTOREFS_CASES").is_some() {
        std::thread::sleep(Duration::from_secs(125));
    } else {
        let session = sessions[0]["session"].as_str().unwrap();
        place.ok(&["abort", &format!("web01/{session}")]);
    }
    backup(&place, &qemu, "next", &[]);
    compare(&place, "web01@next", &qemu.disks);
    qemu.is_clean(2);
    daemon.stop();
}

/// A backup proves that it lives, also while it writes nothing.
#[test]
fn a_lease_is_renewed() {
    let Some((place, mut qemu)) = scene(Release::New) else {
        return;
    };
    let daemon = place.serve(&[]);
    let socket = qemu.socket();
    let args = ["backup", "web01", "--qmp", &socket, "--limit", "150K"];
    let mut child = place
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    is_copying(&mut qemu);
    std::thread::sleep(Duration::from_secs(24));
    let sessions = place.json(&["sessions"]);
    assert!(
        sessions[0]["idle_seconds"].as_u64().unwrap() < 23,
        "{sessions}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.stop();
}
