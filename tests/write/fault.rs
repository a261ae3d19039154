//! Faults in the middle of things: kill -9, a mount that is torn away, two commits at once.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::stand::{Stand, errno, pattern, ready, run, text};

/// What was synced through the tree is there after kill -9, and the session goes on.
#[test]
fn a_session_goes_on_after_kill_9() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(&[3; 100_000], 50_000).unwrap();
    bytes[50_000..150_000].fill(3);
    file.sync_all().unwrap();
    let beside = stand.at("vm/s.partial/disks/.vda.raw.half");
    fs::write(&beside, "half").unwrap();
    fs::File::open(&beside).unwrap().sync_all().unwrap();
    drop(file);
    stand.kill();
    stand.start("");
    assert!(fs::read(stand.disk("s")).unwrap() == bytes);
    assert_eq!(fs::read_to_string(&beside).unwrap(), "half");
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(b"after", 0).unwrap();
    bytes[..5].copy_from_slice(b"after");
    drop(file);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == bytes);
    stand.stop();
    stand.check_left(2);
    assert!(stand.place.restored("vm@p1", "vda") == bytes);
}

/// The mountpoint is gone in the middle of a session: the session is not, and can be ended from the command line.
#[test]
fn a_lost_mount_loses_no_session() {
    if !ready(&["fusermount3"]) {
        return;
    }
    let (mut stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(b"before", 0).unwrap();
    bytes[..6].copy_from_slice(b"before");
    run("fusermount3", &["-u", "-z", text(&stand.place.path("mnt"))]);
    // Who has the file open goes on.
    file.write_all_at(b"after", 100).unwrap();
    bytes[100..105].copy_from_slice(b"after");
    drop(file);
    let sessions = stand.place.json(&["sessions"]);
    assert_eq!(sessions[0]["disks"][0]["finished"], true);
    stand.place.ok(&["commit", "vm/s", "--point", "p1"]);
    assert!(stand.place.restored("vm@p1", "vda") == bytes);
    stand.place.ok(&["begin", "vm", "--session", "next"]);
    stand.place.ok(&["abort", "vm/next"]);
    stand.stop();
    stand.check_left(2);
}

/// Two sessions want one name at the same time: one gets it, the other stays open and loses nothing.
#[test]
fn two_commits_race_for_one_name() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, _) = Stand::with_point("");
    let rounds = 8;
    for round in 0..rounds {
        let contents = [pattern(2 << 20, 100 + round), pattern(2 << 20, 200 + round)];
        for (name, bytes) in ["a", "b"].iter().zip(&contents) {
            // A second open session needs a parent by name.
            stand
                .place
                .ok(&["begin", "vm", "--session", name, "--parent", "p0"]);
            let mut bytes = bytes.clone();
            bytes.resize(crate::stand::DISK_BYTES, 7);
            fs::write(stand.disk(name), &bytes).unwrap();
        }
        let point = format!("race{round}");
        let results: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = ["a", "b"]
                .into_iter()
                .map(|name| {
                    let (stand, point) = (&stand, &point);
                    scope.spawn(move || (name, stand.commit(name, point)))
                })
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let lost: Vec<_> = results.iter().filter(|(_, r)| r.is_err()).collect();
        assert_eq!(lost.len(), 1, "{results:?}");
        let (name, why) = lost[0];
        assert_eq!(*why, Err(Errno::EXIST));
        let second = format!("second{round}");
        stand.commit(name, &second).unwrap();
        let winner = usize::from(*name == "a");
        assert!(stand.point(&point)[..2 << 20] == contents[winner]);
        assert!(stand.point(&second)[..2 << 20] == contents[1 - winner]);
    }
    stand.stop();
    stand.check_left(1 + 2 * rounds as usize);
}

