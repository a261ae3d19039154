//! Who is let in over TCP, and what each right gives (docs/access.md).

use serde_json::{Value, json};

use crate::scene::{POINT, Scene, VMS};
use crate::wire::{exchange, status};

const DISK: &str = "/api/v1/repositories/default/vms/web01/points/one/disks/vda";

/// A request with these header lines beside its first line.
fn raw(scene: &Scene, lines: &str) -> u16 {
    let request = format!("GET /api/v1/status HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
    status(&exchange(scene.port(), request.as_bytes()))
}

#[test]
fn only_names_of_the_server_are_answered() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    scene.start(&["--http-host", "backup01.example"]);
    let (token, port) = (scene.all(), scene.port());
    let who = format!("Authorization: Bearer {token}\r\n");
    let ask = |hosts: &str| raw(&scene, &format!("{hosts}{who}"));
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "LOCALHOST".to_owned(),
        "backup01.example".to_owned(),
        format!("backup01.example:{port}"),
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in [
        "Host: evil.example\r\n",
        "Host: localhost:1\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: \r\n",
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
    ] {
        let got = ask(host);
        assert!(got == 421 || got == 400, "{host}: {got}");
    }
    assert_eq!(ask("Host: evil.example\r\n"), 421);
    // A target in absolute form counts as the Host does.
    let whole = format!(
        "GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n{who}Connection: close\r\n\r\n"
    );
    assert_eq!(status(&exchange(port, whole.as_bytes())), 421);
    let answer = scene.get("/api/v1/status").token(&token);
    let answer = answer.header("Host: evil.example").expect(421);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        answer.value()["type"],
        "urn:restorefs:error:misdirected-request"
    );
    // The kernel names the peer of a Unix socket: no page elsewhere comes through it.
    let answer = scene.get("/api/v1/status").unix();
    answer.header("Host: evil.example").expect(200);
    // Before it is known who asks.
    scene
        .get("/api/v1/status")
        .header("Host: evil.example")
        .expect(421);
}

#[test]
fn without_a_token_that_counts_nobody_is_let_in() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let path = "/api/v1/status";
    let refused = |answer: crate::curl::Answer| {
        assert_eq!(answer.status, 401, "{}", answer.text());
        let scheme = answer.header("www-authenticate").unwrap();
        assert!(scheme.starts_with("Bearer"), "{scheme}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer
    };
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"] {
        refused(scene.ask(method, path).run());
    }
    for header in [
        "Authorization: Basic cm9vdDpyb290",
        "Authorization: Bearer",
        "Cookie: restorefs=0123; __Host-restorefs=0123",
    ] {
        refused(scene.get(path).header(header).run());
    }
    // What is wrong, has ended, or was ended.
    let short = scene.token_with("short", "read", "*", &["--expires", "2s"]);
    let revoked = scene.token("revoked", "read", "*");
    scene.get(path).token(&revoked).expect(200);
    scene.get(path).token(&short).expect(200);
    scene.place.ok(&["token", "revoke", "revoked"]);
    refused(scene.get(path).token(&revoked).run());
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    refused(scene.get(path).token(&short).run());
    let wrong = format!("rfs_{}", "0".repeat(64));
    refused(scene.get(path).token(&wrong).run());
    // Who is not let in does not hear which addresses there are.
    assert_eq!(
        refused(scene.get("/api/v1/nothing").run()).body,
        refused(scene.get(path).run()).body
    );
}

#[test]
fn a_token_in_the_address_is_none() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    for name in ["token", "access_token"] {
        let path = format!("/api/v1/status?{name}={token}");
        scene.get(&path).expect(401);
        let answer = scene.get(&path).token(&token).expect(400);
        assert!(answer.text().contains(name), "{}", answer.text());
        assert!(!answer.text().contains(&token), "{}", answer.text());
    }
    // A secret that came in an address is in no log.
    assert!(!scene.log().contains(&token));
}

#[test]
fn an_address_that_guesses_is_refused_for_a_while() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let good = scene.all();
    let path = "/api/v1/status";
    for n in 0..10 {
        let wrong = format!("rfs_{n:064x}");
        scene.get(path).token(&wrong).expect(401);
    }
    let answer = scene.get(path).token("rfs_0").expect(429);
    let advice = answer.value()["advice"].to_string();
    assert!(advice.contains("try again in"), "{advice}");
    // The answer to a guess would be an oracle.
    scene.get(path).token(&good).expect(429);
    // Who guesses nothing, and users of this machine, are not concerned.
    scene.get(path).expect(401);
    scene.get(path).unix().expect(200);
}

