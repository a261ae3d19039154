//! The audit log: who did what, through which door, and what came of it.
//!
//! # Invariants
//! - An act always goes to the log of the process (target `restorefs::audit`, level `info`), and to a
//!   file where one is configured.
//! - Noting never fails and never delays an operation by more than a write to the file.
//! - Text of peers is escaped and cut: it adds no line, and no line is longer than the limits allow.
//! - No secret is noted: neither a token nor the hash of one.
//!
//! # Why
//! Refusals of one peer in a row are counted after the first ones, because a peer that is refused
//! decides how many there are. What succeeds is always noted.

mod file;
mod streak;

use std::borrow::Cow;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use self::file::AuditFile;
use self::streak::{Streaks, Verdict};
use super::{Caller, Door, Origin};
use crate::error::{Error, Result};
use crate::types::printable::printable_json;

/// The target of the events in the log of the process.
pub const TARGET: &str = "restorefs::audit";

/// LIMIT: bytes of a text that an act has from elsewhere.
const TEXT_BYTES_MAX: usize = 512;

/// What a caller did, or was refused.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// When it ended.
    pub at: Timestamp,
    /// The door and the caller's address.
    pub origin: &'a Origin,
    /// The caller.
    pub caller: &'a Caller,
    /// The operation: `begin`, `commit`, `forget`, `read-disk` ...
    pub operation: &'a str,
    /// The name of the repository.
    pub repository: Option<&'a str>,
    /// The VM.
    pub vm: Option<&'a str>,
    /// The point, session, disk or other thing that it was about.
    pub subject: Option<&'a str>,
    /// The error; `None` when it succeeded.
    pub error: Option<&'a Error>,
}

/// A line of the file.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    door: &'static str,
    caller: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Cow<'a, str>>,
    operation: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
    /// Failures that were counted and not noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<u64>,
}

/// A text within the limit.
fn cut<'a>(text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
    let text = text.into();
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let mut ends = (0..=TEXT_BYTES_MAX).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}...", text.get(..end).unwrap_or_default()))
}

/// The audit log of a process.
#[derive(Debug, Default)]
pub struct AuditLog {
    file: Option<AuditFile>,
    streaks: Streaks,
}

impl AuditLog {
    /// An audit log without a file.
    #[must_use]
    pub fn to_log() -> Self {
        Self::default()
    }

    /// An audit log that also appends to a file, which is made when it is missing.
    ///
    /// # Errors
    /// `InvalidInput` when it is no regular file; `NotFound` (its directory), `PermissionDenied`, `Io`.
    pub fn to_file(path: &Path) -> Result<Self> {
        Ok(Self {
            file: Some(AuditFile::open(path)?),
            streaks: Streaks::default(),
        })
    }

    /// Notes an act.
    pub fn note(&self, act: &Act<'_>) {
        let caller = act.caller.to_string();
        let line = Line {
            time: act.at,
            door: act.origin.door.as_str(),
            caller: cut(caller),
            peer: act.origin.peer.as_deref().map(cut),
            operation: cut(act.operation),
            repository: act.repository.map(cut),
            vm: act.vm.map(cut),
            subject: act.subject.map(cut),
            outcome: act.error.map_or("ok", |error| error.kind().name()),
            error: act.error.map(|error| cut(error.report())),
            more: None,
        };
        let peer = act.origin.peer.as_deref();
        let key = streak::key(line.door, &line.caller, peer);
        let (verdict, ended) = self.streaks.note(&key, act.error.is_some(), act.at);
        for streak in ended {
            self.write(&Line {
                time: act.at,
                door: streak.door,
                caller: cut(streak.caller),
                peer: streak.peer.map(cut),
                operation: "several".into(),
                repository: None,
                vm: None,
                subject: None,
                outcome: "failed",
                error: Some(format!("and {} more", streak.more).into()),
                more: Some(streak.more),
            });
        }
        if verdict == Verdict::Note {
            self.write(&line);
        }
    }

    fn write(&self, line: &Line<'_>) {
        tracing::info!(
            target: TARGET,
            door = line.door,
            caller = %line.caller,
            peer = line.peer.as_deref(),
            repository = line.repository.as_deref(),
            vm = line.vm.as_deref(),
            subject = line.subject.as_deref(),
            outcome = line.outcome,
            error = line.error.as_deref(),
            "audit: {}",
            line.operation
        );
        if let Some(file) = &self.file
            && let Ok(text) = serde_json::to_string(line)
        {
            file.append(&printable_json(&text));
        }
    }
}

#[cfg(test)]
mod tests {
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
}