/// The repository's filesystem is full: the write or the commit says ENOSPC, the session stays, and goes on when there is room again.
#[test]
fn a_full_disk() {
    if !ready(&["mkfs.ext4"]) {
        return;
    }
    let mut stand = Stand::new("");
    let mounted = SmallFs::under(&mut stand);
    stand.begin("first");
    let bytes = pattern(8 << 20, 1);
    fs::write(stand.disk("first"), &bytes).unwrap();
    stand.commit("first", "p0").unwrap();

    stand.begin("s");
    let next = pattern(8 << 20, 2);
    fs::write(stand.disk("s"), &next).unwrap();
    // Somebody else takes all the room.
    let ballast = mounted.0.join("ballast");
    fill(&ballast);
    let disk = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    let mut more = pattern(4 << 20, 3);
    more.retain(|byte| *byte != 0);
    let full = disk
        .write_all_at(&more, 8 << 20)
        .and_then(|()| disk.sync_all());
    assert_eq!(errno(full), Errno::NOSPC);
    let why = stand.last_error("s");
    assert!(why.contains("space"), "{why}");
    let refused = stand.commit("s", "p1");
    assert_eq!(refused.unwrap_err(), Errno::NOSPC);
    assert!(stand.at("vm/s.partial").exists());
    assert!(stand.point("p0") == bytes);
    // Room can be made: by abort, on a full disk.
    drop(disk);
    fs::remove_dir(stand.at("vm/s.partial")).unwrap();
    fs::remove_file(&ballast).unwrap();
    stand.begin("t");
    fs::write(stand.disk("t"), &next).unwrap();
    fs::File::open(stand.disk("t")).unwrap().sync_all().unwrap();
    // Full in the middle of a commit: all is written, and there is no room for the tables.
    fill(&ballast);
    assert_eq!(stand.commit("t", "p1").unwrap_err(), Errno::NOSPC);
    assert!(fs::read(stand.disk("t")).unwrap() == next);
    assert!(!stand.at("vm/p1").exists());
    fs::remove_file(&ballast).unwrap();
    stand.commit("t", "p1").unwrap();
    assert!(stand.point("p1") == next);
    stand.stop();
    stand.check_left(2);
    drop(mounted);
}

/// What found no room was forgotten once another write succeeded: the disk was finished, and committed without it. Nobody needs to
/// have heard of that, if it was the kernel that wrote back a mapping.
#[test]
fn what_found_no_room_is_missed_at_the_commit() {
    if !ready(&["mkfs.ext4"]) {
        return;
    }
    let mut stand = Stand::new("");
    let mounted = SmallFs::under(&mut stand);
    stand.begin("s");
    let mut bytes = pattern(8 << 20, 2);
    fs::write(stand.disk("s"), &bytes).unwrap();
    let ballast = mounted.0.join("ballast");
    fill(&ballast);
    let disk = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    let more = pattern(4 << 20, 3);
    assert_eq!(errno(disk.write_all_at(&more, 8 << 20)), Errno::NOSPC);
    fs::remove_file(&ballast).unwrap();
    // There is room again, and another write succeeds.
    disk.write_all_at(&[5; 4096], 0).unwrap();
    bytes[..4096].fill(5);
    assert_eq!(stand.commit("s", "p0"), Err(Errno::NOSPC));
    let why = stand.last_error("s");
    assert!(why.contains("were not written again"), "{why}");
    disk.write_all_at(&more, 8 << 20).unwrap();
    bytes.extend_from_slice(&more);
    stand.commit("s", "p0").unwrap();
    assert!(stand.point("p0") == bytes);
    stand.stop();
    stand.check_left(1);
    drop(mounted);
}

/// Takes all the room that there is.
fn fill(ballast: &std::path::Path) {
    let file = fs::File::create(ballast).unwrap();
    let mut at = 0;
    for step in [1 << 20, 4096] {
        while file.write_all_at(&vec![1; step], at).is_ok() {
            at += step as u64;
        }
    }
    // Also what is only promised so far.
    let _ = file.sync_all();
}

/// A filesystem of its own, unmounted at the end.
struct SmallFs(std::path::PathBuf);

impl SmallFs {
    /// Moves the repository to a filesystem of 96 MiB, with an empty VM `vm`.
    fn under(stand: &mut Stand) -> Self {
        stand.stop();
        let (image, small) = (stand.place.path("small.img"), stand.place.path("small"));
        fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)]);
        fs::create_dir(&small).unwrap();
        run("mount", &["-o", "loop", text(&image), text(&small)]);
        let mounted = Self(small.clone());
        fs::remove_dir_all(stand.place.repo()).unwrap();
        fs::create_dir(small.join("repo")).unwrap();
        std::os::unix::fs::symlink(small.join("repo"), stand.place.repo()).unwrap();
        stand.place.ok(&["init"]);
        stand.start("");
        fs::create_dir(stand.at("vm")).unwrap();
        mounted
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .args(["-l", text(&self.0)])
            .output();
    }
}

