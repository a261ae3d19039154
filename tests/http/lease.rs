//! `backup --server`: the lease of its session, and what ends it.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use restorefs::error::ErrorKind;
use restorefs::http::client::Remote;
use restorefs::service::backup::desk::Desk;
use restorefs::service::{BeginRequest, DiskRequest};
use restorefs::task::Monitor;
use restorefs::types::{DiskName, RepositoryName, SessionRef, VmName};

use crate::kit::need::has_all;
use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::pair::{Pair, Running, fails, said};
use crate::scene::{Scene, VMS};

#[test]
fn a_restart_of_the_daemon_does_not_end_the_backup() {
    let Some(mut pair) = Pair::new() else {
        return;
    };
    let token = pair.token("agent", "read,ingest", "*");
    let bytes = noise(35, 80 << 20);
    let disk = pair.write("a.raw", &bytes);
    let running = Running::of(&pair, &token, &disk);
    assert!(pair.server.stop().success(), "{}", pair.server.log());
    std::thread::sleep(Duration::from_secs(2));
    pair.restart();
    eventually("it goes on", || {
        let sessions = pair.sessions();
        assert!(!sessions.is_empty(), "it ended before the restart");
        sessions[0]["disks"][0]["door"] == "nbd"
    });
    pair.server.signal(Signal::KILL);
    pair.server.wait();
    std::thread::sleep(Duration::from_secs(1));
    pair.restart();
    let output = running.end();
    let said = said(&output);
    assert!(output.status.success(), "{said}\n{}", pair.server.log());
    assert!(
        said.contains("was lost") || said.contains("is gone"),
        "{said}"
    );
    assert!(pair.server.place.restored("web01@slow", "vda") == bytes);
    assert!(pair.sessions().is_empty());
    let points = pair
        .server
        .get(&format!("{VMS}/web01/points"))
        .unix()
        .value(200);
    assert_eq!(points["items"].as_array().unwrap().len(), 1);
    pair.server.place.ok(&["check"]);
}

#[test]
fn a_backup_that_dies_leaves_a_session_with_a_lease_and_one_that_is_stopped_leaves_none() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("agent", "read,ingest", "*");
    let disk = pair.write("a.raw", &noise(36, 64 << 20));
    let mut running = Running::of(&pair, &token, &disk);
    let pid = Pid::from_raw(i32::try_from(running.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let output = running.end();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(pair.sessions().is_empty());
    let jobs = pair.server.place.json(&["jobs", "web01"]);
    assert_eq!(jobs[0]["result"], "aborted", "{jobs}");
    running = Running::of(&pair, &token, &disk);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    let idle = |pair: &Pair| pair.sessions()[0]["idle_seconds"].as_u64().unwrap();
    let session = pair.sessions().remove(0);
    assert_eq!(session["ttl_seconds"], 120);
    // Nothing renews it any more.
    let before = Instant::now();
    eventually("it is idle", || idle(&pair) >= 2);
    assert!(before.elapsed() < Duration::from_secs(10));
    // Meanwhile the VM is taken, which an administrator can end.
    let said = fails(pair.backup(&token, &[&disk]), 1);
    assert!(said.contains("web01"), "{said}");
    let name = session["session"].as_str().unwrap();
    pair.server.place.ok(&["abort", &format!("web01/{name}")]);
    pair.done(&token, &[&disk]);
}

#[test]
fn a_failure_of_the_source_is_in_the_history_of_the_server() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("agent", "read,ingest", "*");
    let disk = pair.write("a.raw", &noise(37, 24 << 20));
    let running = Running::of(&pair, &token, &disk);
    // The bytes that are not read yet are gone.
    let file = std::fs::File::options()
        .write(true)
        .open(pair.path("a.raw"))
        .unwrap();
    file.set_len(1 << 20).unwrap();
    let output = running.end();
    assert!(!output.status.success(), "{}", said(&output));
    let jobs = pair.server.place.json(&["jobs", "web01"]);
    assert_eq!(jobs[0]["result"], "failed", "{jobs}");
    assert!(
        jobs[0]["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{jobs}"
    );
    assert!(pair.sessions().is_empty());
    // So is what an administrator ends, and no message has the session's secret.
    let disk = pair.write("b.raw", &noise(38, 64 << 20));
    let running = Running::of(&pair, &token, &disk);
    let name = pair.sessions()[0]["session"].as_str().unwrap().to_owned();
    pair.server.place.ok(&["abort", &format!("web01/{name}")]);
    let output = running.end();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the session has been aborted") && said.contains(&format!("{name}~.../vda")),
        "{said}"
    );
    assert!(pair.sessions().is_empty());
}

#[test]
fn a_session_that_has_ended_is_not_begun_again_by_its_renewal() {
    if !has_all(&["curl"]) {
        return;
    }
    let scene = Scene::empty().started();
    let server = format!("unix:{}", scene.path_of("http.sock"));
    let name = RepositoryName::new("default").unwrap();
    let remote = Remote::connect(
        server.parse().unwrap(),
        None,
        "/nowhere".into(),
        name,
        Monitor::default(),
    );
    let remote = remote.unwrap();
    let mut request = BeginRequest::new(VmName::new("web01").unwrap());
    request.disks.push(DiskRequest {
        name: DiskName::new("vda").unwrap(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    let begun = remote.begin(&request).unwrap();
    let session = SessionRef {
        vm: begun.vm,
        session: begun.session,
    };
    remote.renew(&session).unwrap();
    let sessions = || scene.place.json(&["sessions"]);
    assert_eq!(sessions()[0]["ttl_seconds"], 120);
    scene.place.ok(&["abort", &session.to_string()]);
    let error = remote.renew(&session).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(sessions().as_array().unwrap().is_empty());
    // Whoever aborts what has ended has what was wanted.
    remote.abort(&session, Some("x")).unwrap();
}
