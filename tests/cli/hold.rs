//! Holds: another program copies the repository while its layers stay as they are.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::merge::{back_up, layers};

/// Runs until there is a file `go`.
const WAITS: &str = "touch started; while [ ! -e go ]; do sleep 0.05; done";

/// Starts a hold of a shell command, and waits until the command runs.
fn start(place: &Place, shell: &str) -> Child {
    for name in ["started", "go"] {
        let _ = std::fs::remove_file(place.path(name));
    }
    // Whoever runs the tests may ignore signals (nohup, a background job), and a shell cannot trap what was ignored.
    let program = place.command(&["hold", "--", "sh", "-c", shell]);
    let mut command = std::process::Command::new("env");
    command
        .arg("--default-signal=INT,TERM,HUP")
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(place.dir.path());
    for (key, value) in program.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let held = command.stderr(Stdio::piped()).spawn().unwrap();
    eventually("the command runs", || place.path("started").exists());
    held
}

/// Lets the command end; returns the exit code of the hold and what it said.
fn end(place: &Place, held: Child) -> (Option<i32>, String) {
    std::fs::write(place.path("go"), b"").unwrap();
    let output = held.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn the_exit_code_is_that_of_the_command(place: &Place) {
    for (shell, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let output = place.run(&["hold", "--", "sh", "-c", shell]);
        assert_eq!(output.status.code(), Some(code), "{shell}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let said = place.fails(1, &["hold", "--", "no-such-command"]);
    assert!(said.contains("no-such-command"), "{said}");
    place.fails(2, &["hold", "--"]);
    place.fails(2, &["hold", "sh"]);
    // The words of the command are its own.
    let output = place.ok(&["hold", "--", "echo", "--json", "a  b"]);
    assert_eq!(output, "--json a  b\n");
}

#[test]
fn the_exit_code_is_that_of_the_command_here_and_beside_a_daemon() {
    let place = Place::new();
    the_exit_code_is_that_of_the_command(&place);
    let daemon = place.serve(&[]);
    the_exit_code_is_that_of_the_command(&place);
    daemon.stop();
}

#[test]
fn layers_stay_while_a_command_runs_and_backups_go_on() {
    let place = Place::new();
    let contents = back_up(&place, 0, 4, &[]);
    let daemon = place.serve(&[]);
    place.ok(&["forget", "web01@p01", "--no-merge"]);
    let before = (layers(&place), place.json(&["trash"]));
    let made = || {
        let directory = std::fs::metadata(place.repo().join("vms/web01/layers")).unwrap();
        directory.modified().unwrap()
    };
    let last = made();
    let held = start(&place, WAITS);
    for refused in [
        &["forget", "web01@p00"][..],
        &["forget", "web01", "--keep-last", "1"],
        &["forget", "--compact", "web01"],
        &["synthetic-full", "web01@latest"],
        &["trash", "--empty"],
    ] {
        let said = place.fails(11, refused);
        assert!(said.contains("a hold of sh -c touch started"), "{said}");
    }
    assert_eq!((layers(&place), place.json(&["trash"])), before);
    assert_eq!(made(), last, "a build has begun");
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 3);
    let more = back_up(&place, 4, 1, &[]);
    place.ok(&["keep", "web01@p00"]);
    assert_eq!(end(&place, held), (Some(0), String::new()));
    place.ok(&["forget", "--compact", "web01"]);
    place.ok(&["trash", "--empty"]);
    assert_eq!(layers(&place).len(), 4);
    assert!(place.restored("web01@p04", "vda") == more["p04"]);
    assert!(place.restored("web01@p00", "vda") == contents["p00"]);
    daemon.stop();
}

#[test]
fn without_a_daemon_nobody_else_writes() {
    let place = Place::new();
    back_up(&place, 0, 2, &[]);
    let held = start(&place, WAITS);
    for refused in [
        &["backup", "web01", "vda=a.raw"][..],
        &["forget", "web01@p00"],
        &["trash", "--empty"],
    ] {
        let said = place.fails(11, refused);
        assert!(said.contains("a hold of sh -c touch started"), "{said}");
    }
    place.restored("web01@p00", "vda");
    assert_eq!(end(&place, held).0, Some(0));
    place.ok(&["forget", "web01@p00"]);
}

fn a_signal_reaches_the_command(place: &Place) {
    for (name, signal) in [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
    ] {
        let shell = format!(
            "trap 'touch {name}; exit 5' {name}; touch started; while :; do sleep 0.05; done"
        );
        let mut held = start(place, &shell);
        send(&held, signal);
        assert_eq!(held.wait().unwrap().code(), Some(5), "{name}");
        std::fs::remove_file(place.path(name)).unwrap();
    }
    // The hold is killed: its command does not go on without it.
    let mut held = start(place, "echo $$ > pid; touch started; exec sleep 1000");
    let pid = std::fs::read_to_string(place.path("pid")).unwrap();
    let process = format!("/proc/{}", pid.trim());
    assert!(std::path::Path::new(&process).exists());
    send(&held, Signal::KILL);
    held.wait().unwrap();
    eventually("the command ends", || {
        let state = std::fs::read_to_string(format!("{process}/stat"));
        state.is_err() || state.is_ok_and(|stat| stat.contains(") Z "))
    });
    // And nothing is held any more.
    eventually("the hold ends", || {
        place.run(&["trash", "--empty"]).status.success()
    });
}

#[test]
fn a_signal_reaches_the_command_here_and_beside_a_daemon() {
    let place = Place::new();
    a_signal_reaches_the_command(&place);
    let daemon = place.serve(&[]);
    a_signal_reaches_the_command(&place);
    daemon.stop();
}

#[test]
fn a_hold_that_is_lost_is_said_at_once_and_is_an_error() {
    let place = Place::new();
    let lost = |held: Child| {
        // It is said while the command still runs.
        std::thread::sleep(Duration::from_secs(3));
        let (code, said) = end(&place, held);
        assert_eq!(code, Some(1), "{said}");
        let warning = "restorefs: warning: the hold has ended before the command";
        assert!(said.contains(warning), "{said}");
        assert!(said.contains("run it again"), "{said}");
    };
    // The daemon is killed.
    let daemon = place.serve(&[]);
    let held = start(&place, WAITS);
    daemon.kill();
    lost(held);
    // The daemon stops, and the next one comes.
    let daemon = place.serve(&[]);
    let held = start(&place, WAITS);
    daemon.stop();
    let daemon = place.serve(&[]);
    lost(held);
    daemon.stop();
    // The lock is taken away.
    let held = start(&place, WAITS);
    std::fs::remove_file(place.repo().join("lock")).unwrap();
    lost(held);
    // Also when the command ends just then.
    let held = start(&place, WAITS);
    std::fs::remove_file(place.repo().join("lock")).unwrap();
    let (code, said) = end(&place, held);
    assert_eq!(code, Some(1), "{said}");
}

/// Backups, forgetting and merging go on all the time, and each copy has every point that was listed as its hold began.
#[test]
fn a_copy_that_is_taken_while_layers_are_merged_is_whole() {
    if !has("rsync") {
        return;
    }
    let place = Place::new();
    let contents: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::default();
    contents.lock().unwrap().extend(back_up(&place, 0, 4, &[]));
    let daemon = place.serve(&[]);
    let (is_over, refused) = (AtomicBool::new(false), Mutex::new(0));
    let listed = |n: usize| format!("listed{n}.json");
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut n = 4;
            while !is_over.load(Ordering::SeqCst) {
                contents.lock().unwrap().extend(back_up(&place, n, 1, &[]));
                let output = place.run(&["forget", "web01", "--keep-last", "3", "--compact"]);
                match output.status.code() {
                    Some(0) => {}
                    Some(11) => *refused.lock().unwrap() += 1,
                    _ => panic!("{output:?}"),
                }
                n += 1;
            }
        });
        for n in 0..4 {
            let shell = format!(
                "{} ls web01 --json > {} && sleep 0.5 && \
                 rsync -a --delete --exclude /cache --exclude /trash --exclude /lock repo/ copy{n}/; \
                 code=$?; [ $code = 24 ] || exit $code",
                env!("CARGO_BIN_EXE_restorefs"),
                listed(n)
            );
            place.ok(&["hold", "--", "sh", "-c", &shell]);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    daemon.stop();
    assert!(*refused.lock().unwrap() > 0);
    let contents = contents.into_inner().unwrap();
    for n in 0..4 {
        let copy = format!("copy{n}");
        std::fs::create_dir_all(place.path(&copy).join("trash")).unwrap();
        let points = std::fs::read(place.path(&listed(n))).unwrap();
        let points: serde_json::Value = serde_json::from_slice(&points).unwrap();
        let points = points.as_array().unwrap();
        assert!(points.len() >= 3);
        for point in points {
            let name = point["name"].as_str().unwrap();
            let _ = std::fs::remove_file(place.path("out.raw"));
            let of = format!("web01@{name}");
            place.ok(&["-r", &copy, "restore", &of, "vda", "out.raw"]);
            let found = std::fs::read(place.path("out.raw")).unwrap();
            assert!(found == contents[name], "{copy}: {name}");
        }
        // The copy is a repository that goes on by itself.
        place.ok(&[
            "-r",
            &copy,
            "forget",
            "web01",
            "--keep-last",
            "1",
            "--compact",
        ]);
    }
}
