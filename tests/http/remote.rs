//! `backup --server`: the repository is on another host, reached by its daemon over HTTPS and NBD with TLS.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use restorefs::error::ErrorKind;
use restorefs::http::client::Remote;
use restorefs::service::backup::desk::Desk;
use restorefs::service::{BeginRequest, DiskRequest};
use restorefs::types::{DiskName, RepositoryName, SessionRef, VmName};

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::{free_port, has_all};
use crate::kit::noise::noise;
use crate::kit::shell::run;
use crate::kit::wait::eventually;
use crate::scene::{Scene, VMS};

/// A server with HTTPS and NBD over TLS, and the machine that has the disks: a directory with neither a repository nor a configuration.
struct Pair {
    server: Scene,
    flags: Vec<String>,
    tls: PathBuf,
    machine: TempDir,
    authority: Authority,
}

impl Pair {
    /// Both, with a certificate that may write to all VMs; `None` where a tool is missing.
    fn new() -> Option<Self> {
        if !has_all(&["curl", "qemu-img", "qemu-nbd"]) || !can_certify() {
            return None;
        }
        let authority = Authority::new();
        let (certificates, tls) = (authority.server(), authority.client("agent1"));
        let mut server = Scene::empty();
        let table = "[[access]]\ncertificate = \"agent1\"\nvms = [\"*\"]\nrights = [\"read\", \"ingest\"]\n";
        std::fs::write(server.place.path("access.toml"), table).unwrap();
        let flags = [
            "--tls-certificates".to_owned(),
            certificates.to_str().unwrap().to_owned(),
            "--http".to_owned(),
            format!("0.0.0.0:{}", free_port()),
            "--nbd-listen".to_owned(),
            format!("127.0.0.1:{}", free_port()),
        ];
        let machine = tempfile::tempdir().unwrap();
        let flags = flags.to_vec();
        server.start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        Some(Self {
            server,
            flags,
            tls,
            machine,
            authority,
        })
    }

    fn restart(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.server.start(&flags);
    }

    fn path(&self, name: &str) -> String {
        self.machine.path().join(name).to_str().unwrap().to_owned()
    }

    /// A file on the machine that only its owner may read.
    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let mut options = std::fs::File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }

    /// A token with these rights, in a file of the machine.
    fn token(&self, name: &str, rights: &str, vms: &str) -> String {
        let token = self.server.token(name, rights, vms);
        self.secret(name, &format!("{token}\n"))
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.server.port())
    }

    /// The program on the machine: nothing of the server's environment is there.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
        command
            .args(args)
            .current_dir(self.machine.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.machine.path())
            .env("RESTOREFS_RUNTIME_DIR", self.machine.path())
            .env("RESTOREFS_CONFIG_DIR", self.machine.path());
        command
    }

    fn backup(&self, token: &str, more: &[&str]) -> Command {
        let url = self.url();
        let tls = self.tls.to_str().unwrap();
        let mut args = vec!["backup", "web01", "--server", &url, "--token-file", token];
        args.extend(["--tls-dir", tls]);
        args.extend(more);
        self.command(&args)
    }

    #[track_caller]
    fn done(&self, token: &str, more: &[&str]) -> (String, String) {
        let output = self.backup(token, more).output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    }

    fn sessions(&self) -> Vec<Value> {
        let answer = self.server.place.json(&["sessions"]);
        answer.as_array().cloned().unwrap_or_default()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        format!("vda={name}")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that fails with this code, and returns what it says.
#[track_caller]
fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        !said.contains("panicked") && said.contains("restorefs: "),
        "{said}"
    );
    said
}

