//! The events (SSE): what happens, with ids from which a client goes on.

use serde_json::{Value, json};

use crate::curl::Running;
use crate::kit::wait::eventually;
use crate::scene::{POINT, Scene, VMS};

const EVENTS: &str = "/api/v1/events";
const SESSION: &str = "/api/v1/repositories/default/vms/web01/sessions/s";

/// An event as a client has it.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    kind: String,
    id: String,
    data: Value,
}

/// Follows the events, as a client that has this id.
fn follow(scene: &Scene, token: &str, last: Option<&str>) -> Running {
    let request = scene.get(EVENTS).token(token).with(&["-N"]);
    let running = match last {
        Some(id) => request.header(&format!("Last-Event-ID: {id}")).spawn(),
        None => request.spawn(),
    };
    eventually("the stream begins", || running.received_bytes() > 0);
    running
}

fn text(running: &Running) -> String {
    std::fs::read_to_string(running.body()).unwrap_or_default()
}

/// What has come so far.
fn told(running: &Running) -> Vec<Told> {
    let text = text(running);
    let end = text.rfind("\n\n").unwrap_or(0);
    let mut all = Vec::new();
    for block in text[..end].split("\n\n") {
        let field = |name: &str| {
            let mut lines = block.lines().filter_map(|line| line.split_once(": "));
            lines
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        if let (Some(kind), Some(id), Some(data)) = (field("event"), field("id"), field("data")) {
            let data = serde_json::from_str(&data).unwrap();
            all.push(Told { kind, id, data });
        }
    }
    all
}

fn has(running: &Running, kind: &str, is_it: impl Fn(&Value) -> bool) -> bool {
    told(running)
        .iter()
        .any(|one| one.kind == kind && is_it(&one.data))
}

fn label(scene: &Scene, token: &str, value: &str) {
    let body = json!({"set": {"n": value}});
    scene
        .ask("PATCH", POINT)
        .token(token)
        .json(&body)
        .expect(200);
}

#[test]
fn what_happens_is_told_to_whom_it_concerns() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let all = scene.all();
    let (web, db) = (
        scene.token("web", "read", "web*"),
        scene.token("db", "read", "db*"),
    );
    let (of_all, of_web, of_db) = (
        follow(&scene, &all, None),
        follow(&scene, &web, None),
        follow(&scene, &db, None),
    );
    scene
        .ask("PUT", SESSION)
        .token(&all)
        .json(&json!({}))
        .expect(201);
    let commit = json!({"point": "two", "unchanged": ["vda"]});
    scene
        .ask("POST", &format!("{SESSION}/commit"))
        .token(&all)
        .json(&commit)
        .expect(200);
    for follower in [&of_all, &of_web] {
        for state in ["open", "committed"] {
            eventually(state, || {
                has(follower, "session", |data| {
                    data["vm"] == "web01" && data["session"] == "s" && data["state"] == state
                })
            });
        }
        eventually("the point", || {
            has(follower, "point", |data| {
                data["point"] == "two" && data["is_there"] == true
            })
        });
        eventually("the task", || {
            has(follower, "task", |data| data["task"]["kind"] == "backup")
        });
        assert!(
            told(follower)
                .iter()
                .all(|one| one.data["repository"] == "default")
        );
    }
    let ask = |vm: &str| {
        let path = format!("{VMS}/{vm}/sessions/other");
        scene
            .ask("PUT", &path)
            .token(&all)
            .json(&json!({}))
            .expect(201);
    };
    ask("db01");
    eventually("the other VM", || {
        has(&of_db, "session", |data| data["vm"] == "db01")
    });
    assert!(!text(&of_db).contains("web01"), "{}", text(&of_db));
    assert!(!text(&of_web).contains("db01"), "{}", text(&of_web));
    // The stream of a token that is revoked ends.
    scene.place.ok(&["token", "revoke", "web"]);
    let answer = of_web.end();
    assert_eq!((answer.status, answer.exit), (200, 0));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    of_db.kill();
    of_all.kill();
}

#[test]
fn a_client_goes_on_after_the_event_that_it_has() {
    let Some(mut scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let first = follow(&scene, &token, None);
    let values = ["1", "2", "3", "4", "5", "6"];
    let labels = |running: &Running| {
        told(running)
            .into_iter()
            .filter(|one| one.kind == "point")
            .collect::<Vec<_>>()
    };
    for value in values {
        label(&scene, &token, value);
    }
    eventually("all of them", || labels(&first).len() == values.len());
    let all = labels(&first);
    let mut ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
    ids.dedup();
    assert_eq!(
        ids.len(),
        values.len(),
        "each has an id of its own: {all:?}"
    );
    first.kill();
    // From each id on, the rest comes, and nothing twice.
    for (n, one) in all.iter().enumerate() {
        let next = follow(&scene, &token, Some(&one.id));
        eventually("the rest", || labels(&next).len() == all.len() - n - 1);
        assert_eq!(labels(&next), all[n + 1..]);
        assert!(!has(&next, "reset", |_| true));
        next.kill();
    }
    // A client that has seen nothing but the beginning comes back to there.
    let quiet = follow(&scene, &token, None);
    eventually("an id", || text(&quiet).contains("id: "));
    let start = text(&quiet);
    let start = start
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap();
    quiet.kill();
    label(&scene, &token, "7");
    let back = follow(&scene, &token, Some(start));
    eventually("what was missed", || labels(&back).len() == 1);
    back.kill();
    // An id of nobody, or of a daemon before.
    let last = all.last().unwrap().id.clone();
    for foreign in ["0123456789abcdef-7", "nonsense", "a.b.c"] {
        let lost = follow(&scene, &token, Some(foreign));
        eventually("a reset", || has(&lost, "reset", |_| true));
        lost.kill();
    }
    scene.stop();
    scene.start(&[]);
    let lost = follow(&scene, &token, Some(&last));
    eventually("a reset", || has(&lost, "reset", |_| true));
    lost.kill();
}

#[test]
fn one_repository_is_followed_by_its_name() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    scene
        .get(&format!("{EVENTS}?repository=none"))
        .token(&token)
        .expect(404);
    scene.get(EVENTS).expect(401);
    let request = scene
        .get(&format!("{EVENTS}?repository=default"))
        .token(&token);
    let running = request.with(&["-N"]).spawn();
    eventually("the stream begins", || running.received_bytes() > 0);
    label(&scene, &token, "1");
    eventually("the label", || {
        has(&running, "point", |data| data["vm"] == "web01")
    });
    running.kill();
}
