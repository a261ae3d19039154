//! The guest agent: filesystems are frozen for the instant, and always thawed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault::{is_running, scene};
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::qemu::{RELEASES, Release, compare};
use crate::tracking::backup;

/// What an agent does with a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    /// It freezes, and never answers that.
    Silent,
    /// It refuses.
    Refuses,
    /// It says nothing at all.
    Dead,
}

/// A guest agent that a test plays.
#[derive(Clone)]
struct Agent {
    commands: Arc<Mutex<Vec<String>>>,
    path: String,
}

impl Agent {
    fn start(place: &Place, mood: Mood) -> Self {
        let path = place.path(&format!("agent-{mood:?}"));
        let listener = UnixListener::bind(&path).unwrap();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let agent = Self {
            commands: Arc::clone(&commands),
            path: path.display().to_string(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut writer = stream.try_clone().unwrap();
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while lines
                    .read_until(b'\n', &mut line)
                    .is_ok_and(|length| length > 0)
                {
                    let text = line.split(|byte| *byte == 0xff).next_back().unwrap();
                    let asked: Value = serde_json::from_slice(text).unwrap_or_default();
                    line.clear();
                    let command = asked["execute"].as_str().unwrap_or_default().to_owned();
                    commands.lock().unwrap().push(command.clone());
                    let answer = match (command.as_str(), mood) {
                        (_, Mood::Dead) | ("guest-fsfreeze-freeze", Mood::Silent) => continue,
                        ("guest-sync-delimited", _) => {
                            writer.write_all(b"\xff").unwrap();
                            json!({"return": asked["arguments"]["id"]})
                        }
                        ("guest-fsfreeze-freeze", Mood::Refuses) => {
                            json!({"error": {"class": "GenericError", "desc": "no"}})
                        }
                        ("guest-fsfreeze-freeze" | "guest-fsfreeze-thaw", _) => {
                            json!({"return": 2})
                        }
                        _ => json!({"error": {"class": "CommandNotFound", "desc": "what"}}),
                    };
                    if writer.write_all(format!("{answer}\n").as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        agent
    }

    fn has(&self, command: &str) -> bool {
        self.commands
            .lock()
            .unwrap()
            .iter()
            .any(|other| other == command)
    }
}

#[test]
fn filesystems_are_frozen_for_the_instant() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let agent = Agent::start(&place, Mood::Good);
        let (report, _) = backup(
            &place,
            &qemu,
            "one",
            &["--quiesce", "--guest-agent", &agent.path],
        );
        assert_eq!(report["report"]["consistency"], "filesystem", "{report}");
        assert!(
            report["report"]["frozen_ms"].as_u64().unwrap() < 5000,
            "{report}"
        );
        assert!(agent.has("guest-fsfreeze-thaw"));
        let info = place.json(&["info", "web01@one"]);
        assert_eq!(info["consistency"], "filesystem", "{info}");
        assert!(is_running(&mut qemu));
        compare(&place, "web01@one", &qemu.disks);
        qemu.is_clean(2);
    }
}

/// abbbi/virtnbdbackup#102: a freeze that is never answered is bounded, the guest is thawed, and the point says what it is.
#[test]
fn a_freeze_that_fails_is_thawed_and_said() {
    for mood in [Mood::Silent, Mood::Refuses] {
        let Some((place, mut qemu)) = scene(Release::New) else {
            return;
        };
        let agent = Agent::start(&place, mood);
        let begun = Instant::now();
        let (report, said) = backup(
            &place,
            &qemu,
            "one",
            &["--quiesce", "--guest-agent", &agent.path],
        );
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(report["report"]["consistency"], "crash", "{report}");
        assert!(said.contains("were not frozen"), "{said}");
        assert!(agent.has("guest-fsfreeze-thaw"), "{mood:?}");
        let info = place.json(&["info", "web01@one"]);
        assert!(
            info["consistency_note"]
                .as_str()
                .unwrap()
                .contains("were not frozen"),
            "{info}"
        );
        assert!(is_running(&mut qemu));
        qemu.is_clean(2);
    }
}

#[test]
fn an_agent_that_is_not_there_is_said_before_anything_begins() {
    let Some((place, mut qemu)) = scene(Release::New) else {
        return;
    };
    let agent = Agent::start(&place, Mood::Dead);
    let socket = qemu.socket();
    let said = place.fails(
        1,
        &[
            "backup",
            "web01",
            "--qmp",
            &socket,
            "--quiesce",
            "--guest-agent",
            &agent.path,
        ],
    );
    assert!(
        said.contains("does not answer") && said.contains("without --quiesce"),
        "{said}"
    );
    assert!(qemu.ours().is_empty());
    let none = place.path("none").display().to_string();
    place.fails(
        1,
        &["backup", "web01", "--qmp", &socket, "--guest-agent", &none],
    );
}

/// Azure/azure-linux-extensions#951: kill -9 between freeze and thaw.
#[test]
fn kill_9_between_freeze_and_thaw() {
    for release in RELEASES {
        for round in 0..3_u64 {
            let Some((place, mut qemu)) = scene(release) else {
                continue;
            };
            let agent = Agent::start(&place, Mood::Good);
            let socket = qemu.socket();
            let mut child = place
                .command(&[
                    "backup",
                    "web01",
                    "--qmp",
                    &socket,
                    "--quiesce",
                    "--guest-agent",
                    &agent.path,
                ])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            eventually("it freezes", || agent.has("guest-fsfreeze-freeze"));
            std::thread::sleep(Duration::from_millis(round));
            child.kill().unwrap();
            child.wait().unwrap();
            let since = Instant::now();
            eventually("the guest is thawed", || {
                agent.has("guest-fsfreeze-thaw") && is_running(&mut qemu)
            });
            assert!(since.elapsed() < Duration::from_secs(15));
            backup(
                &place,
                &qemu,
                "next",
                &["--quiesce", "--guest-agent", &agent.path],
            );
            compare(&place, "web01@next", &qemu.disks);
            qemu.is_clean(2);
        }
    }
}
