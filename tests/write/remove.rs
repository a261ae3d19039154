//! Removing a session aborts it; a removal that is cut short leaves no point.

use std::fs;

use rustix::io::Errno;

use crate::stand::{Stand, errno, ready, run, text};

#[test]
fn rm_r_and_rmdir_abort() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    fs::write(stand.at("vm/s.partial/disks/vdb.raw"), &bytes).unwrap();
    fs::write(stand.at("vm/s.partial/attached/note"), "x").unwrap();
    run("rm", &["-r", text(&stand.at("vm/s.partial"))]);
    assert!(!stand.at("vm/s.partial").exists());
    stand.begin("t");
    fs::write(stand.disk("t"), &bytes).unwrap();
    fs::remove_dir(stand.at("vm/t.partial")).unwrap();
    let names: Vec<_> = fs::read_dir(stand.at("vm"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["latest", "p0"]);
    stand.stop();
    stand.check_left(1);
    let points = fs::read_dir(stand.place.repo().join("vms/vm/points")).unwrap();
    assert_eq!(points.count(), 1);
}

/// fsync of a file whose session had been aborted was answered with success, although nothing of it was left.
#[test]
fn what_was_aborted_is_not_synced() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    for by_rmdir in [true, false] {
        stand.begin("s");
        fs::write(stand.disk("s"), &bytes).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(stand.disk("s"))
            .unwrap();
        file.sync_all().unwrap();
        if by_rmdir {
            fs::remove_dir(stand.at("vm/s.partial")).unwrap();
        } else {
            stand.place.ok(&["abort", "vm/s"]);
        }
        assert_eq!(errno(file.sync_all()), Errno::STALE);
    }
    // What was committed is durable.
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    let file = fs::File::open(stand.disk("s")).unwrap();
    stand.commit("s", "p1").unwrap();
    file.sync_all().unwrap();
    stand.stop();
    stand.check_left(2);
}

/// Wherever `rm -r` is stopped, there is no commit after it.
#[test]
fn a_removal_that_was_cut_short_is_never_committed() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    // rm removes in the order of the listing.
    stand.begin("order");
    let session = stand.at("vm/order.partial");
    let mut order: Vec<String> = Vec::new();
    for entry in fs::read_dir(&session).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "disks" {
            order.push("disks/vda.raw".to_owned());
        }
        order.push(name);
    }
    assert_eq!(order[0], "status");
    run("rm", &["-r", text(&session)]);
    for steps in 1..=order.len() {
        stand.begin("s");
        fs::write(stand.disk("s"), &bytes).unwrap();
        for name in &order[..steps] {
            let path = stand.at("vm/s.partial").join(name);
            if path.is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            assert_eq!(errno(fs::metadata(&path)), Errno::NOENT, "{name}");
        }
        assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY, "{steps}");
        let said = stand.place.fails(2, &["commit", "vm/s"]);
        assert!(said.contains("removed"), "{said}");
        // Nor after a restart.
        if steps % 2 == 0 {
            stand.stop();
            stand.start("");
            assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY, "{steps}");
        }
        run("rm", &["-r", text(&stand.at("vm/s.partial"))]);
    }
    assert!(!stand.at("vm/p1").exists());
}

