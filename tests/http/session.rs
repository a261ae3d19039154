//! Sessions over HTTP: begun, written over NBD, committed, and every step repeated by a client that lost the answer.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::has_all;
use crate::kit::noise::noise;
use crate::kit::shell::{run, text};
use crate::kit::wait::eventually;
use crate::scene::{Scene, VMS};

const SESSION: &str = "/api/v1/repositories/default/vms/new01/sessions/nightly";
const SIZE: usize = 3 << 20;

fn body() -> Value {
    json!({"disks": [{"name": "vda", "size_bytes": SIZE, "key": "scsi0:0"}]})
}

/// The URI of the only disk in an answer.
fn uri(answer: &Value) -> String {
    let disks = answer["disk_results"].as_array().unwrap();
    assert_eq!((disks.len(), &disks[0]["name"]), (1, &json!("vda")));
    assert_eq!(disks[0]["source_bytes"], SIZE);
    let uri = disks[0]["uri"].as_str().unwrap();
    assert_eq!(answer["nbd_targets_string"], format!("vda:{uri}"));
    uri.to_owned()
}

#[test]
fn a_session_is_begun_written_and_committed_and_each_step_can_be_repeated() {
    if !has_all(&["curl", "nbdcopy", "qemu-img"]) {
        return;
    }
    let scene = Scene::empty().started();
    let source = noise(21, SIZE);
    let file = scene.place.path("source.raw");
    std::fs::write(&file, &source).unwrap();
    let put = |body: &Value| scene.ask("PUT", SESSION).unix().json(body);
    let begun = put(&body()).value(201);
    let uri = uri(&begun);
    assert!(
        uri.starts_with("nbd+unix:///new01/nightly/vda?socket="),
        "{uri}"
    );
    assert_eq!(put(&body()).value(200), begun);
    // Another request is not the one that has begun it.
    for other in [
        json!({}),
        json!({"disks": [{"name": "vda", "size_bytes": SIZE + 512, "key": "scsi0:0"}]}),
        json!({"disks": [{"name": "vda", "size_bytes": SIZE, "key": "other"}]}),
        json!({"disks": [{"name": "vdb", "size_bytes": SIZE}]}),
        json!({"disks": [{"name": "vda", "size_bytes": SIZE, "key": "scsi0:0"}], "full": true}),
        json!({"disks": [{"name": "vda", "size_bytes": SIZE, "key": "scsi0:0"}], "point": "p"}),
    ] {
        let answer = put(&other).expect(409);
        assert_eq!(
            answer.value()["type"],
            "urn:restorefs:error:already-exists",
            "{other}"
        );
    }
    let shown = scene.get(SESSION).unix().value(200);
    assert_eq!(shown["session"], "nightly");
    // A session that is not finished is not committed.
    let commit = |body: Value| {
        scene
            .ask("POST", &format!("{SESSION}/commit"))
            .unix()
            .json(&body)
    };
    let early = commit(json!({})).run();
    assert!((400..500).contains(&early.status), "{early:?}");
    assert_eq!(put(&body()).value(200), begun);
    run("nbdcopy", &["--flush", text(&file), &uri]);
    let attach = |name: &str| {
        scene
            .ask("PUT", &format!("{SESSION}/attached/{name}"))
            .unix()
    };
    for _ in 0..2 {
        attach("domain.xml")
            .with(&["--data-binary", "<domain/>"])
            .expect(204);
    }
    for bad in ["..", "a%2fb", "%00"] {
        let answer = attach(bad).with(&["--data-binary", "x"]).run();
        assert!((400..500).contains(&answer.status), "{bad}: {answer:?}");
    }
    let committed = commit(json!({"change_ids": {"vda": "7"}})).value(200);
    let point = committed["point"]["name"].as_str().unwrap();
    assert_eq!(committed["vm"], "new01");
    assert_eq!(committed["point"]["attached"][0]["name"], "domain.xml");
    let again = commit(json!({"change_ids": {"vda": "7"}})).value(200);
    assert_eq!(again["point"]["point_id"], committed["point"]["point_id"]);
    let disk = format!("{VMS}/new01/points/{point}/disks/vda");
    assert!(scene.get(&disk).unix().expect(200).body == source);
    let attached = format!("{VMS}/new01/points/{point}/attached/domain.xml");
    assert_eq!(scene.get(&attached).unix().expect(200).body, b"<domain/>");
    scene.get(SESSION).unix().expect(404);
    // The next one is compared with it, and aborted.
    let next = json!({});
    let begun = put(&next).value(201);
    assert_eq!(begun["parent"], point);
    assert_eq!(begun["disk_results"][0]["previous_change_id"], "7");
    scene.ask("DELETE", SESSION).unix().expect(204);
    scene.ask("DELETE", SESSION).unix().expect(404);
    commit(json!({})).expect(404);
    let points = scene.get(&format!("{VMS}/new01/points")).unix().value(200);
    assert_eq!(points["items"].as_array().unwrap().len(), 1);
    scene.check_layers();
    scene.place.ok(&["check"]);
}

#[test]
fn equal_requests_at_the_same_time_begin_one_session() {
    if !has_all(&["curl"]) {
        return;
    }
    let scene = Scene::empty().started();
    let asked: Vec<_> = (0..8)
        .map(|_| scene.ask("PUT", SESSION).unix().json(&body()).spawn())
        .collect();
    let answers: Vec<_> = asked.into_iter().map(crate::curl::Running::end).collect();
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    let first = answers[0].value();
    assert!(answers.iter().all(|answer| answer.value() == first));
}

