//! `mv NAME.partial POINT`: all disks or none, with a reason when it is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::io::Errno;

use crate::stand::{DISK_BYTES, Stand, Stop, errno, pattern, ready, run, text};

#[test]
fn the_documented_idiom() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    let script = r#"set -e
        mkdir vm/nightly.partial
        printf changed | dd of=vm/nightly.partial/disks/vda.raw conv=notrunc status=none
        echo '<domain/>' > vm/nightly.partial/attached/domain.xml
        mv vm/nightly.partial "vm/$(date -u +%F_%H-%M-%S)"
        readlink vm/latest; cat vm/latest/attached/domain.xml; ls vm"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(stand.at(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[1], "<domain/>");
    assert_eq!(lines[2..], [lines[0], "latest", "p0"]);
    let read = stand.point("latest");
    assert!(read[..7] == *b"changed" && read[7..] == bytes[7..]);
}

#[test]
fn two_instants_are_never_mixed() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("two");
    fs::write(stand.at("vm/two.partial/disks/vdb.raw"), &bytes).unwrap();
    fs::write(stand.disk("two"), &bytes).unwrap();
    stand.commit("two", "p1").unwrap();

    stand.begin("s");
    fs::write(stand.disk("s"), &bytes[..]).unwrap();
    assert_eq!(stand.commit("s", "p2").unwrap_err(), Errno::BUSY);
    let why = stand.last_error("s");
    assert!(why.contains("vdb") && why.contains("finished"), "{why}");
    // What mv(1) makes of it: of EINVAL it would say that the directory cannot be moved into itself.
    let refused = |name: &str| {
        let moved = std::process::Command::new("mv")
            .args([stand.at("vm/s.partial"), stand.at(&format!("vm/{name}"))])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(!moved.status.success());
        String::from_utf8_lossy(&moved.stderr).into_owned()
    };
    let said = refused("p2");
    assert!(
        said.contains("busy") && !said.contains("subdirectory"),
        "{said}"
    );
    // Explicit times say that it is unchanged.
    run("touch", &[text(&stand.at("vm/s.partial/disks/vdb.raw"))]);
    stand.commit("s", "p2").unwrap();
    let info = fs::read_to_string(stand.at("vm/p2/info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["disks"][1]["name"], "vdb");
    assert_eq!(info["disks"][1]["changed_bytes"], 0);
    assert_eq!(info["seq"], 3);
}

#[test]
fn chmod_and_chown_say_nothing_of_the_content() {
    if !ready(&[]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    stand.begin("s");
    let disk = stand.disk("s");
    run("chmod", &["640", text(&disk)]);
    run("chown", &["1000:1000", text(&disk)]);
    assert_eq!(
        run("stat", &["-c", "%a %u", text(&disk)]).trim(),
        "640 1000"
    );
    fs::read(&disk).unwrap();
    assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY);
    run("touch", &["-d", "2020-02-02 02:02:02 UTC", text(&disk)]);
    let modified = run("stat", &["-c", "%Y", text(&disk)]);
    assert_eq!(modified.trim(), "1580608922");
    stand.commit("s", "p1").unwrap();
}

#[test]
fn a_disk_never_shrinks_unless_it_is_declared_full() {
    if !ready(&["setfattr"]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let less = pattern(1 << 20, 9);
    fs::write(stand.disk("s"), &less).unwrap();
    assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY);
    let why = stand.last_error("s");
    assert!(why.contains("smaller than its parent"), "{why}");
    // The content stays, only what it is stored upon changes.
    let session = stand.at("vm/s.partial");
    run(
        "setfattr",
        &["-n", "user.restorefs.full", "-v", "vda", text(&session)],
    );
    assert!(fs::read(stand.disk("s")).unwrap() == less);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == less);
    assert!(stand.point("p0") == bytes);
    let info = fs::read_to_string(stand.at("vm/p1/info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["disks"][0]["kind"], "full");
}

/// What a disk was cut to in between counts: behind that there is never the parent's content again.
#[test]
fn what_was_cut_off_reads_as_zero() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.set_len(100_000).unwrap();
    file.set_len(DISK_BYTES as u64 + 4096).unwrap();
    file.write_all_at(b"tail", DISK_BYTES as u64).unwrap();
    drop(file);
    let mut expected = bytes[..100_000].to_vec();
    expected.resize(DISK_BYTES + 4096, 0);
    expected[DISK_BYTES..DISK_BYTES + 4].copy_from_slice(b"tail");
    assert!(fs::read(stand.disk("s")).unwrap() == expected);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == expected);
}