#[test]
fn a_backup_from_an_empty_environment_and_a_second_one() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("agent", "read,ingest", "web*");
    let secret = std::fs::read_to_string(&token).unwrap().trim().to_owned();
    let mut bytes = noise(31, 5 << 20);
    bytes[1 << 20..2 << 20].fill(0);
    let disk = pair.write("a.raw", &bytes);
    std::fs::write(pair.path("domain.xml"), "<domain/>").unwrap();
    let more = [
        disk.as_str(),
        "--attach",
        "domain.xml",
        "--point",
        "one",
        "-vvv",
    ];
    let (out, err) = pair.done(&token, &more);
    assert!(out.contains("web01@one committed: full"), "{out}");
    assert!(!err.contains("new VM"), "there is no other VM: {err}");
    // Neither the token nor the session's secret is in a log, here or there.
    assert!(!err.contains(&secret) && !err.contains('~'), "{err}");
    assert!(!pair.server.log().contains(&secret));
    assert!(pair.server.place.restored("web01@one", "vda") == bytes);
    let attached = format!("{VMS}/web01/points/one/attached/domain.xml");
    assert_eq!(
        pair.server.get(&attached).unix().expect(200).body,
        b"<domain/>"
    );
    // The second one stores what has changed, and answers as a local one does.
    bytes[3 << 20..(3 << 20) + 65_536].fill(7);
    pair.write("a.raw", &bytes);
    let (out, err) = pair.done(&token, &[&disk, "--json"]);
    assert!(!err.contains("new VM"), "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&answer["vm"], &answer["point"]["kind"]),
        (&"web01".into(), &"incremental".into())
    );
    assert_eq!(answer["report"]["disks"][0]["name"], "vda");
    assert_eq!(answer["report"]["disks"][0]["stored_bytes"], 65_536);
    assert_eq!(answer["point"]["disks"][0]["changed_bytes"], 65_536);
    assert!(pair.server.place.restored("web01@latest", "vda") == bytes);
    assert!(pair.sessions().is_empty());
    // The history is the server's; the machine has nothing but what it had.
    let jobs = pair.server.place.json(&["jobs", "web01"]);
    let committed = |job: &&Value| job["result"] == "committed";
    assert_eq!(
        jobs.as_array().unwrap().iter().filter(committed).count(),
        2,
        "{jobs}"
    );
    let mut left: Vec<_> = std::fs::read_dir(pair.machine.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["a.raw", "agent", "domain.xml"]);
    let (url, tls) = (pair.url(), pair.tls.to_str().unwrap());
    let near = [
        "backup",
        "web02",
        &disk,
        "--server",
        &url,
        "--token-file",
        &token,
        "--tls-dir",
        tls,
    ];
    let output = pair.command(&near).output().unwrap();
    let told = said(&output);
    assert!(
        output.status.success() && told.contains("web02 is a new VM (there is web01, too)"),
        "{told}"
    );
    pair.server.check_layers();
    pair.server.place.ok(&["check"]);
}

#[test]
fn a_token_that_only_writes_is_enough_and_a_certificate_alone_is_too() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("writer", "ingest", "web01");
    let bytes = noise(32, 1 << 20);
    let disk = pair.write("a.raw", &bytes);
    for point in ["one", "two"] {
        let (out, _) = pair.done(&token, &[&disk, "--point", point]);
        assert!(out.contains(&format!("web01@{point} committed")), "{out}");
    }
    let (url, tls) = (pair.url(), pair.tls.to_str().unwrap());
    let certified = [
        "backup",
        "web01",
        "--server",
        &url,
        "--tls-dir",
        tls,
        &disk,
        "--point",
        "three",
    ];
    let output = pair.command(&certified).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for point in ["one", "two", "three"] {
        assert!(pair.server.place.restored(&format!("web01@{point}"), "vda") == bytes);
    }
    // A dry run reads the latest point, and changes nothing.
    let (_, err) = pair.done(&token, &[&disk, "--dry-run"]);
    assert!(err.contains("the right read"), "{err}");
    let reader = pair.token("reader", "read,ingest", "*");
    pair.done(
        &token,
        &[&disk, "--point", "four", "--change-id", "vda=seven"],
    );
    let (_qemu, socket, _) = with_bitmap(&pair.server);
    let pulled = format!("vda=nbd+unix:///vda?socket={socket}");
    let more = [
        "--pull",
        &pulled,
        "--bitmap",
        "vda=seven",
        "--dry-run",
        "--json",
    ];
    let (out, err) = pair.done(&reader, &more);
    let planned: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(planned["disks"][0]["size_bytes"], 1 << 20);
    assert_eq!(planned["disks"][0]["bitmap"], "seven");
    assert!(!err.contains("the right read"), "{err}");
    assert!(pair.sessions().is_empty());
}

#[test]
fn the_socket_of_this_machine_needs_neither_a_token_nor_certificates() {
    if !has_all(&["curl"]) {
        return;
    }
    let scene = Scene::empty().started();
    let bytes = scene.place.disk("a.raw", 20, 3);
    let server = format!("unix:{}", scene.path_of("http.sock"));
    let args = ["backup", "web01", "vda=a.raw", "--server", &server];
    let run = |repo: Option<&str>, more: &[&str]| {
        let mut command = scene.place.command(&[&args[..], more].concat());
        match repo {
            Some(repo) => command.env("RESTOREFS_REPO", repo),
            None => command.env_remove("RESTOREFS_REPO"),
        };
        command
    };
    let output = run(None, &[]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(scene.place.restored("web01@latest", "vda") == bytes);
    // A directory in the environment is no name of the server's: that is told.
    let output = run(Some("/srv/other"), &[]).output().unwrap();
    let told = said(&output);
    assert!(
        output.status.success() && told.contains("/srv/other"),
        "{told}"
    );
    let told = fails(run(None, &["--repo", "/srv/other"]), 2);
    assert!(told.contains("not a directory"), "{told}");
    let told = fails(run(Some("other"), &[]), 1);
    assert!(told.contains("other"), "{told}");
    // Loopback without TLS has a token all the same.
    let token = scene.path_of("token");
    std::fs::write(&token, scene.token("agent", "ingest", "web01")).unwrap();
    let args = ["backup", "web01", "vda=a.raw", "--server", &scene.base];
    let told = fails(scene.place.command(&args), 1);
    assert!(
        told.contains("does not know who asks") && told.contains("--token-file"),
        "{told}"
    );
    let more = ["--token-file", &token, "--repo", "default"];
    let output = scene
        .place
        .command(&[&args[..], &more].concat())
        .output()
        .unwrap();
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("other users may read the token"), "{told}");
}

