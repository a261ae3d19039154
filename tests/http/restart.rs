//! A daemon that ends and comes back under its clients, and sockets that a service manager holds for it.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kit::need::{free_port, has, has_all};
use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::scene::{Scene, VMS};

const DISK: &str = "/api/v1/repositories/default/vms/web01/points/one/disks/vda";
/// Clients that ask in a loop while the daemon is started anew.
const CLIENTS: usize = 20;
/// LIMIT: how long the daemon may take to end: its patience with requests, and what it closes.
const STOP_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_download_that_the_end_of_the_daemon_cuts_is_no_success() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    let source = noise(5, 64 << 20);
    std::fs::write(scene.place.path("large.raw"), &source).unwrap();
    scene.back_up("big01", "large.raw", "one");
    scene.start(&[]);
    let token = scene.token("laptop", "read,restore", "*");
    let path = DISK.replace("web01", "big01");
    let running = scene
        .get(&path)
        .token(&token)
        .with(&["--limit-rate", "2M", "-N"])
        .spawn();
    eventually("the first MiB", || running.received_bytes() > 1 << 20);
    let events = scene
        .get("/api/v1/events")
        .token(&token)
        .with(&["-N"])
        .spawn();
    eventually("events", || events.received_bytes() > 0);
    let begun = Instant::now();
    assert!(scene.stop().success(), "{}", scene.log());
    assert!(begun.elapsed() < STOP_MAX, "{:?}", begun.elapsed());
    let answer = running.end();
    assert_eq!((answer.status, answer.exit), (200, 18));
    assert!(answer.body.len() < source.len() && answer.body == source[..answer.body.len()]);
    events.kill();
    scene.start(&[]);
    assert!(scene.get(&path).token(&token).expect(200).body == source);
}

#[test]
fn clients_get_the_right_content_or_none_while_the_daemon_restarts() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    scene.start(&["--http", &address]);
    let tokens: Vec<String> = (0..CLIENTS)
        .map(|n| scene.token(&format!("t{n}"), "read,restore", "*"))
        .collect();
    let source = std::fs::read(scene.place.path("a.raw")).unwrap();
    let end = AtomicBool::new(false);
    let (whole, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let base = scene.base.clone();
    std::thread::scope(|scope| {
        for token in &tokens {
            let (base, source, end) = (&base, &source, &end);
            let (whole, failed) = (&whole, &failed);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let output = Command::new("curl")
                        .args([
                            "-q",
                            "-sS",
                            "-f",
                            "--max-time",
                            "20",
                            "--noproxy",
                            "*",
                            "-H",
                        ])
                        .arg(format!("Authorization: Bearer {token}"))
                        .arg(format!("{base}{DISK}"))
                        .output()
                        .unwrap();
                    match output.status.code() {
                        Some(0) => {
                            assert!(output.stdout == *source, "{} bytes", output.stdout.len());
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        // 7 no daemon, 18 and 56 a broken answer, 22 a status: too many downloads, or 52 none.
                        Some(7 | 18 | 22 | 52 | 56) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        other => panic!(
                            "curl {other:?}: {}",
                            String::from_utf8_lossy(&output.stderr)
                        ),
                    }
                }
            });
        }
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
            let before = whole.load(Ordering::Relaxed);
            eventually("clients are served", || {
                whole.load(Ordering::Relaxed) > before + 10
            });
            let begun = Instant::now();
            scene.signal(signal);
            let status = scene.wait();
            assert!(
                status.success() || signal == Signal::KILL,
                "{status} {}",
                scene.log()
            );
            assert!(begun.elapsed() < STOP_MAX, "{:?}", begun.elapsed());
            scene.start(&["--http", &address]);
        }
        let before = whole.load(Ordering::Relaxed);
        eventually("clients are served", || {
            whole.load(Ordering::Relaxed) > before + 10
        });
        end.store(true, Ordering::Relaxed);
    });
    println!("{whole:?} whole answers, {failed:?} others");
    assert!(scene.stop().success());
    scene.check_layers();
}

/// The daemon below a service manager that listens for it.
fn activated(scene: &Scene, names: &str, sockets: &[&str]) -> Child {
    let config = scene.path_of("config.toml");
    let mut activator = Command::new("systemd-socket-activate");
    for socket in sockets {
        activator.args(["--listen", socket]);
    }
    let log = std::fs::File::create(scene.place.path("log")).unwrap();
    activator
        .arg(format!("--fdname={names}"))
        .args(["-E", "RESTOREFS_RUNTIME_DIR", "-E", "RESTOREFS_CONFIG_DIR"])
        .arg(env!("CARGO_BIN_EXE_restorefs"))
        .args(["serve", "--config", &config])
        .env("RESTOREFS_RUNTIME_DIR", scene.place.dir.path())
        .env("RESTOREFS_CONFIG_DIR", scene.place.dir.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn terminate(mut process: Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
}

#[test]
fn sockets_of_a_manager_speak_the_protocol_of_their_name() {
    if !has("systemd-socket-activate") || !has_all(&["nbdinfo"]) {
        return;
    }
    let Some(scene) = Scene::of_disks() else {
        return;
    };
    let config = format!(
        "[[repository]]\npath = \"{}\"\n",
        scene.place.repo().display()
    );
    std::fs::write(scene.place.path("config.toml"), config).unwrap();
    let (http, nbd) = (scene.path_of("http.sock"), scene.path_of("nbd.sock"));
    for (names, sockets) in [("nbd:http", [&nbd, &http]), ("http:nbd", [&http, &nbd])] {
        let process = activated(&scene, names, &sockets.map(String::as_str));
        eventually("the sockets", || scene.http_socket().exists());
        // The first connection starts the daemon, and is served.
        let list = scene.get(VMS).unix().value(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        let uri = format!("nbd+unix:///web01/one/vda?socket={nbd}");
        let size = crate::kit::shell::run("nbdinfo", &["--size", &uri]);
        assert_eq!(size.trim(), (40 * 65_536).to_string());
        terminate(process);
        // They are the manager's: the daemon leaves them.
        for path in [&http, &nbd] {
            std::fs::remove_file(path).unwrap();
        }
    }
}