/// Every address of a VM, with a body where it takes one.
fn addresses(vm: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let vm = format!("{VMS}/{vm}");
    let point = format!("{vm}/points/one");
    let session = format!("{vm}/sessions/s");
    let disks = json!({"disks": [{"name": "vda", "size_bytes": 65536}]});
    vec![
        ("GET", vm.clone(), None),
        ("DELETE", vm.clone(), None),
        ("POST", format!("{vm}/rename"), Some(json!({"to": "other"}))),
        ("GET", format!("{vm}/points"), None),
        ("GET", point.clone(), None),
        ("PATCH", point.clone(), Some(json!({"keep": true}))),
        ("GET", format!("{point}/info"), None),
        ("GET", format!("{point}/volumes"), None),
        ("GET", format!("{point}/chain"), None),
        ("GET", format!("{point}/damage"), None),
        ("GET", format!("{point}/attached/a"), None),
        ("GET", format!("{point}/disks"), None),
        ("GET", format!("{point}/disks/vda"), None),
        ("GET", format!("{point}/files?path=/"), None),
        ("GET", format!("{point}/content?path=/info.json"), None),
        ("GET", format!("{point}/archive?path=/"), None),
        ("GET", format!("{vm}/sessions"), None),
        ("GET", session.clone(), None),
        ("PUT", session.clone(), Some(disks)),
        ("POST", format!("{session}/commit"), Some(json!({}))),
        ("PUT", format!("{session}/attached/a"), Some(json!({}))),
        ("DELETE", session, None),
    ]
}