#[test]
fn each_mistake_has_an_error_of_its_own() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let disk = pair.write("a.raw", &noise(33, 1 << 20));
    let token = pair.token("agent", "ingest", "web*");
    let unknown = pair.secret("unknown", &format!("rfs_{}", "A".repeat(43)));
    let said = fails(pair.backup(&unknown, &[&disk]), 1);
    assert!(
        said.contains("does not know the token") && !said.contains("rfs_"),
        "{said}"
    );
    let reader = pair.token("reader", "read", "*");
    let said = fails(pair.backup(&reader, &[&disk]), 1);
    assert!(
        said.contains("the right \"ingest\" on web01 is missing"),
        "{said}"
    );
    let other = pair.token("other", "ingest", "db*");
    let said = fails(pair.backup(&other, &[&disk]), 1);
    assert!(said.contains("there is no VM web01"), "{said}");
    let said = fails(pair.backup(&token, &[&disk, "--repo", "offsite"]), 1);
    assert!(said.contains("offsite"), "{said}");
    let said = fails(pair.backup(&pair.path("none"), &[&disk]), 1);
    assert!(said.contains("cannot read the token"), "{said}");
    let empty = pair.secret("empty", "\n");
    let said = fails(pair.backup(&empty, &[&disk]), 2);
    assert!(said.contains("one token and nothing else"), "{said}");
    // Another authority than the server's, a client's certificate of another authority, no authority.
    let (stranger, url) = (Authority::new(), pair.url());
    let with = |tls: &std::path::Path| {
        let args = [
            "backup",
            "web01",
            &disk,
            "--server",
            &url,
            "--token-file",
            &token,
            "--tls-dir",
            tls.to_str().unwrap(),
        ];
        pair.command(&args)
    };
    let begun = Instant::now();
    let said = fails(with(&stranger.client("agent1")), 1);
    assert!(
        said.contains("the server's certificate is not accepted") && said.contains("ca-cert.pem"),
        "{said}"
    );
    let foreign = stranger.client("agent1");
    std::fs::copy(pair.tls.join("ca-cert.pem"), foreign.join("ca-cert.pem")).unwrap();
    let said = fails(with(&foreign), 1);
    assert!(said.contains("client's certificate"), "{said}");
    let bare = tempfile::tempdir().unwrap();
    let said = fails(with(bare.path()), 1);
    assert!(said.contains("ca-cert.pem"), "{said}");
    // A certificate that the access file does not name gets no export, and its session is ended.
    let nobody = pair.authority.client("nobody");
    let said = fails(with(&nobody), 1);
    assert!(said.contains("right ingest in its access file"), "{said}");
    // The name in the address is not one of the certificate's.
    let args = [
        "backup",
        "web01",
        &disk,
        "--server",
        &url.replace("localhost", "127.0.0.2"),
        "--token-file",
        &token,
        "--tls-dir",
        pair.tls.to_str().unwrap(),
    ];
    let said = fails(pair.command(&args), 1);
    assert!(
        said.contains("the server's certificate is not accepted"),
        "{said}"
    );
    // Nothing listens there.
    let args = [
        "backup",
        "web01",
        &disk,
        "--server",
        &format!("https://localhost:{}", free_port()),
        "--token-file",
        &token,
        "--tls-dir",
        pair.tls.to_str().unwrap(),
    ];
    let said = fails(pair.command(&args), 1);
    assert!(said.contains("cannot be reached"), "{said}");
    for (server, what) in [
        ("http://192.0.2.7:8420", "loopback"),
        ("http://backup01.example", "loopback"),
        ("backup01", "no scheme"),
        ("https://agent:rfs_x@backup01", "no user"),
    ] {
        let said = fails(
            pair.command(&[
                "backup",
                "web01",
                &disk,
                "--server",
                server,
                "--token-file",
                &token,
            ]),
            2,
        );
        assert!(
            said.contains(what) && !said.contains("rfs_"),
            "{server}: {said}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert!(pair.sessions().is_empty());
}

/// Something that answers each connection so.
fn impostor(answer: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            answer(&mut stream);
        }
    });
    url
}

