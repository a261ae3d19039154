//! What the audit log has of requests over HTTP, and that no secret is in a log.

use serde_json::{Value, json};

use crate::scene::{POINT, Scene, VMS};

#[test]
fn each_request_that_is_due_has_a_line_and_no_secret_is_in_it() {
    let Some(mut scene) = Scene::of_guest() else {
        return;
    };
    scene.start(&["-v"]);
    let token = scene.token("laptop", "read,restore,ingest,manage,admin", "*");
    let reader = scene.token("reader", "read", "web*");
    let disk = format!("{POINT}/disks/vda");
    let session = format!("{VMS}/web01/sessions/s");
    let ok = |method: &str, path: &str, body: Option<Value>| {
        let request = scene.ask(method, path).token(&token);
        let answer = match body {
            Some(body) => request.json(&body).run(),
            None => request.run(),
        };
        assert!(
            answer.status < 300 && answer.exit == 0,
            "{path}: {answer:?}"
        );
    };
    ok("GET", VMS, None);
    ok("GET", &disk, None);
    ok(
        "GET",
        &format!("{POINT}/content?path=/files/etc/hostname"),
        None,
    );
    ok(
        "GET",
        &format!("{POINT}/archive?path=/files/etc&path=/files/srv/a"),
        None,
    );
    ok("PATCH", POINT, Some(json!({"set": {"a": "b"}})));
    let begin = json!({"disks": [{"name": "vda", "size_bytes": 1 << 20}], "full": true});
    ok("PUT", &session, Some(begin));
    ok("DELETE", &session, None);
    let policy = "/api/v1/repositories/default/policies/p";
    ok(
        "PUT",
        policy,
        Some(json!({"vms": ["*"], "keep": {"last": 3}})),
    );
    ok("DELETE", policy, None);
    scene.get(&disk).token(&reader).expect(403);
    scene
        .get(&disk.replace("web01", "db01"))
        .token(&reader)
        .expect(404);
    scene
        .ask("PUT", &session)
        .token(&reader)
        .json(&json!({}))
        .expect(403);
    scene
        .ask("PATCH", POINT)
        .token(&reader)
        .json(&json!({}))
        .expect(403);
    for body in [json!({"keep": {"last": 1}}), json!({"points": ["one"]})] {
        scene
            .ask("POST", &format!("{VMS}/web01/forget"))
            .token(&reader)
            .json(&body)
            .expect(403);
    }
    let wrong = format!("rfs_{}", "ab".repeat(32));
    scene.get(VMS).token(&wrong).expect(401);

    let acts = scene.acts();
    let find = |caller: &str, operation: &str, outcome: &str, vm: Option<&str>| {
        let is_it = |act: &&Value| {
            act["caller"] == caller
                && act["operation"] == operation
                && act["outcome"] == outcome
                && act["vm"].as_str() == vm
        };
        let found = acts.iter().find(is_it).unwrap_or_else(|| {
            panic!("{caller} {operation} {outcome}: {acts:#?}");
        });
        assert_eq!(found["door"], "http", "{found}");
        assert_eq!(found["peer"], "127.0.0.1", "{found}");
        found["subject"].as_str().unwrap_or_default().to_owned()
    };
    let (laptop, web) = ("token laptop", Some("web01"));
    assert_eq!(find(laptop, "read-disk", "ok", web), "one/vda");
    assert_eq!(
        find(laptop, "read-file", "ok", web),
        "one:/files/etc/hostname"
    );
    let archive = find(laptop, "read-archive", "ok", web);
    assert_eq!(archive, "one:/files/etc /files/srv/a");
    assert!(find(laptop, "label", "ok", web).contains("one"));
    assert_eq!(find(laptop, "begin", "ok", web), "s");
    assert_eq!(find(laptop, "abort", "ok", web), "s");
    find(laptop, "put-policy", "ok", None);
    let denied = "permission-denied";
    find("token reader", "read-disk", denied, web);
    find("token reader", "read-disk", "not-found", Some("db01"));
    find("token reader", "begin", denied, web);
    find("token reader", "label", denied, web);
    let refused = find("token reader", "forget", denied, web);
    assert_eq!(refused, "points by rules");
    let is_forget = |act: &&Value| act["operation"] == "forget";
    assert_eq!(acts.iter().filter(is_forget).count(), 2);
    find("somebody unknown", "login", denied, None);
    // A list hands out no content.
    assert!(!acts.iter().any(|act| act["operation"] == "list"));
    let file = std::fs::read_to_string(scene.place.path("audit.jsonl")).unwrap();
    let access = std::fs::read_to_string(scene.place.path("access.toml")).unwrap();
    for secret in [&token, &reader, &wrong] {
        for (name, text) in [("log", &scene.log()), ("audit", &file), ("access", &access)] {
            assert!(!text.contains(secret.as_str()), "a token is in the {name}");
            assert!(!text.contains(&secret[4..]), "a token is in the {name}");
        }
    }
    assert!(scene.log().contains("audit: read-disk"), "{}", scene.log());
}
