//! The web pages in a real browser, on a real daemon: each page and flow, with a script and without, light and dark, wide and narrow.
//!
//! `flow.mjs` is what is done in the browser; it fails on any error in the console, on any report of the content security policy, on
//! any request that fails, and on what axe-core finds. With `RESTOREFS_BROWSER_SHOTS=DIR` it leaves pictures of the pages there.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod guest;
#[path = "../kit/mod.rs"]
mod kit;
mod module;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize as _;
use serde_json::{Value, json};

use guest::{Guest, MANY, NAMES};
use kit::certificate::{Authority, can_certify};
use kit::need::{has_all, need};
use kit::place::Place;

/// Where Debian has the browser, and where other distributions have it.
const BROWSERS: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/google-chrome-stable",
];

fn browser() -> Option<&'static str> {
    let found = BROWSERS.into_iter().find(|path| Path::new(path).exists());
    need(found.is_some(), "chromium").then_some(found).flatten()
}

/// A daemon that serves pages.
struct Server {
    child: Child,
    /// Its address, and the address of a login.
    answer: Value,
}

impl Server {
    fn start(place: &Place, more: &[&str]) -> Self {
        let socket = place.path("nbd.sock");
        let mut arguments = vec![
            "serve",
            "--json",
            "--nbd",
            socket.to_str().unwrap(),
            "--http",
            "127.0.0.1:0",
        ];
        arguments.extend_from_slice(more);
        let mut child = place
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let said = child.stdout.as_mut().unwrap();
        let answer = Value::deserialize(&mut serde_json::Deserializer::from_reader(said)).unwrap();
        Self { child, answer }
    }

    fn url(&self) -> &str {
        self.answer["http"][0].as_str().unwrap()
    }

    fn login(&self) -> &str {
        self.answer["login"]["url"].as_str().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A repository with three points of a guest, one without a filesystem, a job that has failed, and a VM that has no point.
fn fill(place: &Place) {
    let guest = Guest::new(&place.path("guest"));
    let disk = place.path("vda.raw");
    std::fs::write(place.path("domain.xml"), "<domain/>").unwrap();
    for (point, captured) in [
        ("monday", None),
        ("tuesday", Some(())),
        ("wednesday", Some(())),
    ] {
        if captured.is_some() {
            guest.put(format!("srv/new/{point}").as_bytes(), point.as_bytes());
        }
        if point == "wednesday" {
            guest.remove(b"srv/old");
        }
        guest.disk(&disk);
        place.ok(&[
            "backup",
            "web01",
            "vda=vda.raw",
            "--point",
            point,
            "--attach",
            "domain.xml",
        ]);
    }
    place.ok(&["tag", "web01@monday", "reason=before the move"]);
    place.disk("noise.raw", 32, 7);
    for point in 0..14 {
        place.disk("noise.raw", 32, point);
        place.ok(&[
            "backup",
            "bare",
            "vda=noise.raw",
            "--point",
            &format!("p{point}"),
        ]);
    }
    place.ok(&["forget", "bare@p3", "bare@p4", "--no-merge"]);
    // What no buffer between a daemon and a client that takes nothing can hold.
    let large = std::fs::File::create(place.path("large.raw")).unwrap();
    large.set_len(1 << 30).unwrap();
    place.ok(&["backup", "large", "vda=large.raw", "--point", "only"]);
    place.ok(&["verify", "web01"]);
    place.fails(
        1,
        &[
            "restore",
            "web01@monday",
            "vda",
            "missing/directory/vda.raw",
        ],
    );
}

#[test]
fn pages_work_in_a_browser() {
    let Some(browser) = browser() else { return };
    if !has_all(&["node", "npm", "unzip", "tar", "zstd", "mke2fs", "sfdisk"]) || !can_certify() {
        return;
    }
    let Some(modules) = module::installed() else {
        return;
    };
    let place = Place::new();
    fill(&place);
    let token = |name: &str, rights: &[&str]| {
        let mut arguments = vec!["token", "add", name, "--vms", "*"];
        rights
            .iter()
            .for_each(|right| arguments.extend(["--rights", right]));
        place.json(&arguments)["token"].as_str().unwrap().to_owned()
    };
    let all = token(
        "everything",
        &["read", "restore", "ingest", "manage", "admin"],
    );
    let reader = token("reader", &["read"]);
    let authority = Authority::new();
    let certificates = authority.server();
    let names = NAMES.map(|(name, content)| json!({ "hex": hex(name), "content": hex(content) }));
    let plan = |server: &Server, part: &str| {
        json!({
            "part": part,
            "browser": browser,
            "url": server.url(),
            "login": server.login(),
            "token": all,
            "reader": reader,
            "names": names,
            "many": MANY,
            "downloads": place.path("downloads"),
            "program": env!("CARGO_BIN_EXE_restorefs"),
            "directory": place.dir.path(),
            "shots": std::env::var_os("RESTOREFS_BROWSER_SHOTS").map(PathBuf::from),
        })
    };
    let plain = Server::start(&place, &[]);
    flow(&place, &modules, &plan(&plain, "plain"));
    drop(plain);
    let tls = Server::start(
        &place,
        &["--tls-certificates", certificates.to_str().unwrap()],
    );
    flow(&place, &modules, &plan(&tls, "tls"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a part of the flow in the browser.
#[track_caller]
fn flow(place: &Place, modules: &Path, plan: &Value) {
    let file = place.path("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/flow.mjs");
    let status = Command::new("node")
        .arg(script)
        .arg(&file)
        .env("MODULES", modules)
        .env("HOME", place.dir.path())
        .status()
        .unwrap();
    assert!(
        status.success(),
        "the flow \"{}\" has failed: {status}",
        plan["part"]
    );
    println!("the flow {} is well", plan["part"]);
}
