//! What is about a repository as a whole: its trash, its catalog, and which policy a VM has.

use serde_json::{Value, json};

use crate::scene::{POINT, Scene, VMS};

const REPOSITORY: &str = "/api/v1/repositories/default";

#[test]
fn the_trash_is_listed_and_the_catalog_rebuilt_for_whom_all_of_it_is() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let (all, some) = (scene.all(), scene.token("some", "read,manage", "web*"));
    let trash = format!("{REPOSITORY}/trash");
    let kinds = || {
        let list = scene.get(&trash).token(&all).value(200);
        let items = list["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|one| one["kind"].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(kinds(), Vec::<Value>::new());
    scene.ask("DELETE", POINT).token(&all).expect(204);
    assert!(kinds().contains(&json!("point")));
    scene.get(&trash).token(&some).expect(403);
    let rebuild = format!("{REPOSITORY}/rebuild-catalog");
    scene.ask("POST", &rebuild).token(&some).expect(403);
    let rebuilt = scene.ask("POST", &rebuild).token(&all).value(200);
    assert_eq!(rebuilt, json!({"vms": 2}));
}

#[test]
fn a_vm_gets_a_policy_of_its_own() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let all = scene.all();
    let policy = format!("{REPOSITORY}/policies/nightly");
    let terms = json!({"vms": ["db*"], "keep": {"last": 3}});
    scene
        .ask("PUT", &policy)
        .token(&all)
        .json(&terms)
        .expect(201);
    let own = format!("{VMS}/web01/policy");
    let assign = |to: Value, token: &str| {
        let body = json!({"policy": to});
        scene.ask("PUT", &own).token(token).json(&body)
    };
    let manager = scene.token("manager", "read,manage", "*");
    assign(json!("nightly"), &manager).expect(403);
    assign(json!("weekly"), &all).expect(404);
    assign(json!("nightly"), &all).expect(204);
    let own_policy = || {
        let path = scene.place.repo().join("vms/web01/vm.json");
        let vm: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        vm["policy"].clone()
    };
    assert_eq!(own_policy(), "nightly");
    assign(Value::Null, &all).expect(204);
    assert_eq!(own_policy(), Value::Null);
}
