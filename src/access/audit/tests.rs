//! The lines of the audit log.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::{Act, AuditLog, TEXT_BYTES_MAX, streak};
use crate::access::{Caller, Door, Origin};
use crate::error::{Error, ErrorKind};

fn note(log: &AuditLog, subject: &str, error: Option<&Error>) {
    log.note(&Act {
        at: Timestamp::from_second(1_000_000_000).unwrap(),
        origin: &Origin::at(Door::Nbd, "192.0.2.7:4711"),
        caller: &Caller::Token("laptop".into()),
        operation: "read-disk",
        repository: Some("default"),
        vm: Some("web01"),
        subject: Some(subject),
        error,
    });
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_act_is_one_line_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::to_file(&path).unwrap();
    note(&log, "one/vda", None);
    let error = Error::new(ErrorKind::PermissionDenied, "no").advise("ask");
    note(
        &log,
        "a\n{\"caller\":\"the owner\"}\u{1b}[2J\u{202e}",
        Some(&error),
    );
    let all = lines(&path);
    assert_eq!(
        all[0],
        serde_json::json!({
            "time": "2001-09-09T01:46:40Z", "door": "nbd", "caller": "token laptop", "peer": "192.0.2.7:4711",
            "operation": "read-disk", "repository": "default", "vm": "web01", "subject": "one/vda", "outcome": "ok"
        })
    );
    assert_eq!(all[1]["outcome"], "permission-denied");
    assert_eq!(all[1]["error"], error.report());
    assert_eq!(all.len(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    let visible = |c: char| c == '\n' || !crate::types::printable::is_unprintable(c);
    assert!(text.chars().all(visible), "{text:?}");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_long_text_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::to_file(&path).unwrap();
    note(&log, &"\u{e4}".repeat(100_000), None);
    let subject = lines(&path)[0]["subject"].as_str().unwrap().to_owned();
    assert!(subject.len() <= TEXT_BYTES_MAX + 3 && subject.ends_with("..."));
}

#[test]
fn a_renamed_file_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::to_file(&path).unwrap();
    note(&log, "one", None);
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    note(&log, "two", None);
    std::fs::remove_file(&path).unwrap();
    note(&log, "three", None);
    assert_eq!(lines(&dir.path().join("old"))[0]["subject"], "one");
    assert_eq!(lines(&path)[0]["subject"], "three");
}

#[test]
fn no_symlink_and_no_other_kind_of_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("audit.jsonl"), dir.path().join("victim"));
    std::fs::write(&victim, "").unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    assert!(AuditLog::to_file(&path).is_err());
    assert!(AuditLog::to_file(Path::new("/dev/null")).is_err());
    assert!(AuditLog::to_file(&dir.path().join("no/where")).is_err());
    std::fs::remove_file(&path).unwrap();
    let log = AuditLog::to_file(&path).unwrap();
    // Whoever may write to the directory puts a symlink there: nothing is written, and nothing fails.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    note(&log, "one", None);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "");
    std::fs::remove_file(&path).unwrap();
    note(&log, "two", None);
    assert_eq!(lines(&path)[0]["subject"], "two");
}

#[test]
fn refusals_in_a_row_become_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditLog::to_file(&path).unwrap();
    let error = Error::not_found("there is no VM web01");
    for _ in 0..streak::NOTED_MAX + 7 {
        note(&log, "one", Some(&error));
    }
    note(&log, "one", None);
    let all = lines(&path);
    assert_eq!(all.len() as u64, streak::NOTED_MAX + 2);
    let summary = &all[all.len() - 2];
    assert_eq!(
        (&summary["more"], &summary["error"]),
        (&7.into(), &"and 7 more".into())
    );
    assert_eq!(summary["peer"], "192.0.2.7");
    assert_eq!(all[all.len() - 1]["outcome"], "ok");
}
