//! The job history and sessions that expire, through the real daemon.

use std::time::{Duration, Instant};

use crate::kit::place::Place;

#[test]
fn a_session_that_is_idle_for_its_ttl_ends_by_itself_and_the_history_says_so() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    // Not the first thing that the daemon waits for.
    let long = place.json(&["begin", "db01", "vda=1M", "--ttl", "1h"]);
    let begun = place.json(&["begin", "web01", "vda=64M", "--ttl", "1s"]);
    let session = begun["session"].as_str().unwrap();
    let layers = place.repo().join("vms/web01/layers");
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 1);
    let begun = Instant::now();
    while std::fs::read_dir(&layers).unwrap().count() > 0 {
        // Far less than the half minute between looks at sessions that cannot expire yet.
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is still there"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() > Duration::from_millis(700));
    let wait = Instant::now();
    while place.json(&["jobs"]).as_array().unwrap().is_empty() {
        assert!(wait.elapsed() < Duration::from_secs(30), "no line");
    }
    // The line in the history comes before the session's end.
    let wait = Instant::now();
    let open = loop {
        let open = place.json(&["sessions"]);
        if open.as_array().unwrap().len() == 1 {
            break open;
        }
        assert!(wait.elapsed() < Duration::from_secs(30), "{open}");
    };
    assert_eq!(open[0]["session"], long["session"]);
    let jobs = place.json(&["jobs", "WEB01"]);
    assert_eq!(jobs[0]["result"], "expired");
    assert_eq!(jobs[0]["session"], session);
    assert_eq!(jobs[0]["point"], serde_json::Value::Null);
    assert!(jobs[0]["reason"].as_str().unwrap().contains("1 s"));
    place.ok(&["begin", "web01", "vda=1M"]);
    daemon.stop();
}

#[test]
fn a_session_that_would_end_at_once_is_not_begun() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let said = place.fails(2, &["begin", "web01", "vda=1M", "--ttl", "0"]);
    assert!(said.contains("ttl"), "{said}");
    assert!(place.json(&["sessions"]).as_array().unwrap().is_empty());
    assert!(place.json(&["ls"]).as_array().unwrap().is_empty());
    daemon.stop();
}