#[test]
fn a_server_that_is_no_restorefs_is_told_from_one() {
    let machine = tempfile::tempdir().unwrap();
    std::fs::write(machine.path().join("a.raw"), noise(34, 1 << 20)).unwrap();
    let text = |text: &'static str| impostor(move |stream| drop(stream.write_all(text.as_bytes())));
    let endless = |head: &'static str, part: &'static [u8]| {
        impostor(move |stream| {
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(part).is_ok() {}
        })
    };
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (url, what) in [
        (text("SSH-2.0-OpenSSH_9.2\r\n"), "no restorefs"),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            "no restorefs",
        ),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
            "no restorefs",
        ),
        (
            text("HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>"),
            "404 Not Found",
        ),
        (
            text(
                "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n",
            ),
            "redirects to https://evil.example/",
        ),
        (
            text(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
            ),
            "redirects to /login",
        ),
        (
            text("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
            "proxy",
        ),
        (text(""), "closed the connection"),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
            "closed the connection",
        ),
        (
            endless(
                Box::leak(format!("{json}\r\n[").into_boxed_str()),
                &[b' '; 65_536],
            ),
            "more than 16777216 bytes",
        ),
        (endless(json, b"X-None: 1\r\n"), "no restorefs"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
        let args = ["backup", "web01", "vda=a.raw", "--server", &url];
        command
            .args(args)
            .current_dir(machine.path())
            .env_remove("RESTOREFS_REPO");
        let begun = Instant::now();
        let said = fails(command, 1);
        assert!(said.contains(what), "{what}: {said}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
}

/// A backup that runs for some seconds, or a server; it is killed in the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An NBD server of a disk of 1 MiB, with a bitmap `seven` that has no changes; its socket, and the disk's bytes.
fn with_bitmap(scene: &Scene) -> (Running, String, Vec<u8>) {
    let bytes = scene.place.disk("bitmap.raw", 16, 3);
    let [raw, image, socket] =
        ["bitmap.raw", "bitmap.qcow2", "bitmap.sock"].map(|name| scene.path_of(name));
    run("qemu-img", &["convert", "-O", "qcow2", &raw, &image]);
    run("qemu-img", &["bitmap", "--add", &image, "seven"]);
    let mut command = Command::new("qemu-nbd");
    command.args([
        "-r", "-t", "-f", "qcow2", "-x", "vda", "-B", "seven", "-k", &socket, &image,
    ]);
    let server = Running(command.spawn().unwrap());
    eventually("qemu-nbd listens", || Path::new(&socket).exists());
    (server, socket, bytes)
}

impl Running {
    fn of(pair: &Pair, token: &str, disk: &str) -> Self {
        let mut command = pair.backup(token, &[disk, "--limit", "4M", "--point", "slow"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Self(command.spawn().unwrap());
        eventually("bytes arrive", || {
            let sessions = pair.sessions();
            let disk = sessions
                .first()
                .map(|one| one["disks"][0]["received_bytes"].clone());
            disk.and_then(|bytes| bytes.as_u64())
                .is_some_and(|bytes| bytes > 1 << 20)
        });
        running
    }

    /// What it says when it has ended.
    fn end(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = self.0.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            out.read_to_end(&mut stdout).unwrap();
            stdout
        });
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_end(&mut stderr)
            .unwrap();
        Output {
            status: self.0.wait().unwrap(),
            stdout: reader.join().unwrap(),
            stderr,
        }
    }
}

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
    let remote = Remote::connect(server.parse().unwrap(), None, "/nowhere".into(), name).unwrap();
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

/// The tracking of a disk told that nothing had changed: the copy wrote nothing, the server took a goodbye after nothing for no
/// statement, and refused the commit.
#[test]
fn a_disk_without_changes_is_finished_too() {
    if !has_all(&["curl", "qemu-img", "qemu-nbd"]) {
        return;
    }
    let scene = Scene::empty().started();
    let (_qemu, socket, bytes) = with_bitmap(&scene);
    let server = format!("unix:{}", scene.path_of("http.sock"));
    let pulled = format!("vda=nbd+unix:///vda?socket={socket}");
    let backup = |more: &[&str]| {
        let args = ["backup", "web01", "--pull", &pulled];
        scene.place.json(&[&args[..], more].concat())
    };
    backup(&["--change-id", "vda=seven", "--point", "one"]);
    for (more, point) in [(&["--server", &server][..], "two"), (&[], "three")] {
        let flags = [
            "--bitmap",
            "vda=seven",
            "--change-id",
            "vda=seven",
            "--point",
            point,
        ];
        let answer = backup(&[&flags, more].concat());
        assert_eq!(answer["report"]["disks"][0]["changed_bytes"], 0, "{answer}");
        assert_eq!(answer["point"]["kind"], "incremental");
        assert!(scene.place.restored(&format!("web01@{point}"), "vda") == bytes);
    }
}