#[test]
fn a_failed_commit_leaves_the_session_as_it_was() {
    if !ready(&[]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    bytes[0] ^= 1;
    fs::write(stand.disk("s"), &bytes).unwrap();
    assert_eq!(stand.commit("s", "p0").unwrap_err(), Errno::EXIST);
    assert!(stand.last_error("s").contains("already"));
    assert!(fs::read(stand.disk("s")).unwrap() == bytes);
    let file = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(b"more", 4000).unwrap();
    bytes[4000..4004].copy_from_slice(b"more");
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == bytes);
}

#[test]
fn open_descriptors_do_not_hold_a_commit_up_and_are_read_only_after_it() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    file.write_all_at(b"before", 0).unwrap();
    stand.commit("s", "p1").unwrap();
    assert_eq!(errno(file.write_all_at(b"after!", 0)), Errno::ROFS);
    assert_eq!(errno(file.set_len(5)), Errno::ROFS);
    let read = stand.point("p1");
    assert!(read[..6] == *b"before" && read[6..] == bytes[6..]);
}

#[test]
fn empty_sessions_are_no_points() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    stand.begin("s");
    assert_eq!(stand.commit("s", "p").unwrap_err(), Errno::BUSY);
    assert!(stand.last_error("s").contains("at least one disk"));
    fs::write(stand.disk("s"), "tiny").unwrap();
    stand.commit("s", "p").unwrap();
    assert_eq!(stand.point("p"), b"tiny");
}

/// Doors see each other's sessions.
#[test]
fn begun_here_committed_there() {
    if !ready(&["nbdcopy"]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("a");
    assert_eq!(stand.place.json(&["sessions"])[0]["session"], "a");
    fs::write(stand.disk("a"), &bytes).unwrap();
    stand.place.ok(&["commit", "vm/a", "--point", "p1"]);
    assert!(stand.point("p1") == bytes);
    assert!(!stand.at("vm/a.partial").exists());

    stand.place.ok(&["begin", "vm", "--session", "b"]);
    let targets = fs::read_to_string(stand.at("vm/b.partial/nbd-targets")).unwrap();
    let uri = targets.trim().strip_prefix("vda:").unwrap();
    let source = stand.place.path("source.raw");
    let mut padded = bytes.clone();
    padded[7] ^= 7;
    fs::write(&source, &padded).unwrap();
    run("nbdcopy", &[text(&source), uri]);
    stand.commit("b", "p2").unwrap();
    assert!(stand.point("p2") == padded);

    stand.begin("c");
    stand.place.ok(&["abort", "vm/c"]);
    assert!(!stand.at("vm/c.partial").exists());
    let listed: Vec<_> = fs::read_dir(stand.at("vm")).unwrap().collect();
    assert_eq!(listed.len(), 4, "{listed:?}");
}

/// One thread serves the kernel, and listings go on all the while: neither waits for the other for ever.
#[test]
fn commits_among_listings_with_one_thread_and_with_many() {
    if !ready(&[]) {
        return;
    }
    for options in ["threads=1", ""] {
        let (stand, bytes) = Stand::with_point(options);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Also when something below fails.
            let _guard = Stop(&stop);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        // It may find a session in the listing, and gone when it looks.
                        let list = Command::new("ls").arg("-l").arg(stand.at("vm")).output();
                        assert!(list.unwrap().status.code().is_some());
                        let _ = fs::read(stand.at("vm/latest/info.json"));
                    }
                });
            }
            for n in 0..15 {
                let session = format!("s{n}");
                stand.begin(&session);
                let disk = fs::File::options()
                    .write(true)
                    .open(stand.disk(&session))
                    .unwrap();
                disk.write_all_at(&[n; 100], 0).unwrap();
                let begun = std::time::Instant::now();
                stand.commit(&session, &format!("p{}", n + 1)).unwrap();
                assert!(begun.elapsed().as_secs() < 120, "{:?}", begun.elapsed());
                let link = fs::read_link(stand.at("vm/latest")).unwrap();
                assert_eq!(link.to_str().unwrap(), format!("p{}", n + 1));
            }
        });
        assert!(stand.point("p15")[100..] == bytes[100..]);
    }
}

