//! Several repositories of one daemon, by the names that they have in the register, from a configuration.

use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::kit::need::has_all;
use crate::kit::wait::eventually;
use crate::scene::Scene;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon with the configuration, and returns it with its first URL.
fn start(scene: &Scene, config: &str) -> (Daemon, String) {
    let path = scene.path_of("config.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = scene.place.command(&["serve", "--config", &path, "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let mut answers = serde_json::Deserializer::from_reader(output).into_iter::<Value>();
    let answer = answers.next().unwrap().unwrap();
    assert_eq!(answer["login"], Value::Null, "a service has no terminal");
    let url = answer["http"][0].as_str().unwrap().to_owned();
    (Daemon(child), url.trim_end_matches('/').to_owned())
}

#[test]
fn repositories_of_one_daemon_are_told_apart_by_their_names() {
    if !has_all(&["curl"]) {
        return;
    }
    let mut scene = Scene::empty();
    let other = scene.path_of("other");
    scene.place.ok(&["init", &other]);
    let own = scene.path_of("repo");
    for (name, path) in [("main", &own), ("offsite", &other)] {
        scene.place.ok(&["repo", "add", name, path]);
    }
    scene.place.disk("a.raw", 4, 1);
    scene.back_up("web01", "a.raw", "one");
    let config = format!(
        "audit = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[[repository]]\nname = \"main\"\n[[repository]]\nname = \"offsite\"\n",
        scene.path_of("audit.jsonl")
    );
    let (_daemon, url) = start(&scene, &config);
    scene.base = url;
    let token = scene.all();
    let list = scene.get("/api/v1/repositories").token(&token).value(200);
    let names: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["main", "offsite"]);
    let vms = |name: &str| {
        let path = format!("/api/v1/repositories/{name}/vms");
        scene.get(&path).token(&token).value(200)["items"].clone()
    };
    assert_eq!(vms("main")[0]["name"], "web01");
    assert_eq!(vms("OFFSITE"), json!([]));
    scene
        .get("/api/v1/repositories/default/vms")
        .token(&token)
        .expect(404);
    let status = scene.get("/api/v1/status").token(&token).value(200);
    assert_eq!(status["items"].as_array().unwrap().len(), 2);
    // The copy arrives in the other repository of the same daemon, and is a job of the first.
    let send = |token: &str| {
        scene
            .ask("POST", "/api/v1/repositories/main/vms/web01/copies")
            .token(token)
            .json(&json!({"to": "offsite"}))
    };
    let own = scene.token("own", "read,manage", "main:*");
    send(&own).expect(404);
    let job = send(&token).value(202);
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let mut done = job;
    eventually("the copy ends", || {
        done = scene.get(&path).token(&token).value(200);
        done["state"] != "running"
    });
    assert_eq!(done["state"], "completed", "{done}");
    assert_eq!(vms("offsite")[0]["name"], "web01");
    // The steps there are noted as what they are: of the same caller, who came the same way.
    for operation in ["begin-arrival", "arrive"] {
        let acts = scene.acts();
        let mut steps = acts.iter();
        let step =
            steps.find(|act| act["operation"] == operation && act["repository"] == "offsite");
        let step = step.unwrap_or_else(|| panic!("{operation}: {acts:#?}"));
        assert_eq!(
            (&step["door"], &step["outcome"]),
            (&json!("http"), &json!("ok"))
        );
        assert_eq!(step["peer"], "127.0.0.1", "{step}");
        assert_eq!(step["caller"], "token all", "{step}");
    }
}
