//! Policies that contradict themselves, files below `policies/` that somebody else has written, and runs that meet a full filesystem
//! or are stopped.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::filesystem::Filesystem;
use crate::kit::wait::eventually;
use crate::merge::back_up;
use crate::policy::{add, place, policy_file, run, script, status};

/// Whoever may write to a repository must not run commands as somebody else.
#[test]
fn a_command_is_run_only_from_a_file_that_nobody_else_can_write() {
    let place = place();
    add(
        &place,
        "nightly --vms web01 --every 24h --command ./backup-vm",
    );
    let path = policy_file(&place, "nightly.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (done, code),
        (vec!["backup web01 failed".to_owned()], Some(1))
    );
    let said = place.fails(1, &["policy", "run"]);
    assert!(
        said.contains("others may write to the file (mode 660)"),
        "{said}"
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let said = place.fails(1, &["policy", "run"]);
        assert!(
            said.contains("belongs to the user with the id 12345"),
            "{said}"
        );
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    assert_eq!(run(&place, &[]).1, Some(0));
}

#[test]
fn files_of_policies_may_have_anything() {
    let place = place();
    back_up(&place, 0, 2, &[]);
    add(&place, "good --vms db* --rpo 26h");
    let dir = place.repo().join("policies");
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    let text = |schedule: &str| json!({"schema": 1, "name": "bad", "vms": ["web*"], "created_at": "2026-01-01T00:00:00Z", "schedule": schedule, "command": ["/bin/true"]});
    let cases: [(&[u8], &str); 7] = [
        (b"", "is empty"),
        (b"{", "cannot be read"),
        (b"{\"schema\": 9}", "has schema 9"),
        (&[0xff; 4096], "cannot be read"),
        (b"{\"schema\": 1, \"schema\": 1}", "schema"),
        (b"[[[[[[[[[[[[[[[[[[[[[[", "cannot be read"),
        (b"{\"schema\": 1, \"name\": \"other\", \"vms\": [\"x\"], \"created_at\": \"2026-01-01T00:00:00Z\"}", "another name"),
    ];
    for (bytes, part) in cases {
        put("bad.json", bytes);
        let (health, code) = status(&place);
        assert_eq!(code, Some(4), "{health}");
        assert_eq!(health["unusable"][0][0], "bad");
        let why = health["unusable"][0][1].as_str().unwrap();
        assert!(why.contains(part), "{part}: {why}");
        // The others go on; rules of `forget` do not, as it is not known what is owed.
        assert_eq!(run(&place, &[]), (Vec::new(), Some(0)));
        let said = place.fails(3, &["forget", "web01", "--keep-last", "1"]);
        assert!(
            said.contains("it is not known which copies the policy bad owes"),
            "{said}"
        );
    }
    for schedule in [
        "daily 25:00",
        "weekly funday 02:00",
        "every 0h",
        "yearly 02-30",
    ] {
        put("bad.json", text(schedule).to_string().as_bytes());
        let why = status(&place).0["unusable"][0][1]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(why.contains("the policy bad cannot be used: "), "{why}");
    }
    // What is known of earlier runs begins anew.
    put("runs.json", b"{\"schema\": 1, \"runs\": [");
    assert_eq!(run(&place, &[]), (Vec::new(), Some(0)));
    assert_eq!(status(&place).1, Some(4));
    place.ok(&["policy", "remove", "bad"]);
    assert_eq!(status(&place).1, Some(0));
}

#[test]
fn what_contradicts_itself_or_never_comes_is_a_usage_error() {
    let place = place();
    for (words, part) in [
        ("a", "names no VM"),
        ("a --vms web*", "it does nothing"),
        ("../a --vms web* --rpo 1d", "characters other than"),
        ("runs --vms web* --rpo 1d", "\"runs\" is reserved"),
        ("latest --vms web* --rpo 1d", "is reserved"),
        ("a --vms .. --rpo 1d", "begin"),
        ("a --vms web/* --rpo 1d", "no name of a VM fits"),
        ("a --vms web* --daily 25:00", "25:00"),
        ("a --vms web* --daily 2", "\"2\""),
        ("a --vms web* --weekly funday@02:00", "funday"),
        ("a --vms web* --weekly 02-30", "02-30"),
        ("a --vms web* --every 0h", "0h"),
        ("a --vms web* --daily 02:00 --hourly", "cannot be used with"),
        ("a --vms web* --daily 02:00 --zone Mars/Base", "Mars/Base"),
        (
            "a --vms web* --daily 02:00 --rpo 12h",
            "cannot be met by backups that are 24h apart",
        ),
        ("a --vms web* --rpo 0s", "never met"),
        ("a --vms web* --rpo soon", "soon"),
        ("a --vms web* --verify-every 0d", "never met"),
        ("a --vms web* --keep-daily 0", "keep no restore point"),
        ("a --vms web* --keep-daily x", "--keep-daily wants"),
        (
            "a --vms web* --copy-after 1h --rpo 1d",
            "--copy-after wants --copy-to",
        ),
        ("a --vms web* --copy-to main", "is this repository"),
        (
            "a --vms web* --copy-to offsite --copy-to OFFSITE",
            "copies twice",
        ),
        (
            "a --vms web* --copy-to offsite --require 3-2-1",
            "requires 3 copies",
        ),
        ("a --vms web* --copy-to offsite --require many", "many"),
        ("a --vms web* --rpo 1d --max-depth 1", "--max-depth 1"),
        (
            "a --vms web* --rpo 1d --command backup-vm",
            "no time to run it",
        ),
    ] {
        let mut args = vec!["policy", "add"];
        args.extend(words.split(' '));
        let said = place.fails(2, &args);
        assert!(said.contains(part), "{words}: {said}");
    }
    let said = place.fails(
        1,
        &["policy", "add", "a", "--vms", "web*", "--copy-to", "ofsite"],
    );
    assert!(said.contains("did you mean offsite?"), "{said}");
    assert!(!Path::new(&policy_file(&place, "a.json")).exists());
}

#[test]
fn a_target_that_is_another_repository_gets_no_copy() {
    let place = place();
    back_up(&place, 0, 1, &[]);
    add(&place, "nightly --vms web* --copy-to offsite");
    place.ok(&["repo", "new-id", "./off"]);
    let (done, code) = run(&place, &[]);
    assert_eq!(
        (done, code),
        (vec!["copy web01 failed".to_owned()], Some(1))
    );
    let (health, code) = status(&place);
    assert_eq!(code, Some(4));
    let problem = health["policies"][0]["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("offsite has the id ") && problem.contains("--copy-to offsite"),
        "{problem}"
    );
    place.ok(&["policy", "edit", "nightly", "--copy-to", "offsite"]);
    assert_eq!(status(&place).1, Some(0));
    place.ok(&["repo", "remove", "offsite"]);
    let (health, code) = status(&place);
    assert_eq!(code, Some(4), "{health}");
}

/// Space is short: points without a copy are spared while a tenth is free, and go with a warning below that, also where all of them
/// were only spared so far.
#[test]
fn points_without_a_copy_are_spared_until_the_filesystem_is_nearly_full() {
    let Some(filesystem) = Filesystem::new("ext4", 160) else {
        return;
    };
    let place = &filesystem.place;
    place.ok(&["init", "./off"]);
    place.ok(&["repo", "add", "offsite", "off"]);
    place.disk("a.raw", 96, 3);
    back_up(place, 0, 6, &[]);
    add(
        place,
        "nightly --vms web* --keep-last 1 --copy-to offsite --copy-after 1h",
    );
    let points = || place.json(&["ls", "web01"]).as_array().unwrap().len();
    assert_eq!(
        run(place, &[]),
        (vec!["forget web01 done".to_owned()], Some(0))
    );
    assert_eq!(points(), 6);
    filesystem.fill(8 << 20);
    back_up(place, 6, 1, &["--no-room-check", "--low-water", "0"]);
    let plan = place.run(&["forget", "web01", "--keep-last", "1", "--dry-run"]);
    let said = String::from_utf8_lossy(&plan.stderr).into_owned();
    assert!(
        said.contains("points that lack a copy are not spared"),
        "{said}"
    );
    let output = place.run(&["policy", "run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("web01: less than a tenth of the filesystem is free: points that lack a copy are not spared"), "{said}");
    assert_eq!(points(), 1);
}

/// SIGTERM, as systemd stops a run: the command is told, too, and what was not done is no failure.
#[test]
fn a_run_that_is_stopped_stops_its_command_and_records_no_failure() {
    let place = place();
    script(
        &place,
        "slow",
        "trap 'echo told > told; exit 1' TERM\ntouch started\nwhile :; do sleep 0.05; done\n",
    );
    add(
        &place,
        "nightly --vms db01 db02 --every 24h --command ./slow",
    );
    let running = place
        .command(&["policy", "run"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the command runs", || place.path("started").exists());
    let pid = rustix::process::Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the run was stopped; the next one goes on"),
        "{said}"
    );
    assert!(place.path("told").exists());
    assert!(!policy_file(&place, "runs.json").exists());
    let (due, _) = run(&place, &["--dry-run"]);
    assert_eq!(due, ["backup db01 due", "backup db02 due"]);
}