#[test]
fn backups_are_in_the_history_with_and_without_a_daemon() {
    let place = Place::new();
    place.disk("a.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.fails(1, &["backup", "web01", "vda=a.raw", "--point", "one"]);
    let refused = |vm: &str| {
        let output = place.run(&["backup", vm, "vdb=a.raw", "--point", "two"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("has a disk vda, too"), "{said}");
    };
    refused("web01");
    let daemon = place.serve(&[]);
    place.ok(&["backup", "db01", "vda=a.raw", "--point", "one"]);
    refused("db01");
    let begun = place.json(&["begin", "db01"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    place.ok(&["abort", &session]);
    daemon.stop();

    let jobs = place.json(&["jobs"]);
    let shown: Vec<String> = jobs
        .as_array()
        .unwrap()
        .iter()
        .map(|job| {
            let (vm, result) = (job["vm"].as_str().unwrap(), job["result"].as_str().unwrap());
            format!("{vm} {result} {}", job["disks"][0]["door"])
        })
        .collect();
    assert_eq!(
        shown,
        [
            "db01 aborted null",
            "db01 failed null",
            "db01 committed \"nbd\"",
            "web01 failed null",
            // The name was taken: no session began.
            "web01 failed null",
            "web01 committed null",
        ]
    );
    let failed = &jobs[3];
    assert!(
        failed["reason"].as_str().unwrap().contains("vda"),
        "{failed}"
    );
    assert_eq!(jobs[4]["session"], serde_json::Value::Null);
    let committed = &jobs[5];
    assert_eq!(committed["point"], "one");
    assert_eq!(committed["kind"], "ingest");
    let disk = &committed["disks"][0];
    assert_eq!(disk["name"], "vda");
    assert_eq!(disk["stored_bytes"].as_u64(), Some(14 * 65_536));
    assert!(committed["began_at"].as_str() <= committed["ended_at"].as_str());
    assert_eq!(
        place.json(&["jobs", "-n", "2"]).as_array().unwrap().len(),
        2
    );
    assert_eq!(
        place
            .json(&["jobs", "web01", "-n0"])
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let table = place.ok(&["jobs"]);
    assert!(
        table.starts_with("ID ") && table.lines().count() == 7,
        "{table}"
    );
    // A file that a crash cut, and one that is not ours.
    let dir = place.repo().join("jobs");
    let file = std::fs::read_dir(&dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    std::fs::write(dir.join("notes.txt"), "mine").unwrap();
    assert_eq!(place.json(&["jobs"]).as_array().unwrap().len(), 5);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    assert_eq!(place.json(&["jobs"])[0]["vm"], "web01");
    assert_eq!(place.json(&["jobs"]).as_array().unwrap().len(), 6);
}

/// What keeps a nightly backup from beginning is found in the history by who looks there in the morning.
#[test]
fn what_failed_before_a_session_began_is_in_the_history() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    // What runs comes before it.
    let last = || {
        let jobs = place.json(&["jobs", "web01", "-n", "1"]);
        jobs.as_array().unwrap().last().unwrap().clone()
    };
    let served = |daemon: bool| {
        let daemon = daemon.then(|| place.serve(&[]));
        // The source is not there.
        let args = ["backup", "web01", "vda=none.raw"];
        assert!(!place.run(&args).status.success());
        assert_eq!(last()["result"], "failed");
        assert_eq!(last()["session"], serde_json::Value::Null);
        assert!(
            last()["reason"].as_str().unwrap().contains("none.raw"),
            "{}",
            last()
        );
        // Too little room is left.
        let args = ["backup", "web01", "vda=a.raw", "--low-water", "900T"];
        assert!(!place.run(&args).status.success());
        assert_ne!(last()["reason"], serde_json::Value::Null);
        let before = last()["job_id"].clone();
        // What was asked for wrongly was told to whoever asked.
        place.fails(2, &["backup", "web01", "vda"]);
        assert_eq!(last()["job_id"], before);
        if let Some(daemon) = daemon {
            daemon.stop();
        }
    };
    served(false);
    served(true);
    // Of the VM there is nothing but that.
    assert!(place.json(&["ls"]).as_array().unwrap().is_empty());
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    place.ok(&["begin", "web01", "--session", "s"]);
    place.fails(1, &["backup", "web01", "vda=a.raw"]);
    assert!(
        last()["reason"].as_str().unwrap().contains("open session"),
        "{}",
        last()
    );
    place.ok(&["abort", "web01/s"]);
    daemon.stop();
    let layers = std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap();
    for entry in layers {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    place.fails(3, &["backup", "web01", "vda=a.raw", "--strict"]);
    assert!(
        last()["reason"].as_str().unwrap().contains("missing"),
        "{}",
        last()
    );
    place.ok(&["jobs"]);
}

#[test]
fn the_lock_is_waited_for_as_long_as_is_said() {
    use rustix::fs::{FlockOperation, flock};

    let place = Place::new();
    place.disk("a.raw", 4, 1);
    let path = place.repo().join("lock");
    let lock = std::fs::File::create(&path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let backup = ["backup", "web01", "vda=a.raw"];
    place.fails(11, &backup);
    let begun = Instant::now();
    let waited = place.run(&["backup", "web01", "vda=a.raw", "--wait", "1s"]);
    assert_eq!(waited.status.code(), Some(11));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    place.fails(2, &["backup", "web01", "vda=a.raw", "--wait", "soon"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            flock(&lock, FlockOperation::Unlock).unwrap();
        });
        place.ok(&["--wait", "5m", "backup", "web01", "vda=a.raw"]);
    });
    // A daemon waits for it, too.
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            flock(&lock, FlockOperation::Unlock).unwrap();
        });
        place.serve(&["--wait", "5m"]).stop();
    });
}
