//! What writes files writes restore points: cp, dd, rsync, qemu-img, tar, truncate, fallocate.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::stand::{DISK_BYTES, Stand, pattern, ready, run, text};

/// The next content of a disk: one cluster differs, another has become zero.
fn changed(bytes: &[u8]) -> Vec<u8> {
    let mut next = bytes.to_vec();
    next[5 * 65_536 + 100..5 * 65_536 + 200].fill(0xee);
    next[10 * 65_536..11 * 65_536].fill(0);
    next
}

/// Writes a sparse file.
fn sparse_file(path: &Path, bytes: &[u8]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (n, chunk) in bytes.chunks(65_536).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, n as u64 * 65_536).unwrap();
        }
    }
}

/// Commits what `write` makes of a session over a point, and compares; only what differs may have been stored.
fn check(tools: &[&str], write: impl Fn(&Stand, &Path, &Path)) {
    if !ready(tools) || !ready(&["qemu-img"]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    let next = changed(&bytes);
    let source = stand.place.path("next.raw");
    sparse_file(&source, &next);
    stand.begin("s");
    write(&stand, &source, &stand.disk("s"));
    assert!(
        std::fs::read(stand.disk("s")).unwrap() == next,
        "before the commit"
    );
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == next, "after the commit");
    assert!(stand.point("p0") == bytes, "the parent");
    let info = std::fs::read(stand.at("vm/p1/info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    // One cluster of data, one of zeroes; the disk has 33.
    assert_eq!(info["disks"][0]["changed_bytes"], 2 * 65_536);
    assert_eq!(info["disks"][0]["kind"], "incremental");
    stand.stop();
    assert!(stand.place.restored("vm@p1", "vda") == next, "restored");
    stand.check_left(2);
}

/// With `-X` rsync removes every attribute of the session's directory that its source does not have.
#[test]
fn rsync_of_a_whole_session_with_attributes() {
    check(&["rsync"], |stand, source, _| {
        let whole = stand.place.path("whole");
        std::fs::create_dir_all(whole.join("disks")).unwrap();
        std::fs::copy(source, whole.join("disks/vda.raw")).unwrap();
        let session = format!("{}/", text(&stand.at("vm/s.partial")));
        let attributes = [("change_id.vda", "7"), ("ttl", "2h")];
        for (name, value) in attributes {
            let name = format!("user.restorefs.{name}");
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&session, name, value.as_bytes(), flags).unwrap();
        }
        let from = format!("{}/", text(&whole));
        run("rsync", &["-aX", "--inplace", &from, &session]);
        // Again, now that the disk is finished.
        run("rsync", &["-aX", "--inplace", &from, &session]);
        let status = stand.status("s");
        assert_eq!(status["disks"][0]["finished"], true);
        assert_eq!(status["declared"]["change_ids"]["vda"], "7");
        assert_eq!(status["ttl_seconds"], 7_200);
    });
}

#[test]
fn cp() {
    check(&[], |_, source, disk| {
        run("cp", &[text(source), text(disk)]);
    });
}

#[test]
fn cp_dense_and_with_times() {
    check(&[], |_, source, disk| {
        run("cp", &["-a", "--sparse=never", text(source), text(disk)]);
    });
}

#[test]
fn cp_sparse_after_removing_the_destination() {
    check(&[], |_, source, disk| {
        run(
            "cp",
            &[
                "--sparse=always",
                "--remove-destination",
                text(source),
                text(disk),
            ],
        );
    });
}

#[test]
fn dd_in_place() {
    check(&[], |_, source, disk| {
        let (from, to) = (format!("if={}", text(source)), format!("of={}", text(disk)));
        for (skip, count) in [(5, 1), (10, 1)] {
            let (skip, seek) = (format!("skip={skip}"), format!("seek={skip}"));
            let count = format!("count={count}");
            let common = ["bs=64k", "conv=notrunc,fsync", "status=none"];
            let mut all = vec![from.as_str(), to.as_str(), &skip, &seek, &count];
            all.extend(common);
            run("dd", &all);
        }
    });
}

#[test]
fn dd_over_all_of_it_in_odd_blocks() {
    check(&[], |_, source, disk| {
        let (from, to) = (format!("if={}", text(source)), format!("of={}", text(disk)));
        run("dd", &[&from, &to, "bs=10000", "status=none"]);
    });
}

#[test]
fn rsync_in_place() {
    check(&["rsync"], |_, source, disk| {
        run("rsync", &["--inplace", "-t", text(source), text(disk)]);
        // The second time there is nothing to do.
        let again = run("rsync", &["--inplace", "-ti", text(source), text(disk)]);
        assert_eq!(again, "");
    });
}

#[test]
fn rsync_with_its_delta() {
    check(&["rsync"], |_, source, disk| {
        let flags = ["--inplace", "--no-whole-file", "--ignore-times"];
        let mut all = flags.to_vec();
        all.extend([text(source), text(disk)]);
        run("rsync", &all);
    });
}

#[test]
fn rsync_through_a_temporary_file() {
    check(&["rsync"], |stand, source, disk| {
        run("rsync", &["-aSX", text(source), text(disk)]);
        // Compared with the parent from the first byte on: what is the same was never stored.
        assert!(stand.figure("s", "stored_bytes") <= 65_536);
        assert!(stand.figure("s", "equal_bytes") > 65_536);
    });
}

#[test]
fn rsync_of_a_whole_directory() {
    check(&["rsync"], |stand, source, _| {
        let from = stand.place.path("from");
        std::fs::create_dir_all(from.join("disks")).unwrap();
        std::fs::create_dir_all(from.join("attached")).unwrap();
        std::fs::rename(source, from.join("disks/vda.raw")).unwrap();
        std::fs::write(from.join("attached/domain.xml"), "<domain/>").unwrap();
        let to = stand.at("vm/s.partial/");
        run("rsync", &["-rtS", &format!("{}/", text(&from)), text(&to)]);
        let read = std::fs::read_to_string(to.join("attached/domain.xml")).unwrap();
        assert_eq!(read, "<domain/>");
    });
}

#[test]
fn qemu_img_convert() {
    check(&["qemu-img"], |_, source, disk| {
        let flags = ["convert", "-n", "-f", "raw", "-O", "raw"];
        let mut all = flags.to_vec();
        all.extend([text(source), text(disk)]);
        run("qemu-img", &all);
    });
}

#[test]
fn tar() {
    check(&["tar"], |stand, source, _| {
        let from = stand.place.path("from");
        std::fs::create_dir_all(from.join("disks")).unwrap();
        std::fs::rename(source, from.join("disks/vda.raw")).unwrap();
        let (archive, to) = (stand.place.path("a.tar"), stand.at("vm/s.partial"));
        run("tar", &["-C", text(&from), "-cSf", text(&archive), "."]);
        run("tar", &["-C", text(&to), "-xSf", text(&archive)]);
    });
}

#[test]
fn truncate_and_fallocate() {
    check(&["fallocate"], |_, source, disk| {
        let next = std::fs::read(source).unwrap();
        // Away with everything, and back to the size: zeroes now, whatever the parent has.
        run("truncate", &["-s", "0", text(disk)]);
        run("truncate", &["-s", &DISK_BYTES.to_string(), text(disk)]);
        assert!(std::fs::read(disk).unwrap().iter().all(|byte| *byte == 0));
        let file = std::fs::File::options().write(true).open(disk).unwrap();
        file.write_all_at(&next, 0).unwrap();
        file.write_all_at(&[1; 65_536], 10 * 65_536).unwrap();
        run(
            "fallocate",
            &["-p", "-o", "655360", "-l", "65536", text(disk)],
        );
        file.write_all_at(&[1; 300], 5 * 65_536 + 700).unwrap();
        run(
            "fallocate",
            &["-z", "-o", "328380", "-l", "300", text(disk)],
        );
        file.write_all_at(&next[328_380..328_680], 328_380).unwrap();
        run("fallocate", &["-l", "100", text(disk)]);
        run("fallocate", &["-n", "-l", "9999999", text(disk)]);
        assert_eq!(file.metadata().unwrap().len() as usize, DISK_BYTES);
        file.sync_all().unwrap();
    });
}

/// A disk of which one in a hundred clusters changed, written anew as a whole.
#[test]
fn what_has_not_changed_is_not_stored_again() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    std::fs::create_dir(stand.at("vm")).unwrap();
    let mut bytes = pattern(400 * 65_536, 3);
    let source = stand.place.path("source.raw");
    std::fs::write(&source, &bytes).unwrap();
    stand.begin("one");
    run(
        "cp",
        &["--sparse=never", text(&source), text(&stand.disk("one"))],
    );
    stand.commit("one", "one").unwrap();
    for cluster in [10, 100, 201, 300] {
        bytes[cluster * 65_536] ^= 1;
    }
    std::fs::write(&source, &bytes).unwrap();
    stand.begin("two");
    run(
        "cp",
        &["--sparse=never", text(&source), text(&stand.disk("two"))],
    );
    assert_eq!(stand.figure("two", "stored_bytes"), 4 * 65_536);
    stand.commit("two", "two").unwrap();
    assert!(stand.point("two") == bytes);
    let layers = std::fs::read_dir(stand.place.repo().join("vms/vm/layers")).unwrap();
    let sizes = layers.map(|entry| entry.unwrap().metadata().unwrap().len());
    let layers: Vec<u64> = sizes.filter(|size| *size > 500_000).collect();
    // Four clusters and five of metadata.
    assert!(layers.iter().min().unwrap() < &(12 * 65_536), "{layers:?}");
}

/// Two disks, each by its own process, at the same time: one point.
#[test]
fn two_disks_in_parallel() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    std::fs::create_dir(stand.at("vm")).unwrap();
    let sources = [pattern(8 << 20, 5), pattern(9 << 20, 6)];
    for (name, bytes) in ["vda", "vdb"].iter().zip(&sources) {
        std::fs::write(stand.place.path(name), bytes).unwrap();
    }
    stand.begin("s");
    let copies: Vec<_> = ["vda", "vdb"]
        .iter()
        .map(|name| {
            Command::new("cp")
                .arg(stand.place.path(name))
                .arg(stand.at(&format!("vm/s.partial/disks/{name}.raw")))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut copy in copies {
        assert!(copy.wait().unwrap().success());
    }
    stand.commit("s", "p").unwrap();
    for (name, bytes) in ["vda", "vdb"].iter().zip(&sources) {
        let read = std::fs::read(stand.at(&format!("vm/p/disks/{name}.raw"))).unwrap();
        assert!(read == *bytes, "{name}");
    }
}