/// A commit by mv that is killed at any moment: afterwards there is the point, whole, or the session, whole.
#[test]
fn kill_9_in_the_middle_of_a_commit() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, mut expected) = Stand::with_point("");
    let mut committed = 0;
    for round in 0..12u64 {
        let session = format!("s{round}");
        stand.begin(&session);
        let bytes = pattern(crate::stand::DISK_BYTES, 500 + round);
        fs::write(stand.disk(&session), &bytes).unwrap();
        fs::File::open(stand.disk(&session))
            .unwrap()
            .sync_all()
            .unwrap();
        let point = format!("p{}", round + 1);
        let mut commit = std::process::Command::new("mv")
            .arg(stand.at(&format!("vm/{session}.partial")))
            .arg(stand.at(&format!("vm/{point}")))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3 + round * 4));
        stand.kill();
        let answered = commit.wait().unwrap().success();
        stand.start("");
        let is_point = stand.at(&format!("vm/{point}")).exists();
        let is_session = stand.at(&format!("vm/{session}.partial")).exists();
        assert!(is_point != is_session, "{round}: {is_point} {is_session}");
        assert!(is_point || !answered, "{round}: it was answered");
        if is_session {
            assert!(fs::read(stand.disk(&session)).unwrap() == bytes, "{round}");
            // It was written before: what was finished stays so.
            stand.commit(&session, &point).unwrap();
        } else {
            committed += 1;
        }
        expected = bytes;
        assert!(stand.point(&point) == expected, "{round}");
    }
    println!("{committed} of 12 were committed before the kill");
    assert!(stand.point("latest") == expected);
    stand.stop();
    stand.check_left(13);
}

/// Rot in the parent does not get a valid sum by way of a partial write: EIO, and the status names the place.
#[test]
fn a_rotten_parent_is_named() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.stop();
    let layers = stand.place.repo().join("vms/vm/layers");
    let layer = fs::read_dir(&layers)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "qcow2"))
        .unwrap();
    run("chmod", &["u+w", text(&layer)]);
    let content = fs::read(&layer).unwrap();
    let at = content
        .windows(64)
        .position(|window| *window == bytes[65_536..65_600])
        .unwrap();
    let file = fs::File::options().write(true).open(&layer).unwrap();
    file.write_all_at(&[content[at] ^ 1], at as u64).unwrap();
    stand.start("");
    stand.begin("s");
    let disk = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    let written = disk
        .write_all_at(b"part of it", 65_600)
        .and_then(|()| disk.sync_all());
    assert_eq!(errno(written), Errno::IO);
    let why = stand.last_error("s");
    assert!(why.contains("vm@p0") && why.contains("65536"), "{why}");
    // The whole cluster can be written.
    disk.write_all_at(&[9; 65_536], 65_536).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1")[65_536..131_072] == [9; 65_536]);
}

/// A guest can write what it likes into its disk: bytes that look like an image are bytes.
#[test]
fn a_disk_that_looks_like_an_image_is_a_disk() {
    if !ready(&["qemu-img"]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    let image = stand.place.path("evil.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow"];
    let mut all = create.to_vec();
    all.extend(["-F", "raw", text(&image), "1M"]);
    run("qemu-img", &all);
    let bytes = fs::read(&image).unwrap();
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    // Of a disk that is new this is declared.
    let session = stand.at("vm/s.partial");
    rustix::fs::setxattr(
        &session,
        "user.restorefs.raw",
        b"vda",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    stand.commit("s", "p").unwrap();
    assert!(stand.point("p") == bytes);
    assert!(stand.place.restored("vm@p", "vda") == bytes);
}

/// A tool that was in the middle of its work when the daemon was killed has finished nothing, whatever the daemon made durable by itself.
#[test]
fn half_a_copy_is_not_finished_after_a_crash() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let file = fs::File::options()
        .write(true)
        .truncate(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"more", 9).unwrap();
    drop(file);
    stand.kill();
    stand.start("");
    assert_eq!(stand.status("s")["disks"][0]["finished"], false);
    assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY);
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(b"more", 9).unwrap();
    file.sync_all().unwrap();
    drop(file);
    stand.kill();
    stand.start("");
    stand.commit("s", "p1").unwrap();
    assert_eq!(stand.point("p1")[9..13], *b"more");
}