#[test]
fn a_vm_that_is_not_the_callers_does_not_exist() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    scene.place.ok(&["begin", "db01", "--session", "s"]);
    let rights = "read,restore,ingest,manage,metrics";
    let token = scene.token("web", rights, "web*");
    for ((method, there, body), (_, absent, _)) in addresses("db01").iter().zip(addresses("db99")) {
        let ask = |path: &str| {
            let request = scene.ask(method, path).token(&token);
            match body {
                Some(body) => request.json(body).run(),
                None => request.run(),
            }
        };
        let (there, absent) = (ask(there), ask(&absent));
        let plain = |text: String| text.replace("db99", "db01");
        assert_eq!(there.status, 404, "{method}: {there:?}");
        assert_eq!(plain(there.text()), plain(absent.text()), "{method}");
        let head = |answer: &crate::curl::Answer| {
            let lines = answer
                .head
                .lines()
                .filter(|line| !line.starts_with("date:"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(head(&there), head(&absent), "{method}");
    }
    // Nor in lists.
    for path in [
        VMS.to_owned(),
        "/api/v1/status".to_owned(),
        "/api/v1/jobs".to_owned(),
        "/api/v1/repositories".to_owned(),
        "/api/v1/repositories/default/status".to_owned(),
        "/metrics".to_owned(),
    ] {
        let text = scene.get(&path).token(&token).expect(200).text();
        assert!(!text.contains("db01"), "{path}: {text}");
    }
    // A policy may name any VM.
    let policies = "/api/v1/repositories/default/policies";
    scene.get(policies).token(&token).expect(403);
    let vms = scene.get(VMS).token(&token).value(200);
    assert_eq!(vms["items"][0]["name"], "web01");
    // The session of the other VM goes on.
    scene.place.ok(&["abort", "db01/s"]);
}

#[test]
fn each_right_gives_its_own_and_no_other() {
    let Some(scene) = Scene::of_guest().map(Scene::started) else {
        return;
    };
    let content = format!("{POINT}/content?path=/files/etc/hostname");
    let archive = format!("{POINT}/archive?path=/files/etc&format=tar");
    let (files, session) = (
        format!("{POINT}/files?path=/files/etc"),
        format!("{VMS}/web01/sessions/s"),
    );
    let begin = json!({"disks": [{"name": "vda", "size_bytes": 1 << 20}], "full": true});
    let label = json!({"keep": true});
    let policy = "/api/v1/repositories/default/policies/p";
    let terms = json!({"vms": ["*"], "keep": {"last": 3}});
    let trash = "/api/v1/repositories/default/trash";
    let statuses = |rights: &str| {
        let token = scene.token(&rights.replace(',', "-"), rights, "*");
        let get = |path: &str| scene.get(path).token(&token).run().status;
        let all = [
            get(&files),
            get(DISK),
            get(&content),
            get(&archive),
            scene
                .ask("PUT", &session)
                .token(&token)
                .json(&begin)
                .run()
                .status,
            scene.ask("DELETE", &session).token(&token).run().status,
            scene
                .ask("PATCH", POINT)
                .token(&token)
                .json(&label)
                .run()
                .status,
            scene
                .ask("PUT", policy)
                .token(&token)
                .json(&terms)
                .run()
                .status,
            scene.ask("DELETE", trash).token(&token).run().status,
            get("/metrics"),
        ];
        println!("{rights}: {all:?}");
        all
    };
    //                            files disk content archive begin abort label policy trash metrics
    assert_eq!(
        statuses("read"),
        [200, 403, 403, 403, 403, 403, 403, 403, 403, 403]
    );
    assert_eq!(
        statuses("restore"),
        [404, 200, 200, 200, 404, 404, 404, 403, 403, 403]
    );
    assert_eq!(statuses("ingest")[..7], [404, 404, 404, 404, 201, 204, 404]);
    assert_eq!(
        statuses("metrics"),
        [404, 404, 404, 404, 404, 404, 404, 403, 403, 200]
    );
    let manage = statuses("manage");
    assert_eq!((manage[..6].to_vec(), manage[6]), (vec![404; 6], 200));
    assert_eq!((manage[7], manage[9]), (403, 403));
    let admin = statuses("admin");
    assert_eq!(admin[..7], [404; 7]);
    assert!(
        admin[7] == 201 && admin[8] < 300 && admin[9] == 403,
        "{admin:?}"
    );
}

#[test]
fn metrics_name_vms_for_whom_they_are() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let (all, web) = (
        scene.token("all-metrics", "metrics", "*"),
        scene.token("web-metrics", "metrics", "web*"),
    );
    let text = |token: &str| {
        let answer = scene.get("/metrics").token(token).expect(200);
        let media = answer.header("content-type").unwrap();
        assert!(media.starts_with("text/plain; version=0.0.4"), "{media}");
        answer.text()
    };
    let named = text(&all);
    assert!(named.contains("vm=\"db01\"") && named.contains("vm=\"web01\""));
    let some = text(&web);
    assert!(
        some.contains("vm=\"web01\"") && !some.contains("db01"),
        "{some}"
    );
    scene.get("/metrics").expect(401);
    let reader = scene.token("reader", "read,admin", "*");
    scene.get("/metrics").token(&reader).expect(403);
}

#[test]
fn a_token_for_another_repository_sees_nothing_of_this_one() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let rights = "read,restore,ingest,manage,metrics,admin";
    let other = scene.token_with("other", rights, "*", &["--repository", "offsite"]);
    let own = scene.token_with("own", rights, "*", &["--repository", "default"]);
    scene.get(VMS).token(&own).expect(200);
    let hidden = scene.get(VMS).token(&other).expect(404).text();
    let absent = scene.get("/api/v1/repositories/nothing/vms").token(&other);
    let absent = absent.expect(404).text();
    assert_eq!(hidden, absent.replace("nothing", "default"));
    let list = scene.get("/api/v1/repositories").token(&other).value(200);
    assert_eq!(list["items"], json!([]));
    for path in ["/api/v1/status", "/api/v1/jobs"] {
        let text = scene.get(path).token(&other).expect(200).text();
        assert!(
            !text.contains("web01") && !text.contains("default"),
            "{text}"
        );
    }
    scene.get("/metrics").token(&other).expect(403);
}

#[test]
fn every_answer_forbids_what_a_page_could_do_with_it() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    for (path, status) in [
        ("/api/v1/status", 200),
        (DISK, 200),
        ("/api/v1/x", 404),
        ("/x", 404),
    ] {
        let answer = scene.get(path).token(&token).expect(status);
        let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // No other origin is allowed anything, and no method beside those of the address.
    let answer = scene.ask("OPTIONS", VMS).token(&token);
    let answer = answer.header("Origin: https://evil.example").expect(405);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let allowed = answer.header("allow").unwrap();
    assert!(
        allowed.contains("GET") && !allowed.contains("PUT"),
        "{allowed}"
    );
    scene.ask("TRACE", VMS).token(&token).expect(405);
}
