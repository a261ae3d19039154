//! Linux 5.15, the oldest kernel that readers are confined on: what later ones have added is refused, and the main job goes on; what is
//! lacking is reported.

use std::path::Path;
use std::process::Command;

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;
use crate::tool;

/// Runs a command as on Linux 5.15; the script checks itself when it is given none.
fn older(place: &Place) -> Command {
    let plain = place.command(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/older_kernel.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).current_dir(place.dir.path());
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.env("RESTOREFS", env!("CARGO_BIN_EXE_restorefs"));
    command
}

/// The main job, from a backup to files of the guest; and a daemon, whose log tells what it lacks.
const JOB: &str = r#"set -ex
r() { "$RESTOREFS" "$@"; }
r backup web01 vda=fs.raw --point one
r ls web01@one:/volumes/vda/raw | grep dir
r mount mnt
ls mnt/web01/one | grep disks
cmp mnt/web01/one/disks/vda.raw fs.raw
cp mnt/web01/one/volumes/vda/raw/dir/hello copied
cmp copied tree/dir/hello
r umount mnt
r restore web01@one vda out.raw
cmp out.raw fs.raw
mkdir files
r restore web01@one:/volumes/vda/raw --to files
cmp files/raw/dir/hello tree/dir/hello
r restore web01@one:/volumes/vda/raw --to files.tar
trap 'kill -9 $DAEMON; umount -l mnt' EXIT
"$RESTOREFS" serve --mount mnt 2> log > /dev/null & DAEMON=$!
for n in $(seq 200); do grep -q 'workers:' log && mountpoint -q mnt && break; sleep 0.1; done
mkdir mnt/web01/two.partial
cp fs2.raw mnt/web01/two.partial/disks/vda.raw
mv mnt/web01/two.partial mnt/web01/two
cmp mnt/web01/two/disks/vda.raw fs2.raw
kill $DAEMON; wait $DAEMON
trap - EXIT
r info web01@two > info.txt
r info --json > info.json
"#;

#[test]
fn on_linux_5_15_the_main_job_goes_on_and_what_it_lacks_is_reported() {
    if !can_mount() || !has("mke2fs") || !has("python3") {
        return;
    }
    let place = Place::new();
    std::fs::create_dir_all(place.path("tree/dir")).unwrap();
    std::fs::write(place.path("tree/dir/hello"), "hello\n").unwrap();
    std::fs::create_dir(place.path("mnt")).unwrap();
    tool::ok(&place, "truncate", &["-s", "16M", "fs.raw"]);
    tool::ok(
        &place,
        "mke2fs",
        &["-qF", "-t", "ext4", "-d", "tree", "fs.raw"],
    );
    let mut second = std::fs::read(place.path("fs.raw")).unwrap();
    second[..5].copy_from_slice(b"other");
    std::fs::write(place.path("fs2.raw"), second).unwrap();
    let probe = older(&place).output().unwrap();
    let said = String::from_utf8_lossy(&probe.stderr);
    assert!(
        probe.status.success(),
        "the kernel is not made older: {said}"
    );
    let output = older(&place).args(["sh", "-c", JOB]).output().unwrap();
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said} {}", read("log"));
    // What a kernel of today has, as the manual of landlock(7) counts.
    let (log, info) = (read("log"), read("info.txt"));
    let own: Vec<_> = log
        .lines()
        .filter(|line| line.contains("workers:"))
        .collect();
    assert_eq!(own.len(), 1, "{log}");
    let shown = info.lines().find(|line| line.starts_with("workers"));
    for line in [own[0], shown.unwrap()] {
        for part in [
            "landlock ABI 1, seccomp",
            "lacks: truncation",
            "TCP ports",
            "signals",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert!(own[0].contains("WARN"), "{log}");
    let json: serde_json::Value = serde_json::from_str(&read("info.json")).unwrap();
    let workers = &json["workers"];
    assert_eq!(workers["landlock_abi"], 1, "{json}");
    assert_eq!(workers["lacks"].as_array().unwrap().len(), 4);
    assert!(
        workers["confined"] == true && workers["seccomp"] == true,
        "{json}"
    );
}

/// What this kernel has is what the kernel says of itself, and where one of the two is missing, that is said at the start and in `info`.
#[test]
fn what_keeps_readers_is_in_info_and_in_the_daemons_log() {
    let place = Place::new();
    let json = place.json(&["info"]);
    assert_eq!(json["workers"]["confined"], true, "{json}");
    assert_eq!(json["repository"], place.repo().to_str().unwrap());
    for (refused, isolation, says) in [
        ("landlock", "process", "has no landlock"),
        ("seccomp", "process", "has no seccomp"),
        ("", "thread", "unconfined"),
    ] {
        let command = |args: &[&str]| {
            let mut all = vec!["--guest-isolation", isolation];
            all.extend_from_slice(args);
            let mut command = place.command(&all);
            command.env("RESTOREFS_REFUSE", refused);
            command
        };
        let output = command(&["info"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text
            .lines()
            .find(|line| line.starts_with("workers"))
            .unwrap();
        assert!(line.contains(says), "{line}");
        let output = command(&["info", "--json"]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["workers"]["confined"], false, "{json}");
        assert!(
            json["workers"]["reason"].as_str().unwrap().contains(says),
            "{json}"
        );
        let log = place.path("log");
        let mut daemon = command(&["serve", "--nbd", "nbd.sock"])
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        let line = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains("workers:")) {
                break line.to_owned();
            }
            assert!(begun.elapsed().as_secs() < 30, "{text}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        assert!(line.contains("WARN") && line.contains(says), "{line}");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}
