//! `restorefs jobs --follow`: each change as it happens, also over restarts of the daemon and without one.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use restorefs::control::Events;
use restorefs::error::ErrorKind;
use restorefs::service::Happening;
use rustix::process::Signal;
use serde_json::Value;

use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::task::{client, moving, signal, slow, with_chains};

struct Follow {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follow {
    fn begin(place: &Place, more: &[&str]) -> Self {
        let mut args = vec!["jobs", "--follow"];
        args.extend_from_slice(more);
        let mut child = place
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// The next line that is not about progress.
    fn change(&mut self) -> Value {
        loop {
            let line = self.json();
            if line["event"] != "progress" {
                return line;
            }
        }
    }

    /// Ctrl-C; it ends well. Returns what it remarked.
    fn end(mut self) -> String {
        signal(&self.child, Signal::INT);
        let mut said = String::new();
        let mut err = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut err, &mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

#[test]
fn what_begins_goes_on_and_ends_is_printed() {
    let place = with_chains(&["web01"]);
    let daemon = place.serve(&[]);
    let mut child = slow(&place, "web01");
    let task = moving(&client(&place));
    // What runs already comes first.
    let mut follow = Follow::begin(&place, &["--json"]);
    let began = follow.json();
    assert_eq!(
        (&began["event"], &began["job"]["job_id"]),
        (&"began".into(), &task.id.to_string().into())
    );
    let progress = follow.json();
    assert_eq!(progress["event"], "progress");
    assert_eq!(progress["job"]["disks"][0]["name"], "vda");
    place.ok(&["cancel", &task.id.to_string()]);
    let ended = follow.change();
    assert_eq!(
        (&ended["event"], &ended["job"]["result"]),
        (&"ended".into(), &"cancelled".into())
    );
    assert_eq!(ended["job"]["job_id"], task.id.to_string());
    child.wait().unwrap();
    // A session.
    let begun = place.json(&["begin", "db01", "vda=1M"]);
    let began = follow.change();
    assert_eq!(
        (&began["event"], &began["job"]["kind"]),
        (&"began".into(), &"ingest".into())
    );
    assert_eq!(began["job"]["session"], begun["session"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    place.ok(&["abort", &session]);
    let ended = follow.change();
    assert_eq!(ended["job"]["result"], "aborted");
    assert_eq!(ended["job"]["job_id"], began["job"]["job_id"]);
    assert_eq!(follow.end(), "");
    daemon.stop();
}

/// Followed without a daemon, over its begin, a restart and its end: every end is there once.
#[test]
fn a_daemon_may_come_and_go() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "early"]);
    let mut follow = Follow::begin(&place, &["--json", "web01"]);
    let mut points = Vec::new();
    let mut back_up = |follow: &mut Follow, point: &str| {
        place.disk("a.raw", 4, 1 + u8::try_from(points.len()).unwrap());
        place.ok(&["backup", "web01", "vda=a.raw", "--point", point]);
        loop {
            let line = follow.change();
            if line["event"] == "ended" {
                points.push(line["job"]["point"].as_str().unwrap().to_owned());
                return points.clone();
            }
        }
    };
    // The first one shows that it has begun to follow.
    std::thread::sleep(std::time::Duration::from_millis(700));
    back_up(&mut follow, "p1");
    let daemon = place.serve(&[]);
    back_up(&mut follow, "p2");
    daemon.kill();
    back_up(&mut follow, "p3");
    let daemon = place.serve(&[]);
    place.disk("b.raw", 4, 1);
    place.ok(&["backup", "other", "vda=b.raw"]);
    let all = back_up(&mut follow, "p4");
    assert_eq!(all, ["p1", "p2", "p3", "p4"]);
    let said = follow.end();
    assert!(
        said.contains("no daemon serves the repository: only what ends is shown"),
        "{said}"
    );
    assert!(
        said.contains("a daemon serves the repository now"),
        "{said}"
    );
    daemon.stop();
}

#[test]
fn people_get_lines_and_a_reader_who_goes_ends_it() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["begin", "db01", "vda=1M", "--session", "s"]);
    let mut follow = Follow::begin(&place, &[]);
    let began = follow.line();
    assert!(
        began.contains("ingest") && began.contains("db01  began"),
        "{began}"
    );
    place.ok(&["abort", "db01/s"]);
    let ended = follow.line();
    assert!(ended.contains("db01  aborted"), "{ended}");
    let Follow { mut child, lines } = follow;
    drop(lines);
    place.ok(&["begin", "db01", "vda=1M", "--session", "s"]);
    eventually("it ends", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
    daemon.stop();
}

#[test]
fn a_subscriber_of_another_process_is_told_to_begin_anew() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let next = |events: &mut Events| {
        let mut found = None;
        eventually("an event", || {
            found = events.next_event().unwrap();
            found.is_some()
        });
        found.unwrap()
    };
    let mut events = client(&place).follow(None).unwrap();
    place.ok(&["begin", "web01", "vda=1M", "--session", "s"]);
    let (first, second) = (next(&mut events), next(&mut events));
    assert_ne!(first, second);
    // What came after the first one comes again.
    let mut again = client(&place).follow(Some(&first.id)).unwrap();
    assert_eq!(next(&mut again), second);
    for foreign in ["other-1", "nonsense"] {
        let mut events = client(&place).follow(Some(foreign)).unwrap();
        assert_eq!(next(&mut events).happening, Happening::Reset);
    }
    daemon.stop();
    let gone = loop {
        match events.next_event() {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(gone.kind(), ErrorKind::Disconnected);
}