/// What does not exist in a session is looked for again in the point.
#[test]
fn what_was_missing_in_the_session_is_there_in_the_point() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    for name in ["volumes", "files", "info.json"] {
        assert!(!stand.at(&format!("vm/s.partial/{name}")).exists());
        assert!(!stand.at(&format!("vm/p1/{name}")).exists());
    }
    fs::write(stand.disk("s"), &bytes).unwrap();
    stand.commit("s", "p1").unwrap();
    for name in ["volumes", "files", "info.json", "disks/vda.raw"] {
        assert!(stand.at(&format!("vm/p1/{name}")).exists(), "{name}");
        let gone = fs::metadata(stand.at(&format!("vm/s.partial/{name}")));
        assert_eq!(errno(gone), Errno::NOENT);
    }
}

/// Inode numbers of a session are not those of the point that it becomes, nor of anything else.
#[test]
fn numbers_are_not_reused() {
    use std::os::unix::fs::MetadataExt;
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    let number = |stand: &Stand, path: &str| fs::metadata(stand.at(path)).unwrap().ino();
    stand.begin("s");
    fs::write(stand.disk("s"), &bytes).unwrap();
    let before = number(&stand, "vm/s.partial/disks/vda.raw");
    let session = number(&stand, "vm/s.partial");
    stand.commit("s", "p1").unwrap();
    let after = [
        number(&stand, "vm/p1/disks/vda.raw"),
        number(&stand, "vm/p1"),
    ];
    assert!(!after.contains(&before) && !after.contains(&session));
    stand.begin("t");
    let aborted = number(&stand, "vm/t.partial");
    fs::remove_dir(stand.at("vm/t.partial")).unwrap();
    stand.stop();
    stand.start("");
    stand.begin("u");
    let next = number(&stand, "vm/u.partial");
    assert!(next != aborted && next != session, "{next} {aborted}");
    assert_eq!(number(&stand, "vm/p1"), after[1]);
}

/// A writer that was killed cannot be told from one that wrote what it wanted: a person sees how far each disk came, and when.
#[test]
fn how_much_of_a_disk_was_written_and_when_is_shown() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let disk = |name: &str| stand.status("s")["disks"][0][name].clone();
    assert!(disk("written_at").is_null());
    assert_eq!(disk("written_share"), 0.0);
    let half = bytes.len() / 65_536 / 2 * 65_536;
    let script = format!(
        "dd if={} of={} bs=64k count={} conv=notrunc,fsync status=none",
        stand.disk("s").display(),
        stand.disk("s").display(),
        half / 65_536
    );
    run("sh", &["-c", &script]);
    let share = disk("written_share").as_f64().unwrap();
    let want = half as f64 / bytes.len() as f64;
    assert!((share - want).abs() < 0.01, "{share} instead of {want}");
    let at: jiff::Timestamp = disk("written_at").as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(at);
    assert!(age.as_secs() < 600, "{at}");
    assert_eq!(disk("finished"), true);
}