#[test]
fn a_caller_from_elsewhere_writes_over_tcp_with_tls() {
    if !has_all(&["curl", "nbdcopy", "nbdinfo"]) || !can_certify() {
        return;
    }
    let authority = Authority::new();
    let (server, agent) = (authority.server(), authority.client("agent1"));
    let mut scene = Scene::empty();
    let table =
        "[[access]]\ncertificate = \"agent1\"\nvms = [\"new*\"]\nrights = [\"read\", \"ingest\"]\n";
    std::fs::write(scene.place.path("access.toml"), table).unwrap();
    let tls = ["--tls-certificates", server.to_str().unwrap()];
    scene.start(&[&tls[..], &["--nbd-listen", "127.0.0.1:0"]].concat());
    let token = scene.token("agent", "ingest", "new*");
    let begun = scene
        .ask("PUT", SESSION)
        .tls(&server)
        .token(&token)
        .json(&body())
        .value(201);
    let uri = uri(&begun);
    assert!(uri.starts_with("nbds://"), "{uri}");
    // The session's secret is for who begins it: not for readers, not for the log.
    let secret = uri
        .split_once('~')
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let reader = scene.token("reader", "read", "*");
    for path in [SESSION, "/api/v1/jobs", &format!("{VMS}/new01/sessions")] {
        let text = scene
            .get(path)
            .tls(&server)
            .token(&reader)
            .expect(200)
            .text();
        assert!(!text.contains(&secret), "{path}: {text}");
    }
    let source = noise(22, SIZE);
    let file = scene.place.path("source.raw");
    std::fs::write(&file, &source).unwrap();
    let target = format!("{uri}?tls-certificates={}", agent.display());
    run("nbdcopy", &["--flush", text(&file), &target]);
    // Without the certificate nobody gets as far as the secret.
    let bare = Command::new("nbdinfo").arg(&uri).output().unwrap();
    assert!(!bare.status.success());
    let commit = scene.ask("POST", &format!("{SESSION}/commit")).tls(&server);
    let committed = commit.token(&token).json(&json!({})).value(200);
    let point = committed["point"]["name"].as_str().unwrap();
    let restorer = scene.token("restorer", "restore", "new*");
    let disk = format!("{VMS}/new01/points/{point}/disks/vda");
    let got = scene.get(&disk).tls(&server).token(&restorer).expect(200);
    assert!(got.body == source);
    let audit = std::fs::read_to_string(scene.place.path("audit.jsonl")).unwrap();
    assert!(!audit.contains(&secret) && !scene.log().contains(&secret));
    scene.check_layers();
}

#[test]
fn a_session_outlives_its_connection_and_the_daemon() {
    if !has_all(&["curl", "nbdcopy"]) {
        return;
    }
    let mut scene = Scene::empty().started();
    let begun = scene.ask("PUT", SESSION).unix().json(&body()).value(201);
    assert!(scene.stop().success());
    scene.start(&[]);
    assert_eq!(
        scene.ask("PUT", SESSION).unix().json(&body()).value(200),
        begun
    );
    let source = noise(23, SIZE);
    let file = scene.place.path("source.raw");
    std::fs::write(&file, &source).unwrap();
    run("nbdcopy", &["--flush", text(&file), &uri(&begun)]);
    let commit = scene.ask("POST", &format!("{SESSION}/commit")).unix();
    commit.json(&json!({"point": "one"})).value(200);
    assert!(scene.stop().success());
    scene.start(&[]);
    // The answer of the daemon before was lost.
    let commit = scene.ask("POST", &format!("{SESSION}/commit")).unix();
    assert_eq!(
        commit.json(&json!({"point": "one"})).value(200)["point"]["name"],
        "one"
    );
    let disk = format!("{VMS}/new01/points/one/disks/vda");
    assert!(scene.get(&disk).unix().expect(200).body == source);
}

#[test]
fn a_body_that_is_wrong_is_refused_and_leaves_nothing() {
    if !has_all(&["curl"]) {
        return;
    }
    let scene = Scene::empty().started();
    let put = |text: &str| {
        scene
            .ask("PUT", SESSION)
            .unix()
            .with(&["--data-binary", text])
    };
    for (text, status) in [
        ("{", 400),
        ("[]", 400),
        ("null", 400),
        ("{\"disk\": []}", 400),
        (
            "{\"disks\": [{\"name\": \"../x\", \"size_bytes\": 1}]}",
            400,
        ),
        (
            "{\"disks\": [{\"name\": \"vda\", \"size_bytes\": -1}]}",
            400,
        ),
        (
            "{\"disks\": [{\"name\": \"vda\", \"size_bytes\": 512}, {\"name\": \"VDA\", \"size_bytes\": 512}]}",
            400,
        ),
        ("{\"disks\": []}", 400),
        (
            "{\"parent\": \"none\", \"disks\": [{\"name\": \"vda\", \"size_bytes\": 512}]}",
            404,
        ),
    ] {
        let answer = put(text).header("Content-Type: application/json").run();
        assert_eq!(answer.status, status, "{text}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
    }
    let answer = put("{}").header("Content-Type: text/plain").run();
    assert_eq!(answer.status, 415);
    let bad = "/api/v1/repositories/default/vms/new01/sessions/latest";
    scene.ask("PUT", bad).unix().json(&body()).expect(400);
    assert!(
        !Path::new(&scene.place.repo().join("vms/new01/points")).exists() || {
            let left = std::fs::read_dir(scene.place.repo().join("vms/new01/points")).unwrap();
            left.count() == 0
        }
    );
    eventually("no session is open", || {
        scene
            .place
            .json(&["sessions"])
            .as_array()
            .is_none_or(Vec::is_empty)
    });
}