#[test]
fn a_disk_that_was_removed_is_missed() {
    if !ready(&["setfattr"]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("two");
    fs::write(stand.disk("two"), &bytes).unwrap();
    fs::write(stand.at("vm/two.partial/disks/vdb.raw"), &bytes).unwrap();
    stand.commit("two", "p1").unwrap();

    stand.begin("s");
    fs::write(stand.at("vm/s.partial/disks/vdb.raw"), &bytes).unwrap();
    fs::remove_file(stand.disk("s")).unwrap();
    assert_eq!(stand.commit("s", "p2").unwrap_err(), Errno::BUSY);
    assert!(stand.last_error("s").contains("vda was removed"));
    assert_eq!(stand.status("s")["removed"][0], "vda");
    // Written again, it is compared with its parent as before.
    fs::write(stand.disk("s"), &bytes).unwrap();
    stand.commit("s", "p2").unwrap();
    let info = fs::read_to_string(stand.at("vm/p2/info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let changed: Vec<_> = info["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["changed_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(changed, [0, 0]);

    // Or it is declared to be gone.
    stand.begin("t");
    fs::write(stand.at("vm/t.partial/disks/vdb.raw"), &bytes).unwrap();
    fs::remove_file(stand.disk("t")).unwrap();
    let session = stand.at("vm/t.partial");
    run(
        "setfattr",
        &["-n", "user.restorefs.without", "-v", "vda", text(&session)],
    );
    stand.commit("t", "p3").unwrap();
    assert!(!stand.at("vm/p3/disks/vda.raw").exists());
    assert!(fs::read(stand.at("vm/p3/disks/vdb.raw")).unwrap() == bytes);
}

/// One that was made in the session is nobody's loss.
#[test]
fn a_new_disk_may_be_removed_again() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    let new = stand.at("vm/s.partial/disks/vdb.raw");
    fs::write(&new, &bytes).unwrap();
    fs::remove_file(&new).unwrap();
    stand.commit("s", "p1").unwrap();
    assert!(!stand.at("vm/p1/disks/vdb.raw").exists());
    stand.stop();
    stand.check_left(2);
}

#[test]
fn what_is_left_of_tools_is_not_in_the_point() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    fs::write(stand.at("vm/s.partial/disks/.vda.raw.AbC123"), "half").unwrap();
    stand.commit("s", "p1").unwrap();
    let disks = fs::read_dir(stand.at("vm/p1/disks")).unwrap();
    assert_eq!(disks.count(), 1);
    stand.stop();
    stand.check_left(2);
}

/// Only where it was asked for, and only the point as a whole: nothing below it can be removed.
#[test]
fn points_can_be_forgotten_where_it_was_asked_for() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("allow_forget");
    for (session, point) in [("a", "p1"), ("b", "p2")] {
        stand.begin(session);
        let file = fs::File::options()
            .write(true)
            .open(stand.disk(session))
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, point.as_bytes(), 0).unwrap();
        drop(file);
        stand.commit(session, point).unwrap();
    }
    assert_eq!(
        errno(fs::remove_file(stand.at("vm/p1/disks/vda.raw"))),
        Errno::ROFS
    );
    // Its layer lies below p2 and stays.
    fs::remove_dir(stand.at("vm/p1")).unwrap();
    assert!(!stand.at("vm/p1").exists());
    let expected = [b"p2", &bytes[2..]].concat();
    assert!(stand.point("p2") == expected);
    // A point that an open session is compared with is in use.
    stand.begin("c");
    assert_eq!(errno(fs::remove_dir(stand.at("vm/p2"))), Errno::BUSY);
    fs::remove_dir(stand.at("vm/c.partial")).unwrap();
    fs::remove_dir(stand.at("vm/p2")).unwrap();
    assert_eq!(
        fs::read_link(stand.at("vm/latest")).unwrap().to_str(),
        Some("p0")
    );
    assert!(stand.point("p0") == bytes);
    stand.stop();
    stand.check_left(1);
}

#[test]
fn a_vm_that_never_had_a_point_can_be_removed() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("mistake")).unwrap();
    fs::create_dir(stand.at("mistake/s.partial")).unwrap();
    assert_eq!(errno(fs::remove_dir(stand.at("mistake"))), Errno::NOTEMPTY);
    fs::remove_dir(stand.at("mistake/s.partial")).unwrap();
    fs::remove_dir(stand.at("mistake")).unwrap();
    assert!(!stand.at("mistake").exists());
    assert_eq!(fs::read_dir(stand.at("")).unwrap().count(), 0);
    fs::create_dir(stand.at("mistake")).unwrap();
}
