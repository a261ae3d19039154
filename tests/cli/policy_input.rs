//! Policies that contradict themselves, and files below `policies/` that somebody else has written.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::merge::back_up;
use crate::policy::{add, place, policy_file, run, status};

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
