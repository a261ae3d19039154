//! Requests that schemathesis makes from the served description of the API, and the description itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::need::need;
use crate::scene::Scene;

/// Requests of each kind for each operation; more by this variable.
const EXAMPLES: &str = "RESTOREFS_SCHEMATHESIS";
const EXAMPLES_DEFAULT: &str = "4";

/// The program: in the directory into which `tests/run` installs it, or anywhere.
fn program() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let own = own.join("schemathesis/bin/schemathesis");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut others = std::env::split_paths(&path).map(|dir| dir.join("schemathesis"));
    let found = match own.exists() {
        true => Some(own),
        false => others.find(|path| path.exists()),
    };
    need(found.is_some(), "schemathesis (tests/run --install-only)").then_some(())?;
    found
}

/// Runs schemathesis with a configuration; it has to find nothing.
fn run(program: &Path, scene: &Scene, config: &str, token: Option<&str>, more: &[&str]) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/http")
        .join(config);
    let examples = std::env::var(EXAMPLES);
    let mut command = Command::new(program);
    command.arg("--config-file").arg(config).arg("run");
    if let Some(token) = token {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    if examples.is_err() {
        command.args(["--seed", "1"]);
    }
    let output = command
        // Events do not end.
        .args([
            "--exclude-operation-id",
            "followEvents",
            "--no-color",
            "--no-shrink",
        ])
        .args([
            "--workers",
            "1",
            "--request-timeout",
            "20",
            "--warnings",
            "off",
        ])
        .args([
            "--max-examples",
            examples.as_deref().unwrap_or(EXAMPLES_DEFAULT),
        ])
        .args(more)
        .arg(format!("{}/api/v1/openapi.json", scene.base))
        .current_dir(scene.place.dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        scene.log()
    );
    let tested = text.lines().find(|line| line.contains("Tested:")).unwrap();
    let count: usize = tested.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 36, "{tested}");
    assert!(!scene.log().contains("panicked"), "{}", scene.log());
}

#[test]
fn a_caller_with_all_rights_breaks_nothing() {
    let Some(program) = program() else {
        return;
    };
    let Some(mut scene) = Scene::of_guest().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    // Failed authentications keep the address out, as they should: those checks are in the other test.
    let more = [
        "--exclude-checks",
        "ignored_auth",
        "--phases",
        "examples,coverage,fuzzing,stateful",
    ];
    run(&program, &scene, "schemathesis.toml", Some(&token), &more);
    scene.get("/api/v1/status").token(&token).expect(200);
    assert!(scene.stop().success(), "{}", scene.log());
    scene.check_layers();
    scene.place.ok(&["check"]);
}

#[test]
fn a_stranger_gets_nothing_but_a_refusal() {
    let Some(program) = program() else {
        return;
    };
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let more = ["--phases", "examples,coverage,fuzzing"];
    run(&program, &scene, "schemathesis-stranger.toml", None, &more);
    let acts = scene.acts();
    assert!(acts.iter().all(|act| act["outcome"] != "ok"), "{acts:#?}");
}

#[test]
fn the_description_is_the_same_wherever_it_comes_from() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let printed = scene.place.ok(&["openapi"]);
    // It is no secret: who writes a client needs no token for it.
    let served = scene.get("/api/v1/openapi.json").expect(200);
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(served.text(), printed);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/openapi.json");
    assert_eq!(std::fs::read_to_string(committed).unwrap(), printed);
    scene.ask("POST", "/api/v1/openapi.json").expect(403);
}
