//! A daemon that serves HTTP over a repository, and the files beside it.

use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::curl::Request;
use crate::guest;
use crate::kit::need::has_all;
use crate::kit::place::Place;

/// LIMIT: how long a daemon may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(25);
/// Path of the repository's VMs.
pub(crate) const VMS: &str = "/api/v1/repositories/default/vms";
/// Path of the guest's point.
pub(crate) const POINT: &str = "/api/v1/repositories/default/vms/web01/points/one";

/// A place with a daemon. Dropping it kills the daemon.
pub(crate) struct Scene {
    pub(crate) place: Place,
    daemon: Option<Child>,
    /// The first URL: `http://127.0.0.1:4711`.
    pub(crate) base: String,
}

impl Scene {
    /// The points `web01@one` (a guest) and `db01@one`, without a daemon; `None` where a tool is missing.
    pub(crate) fn of_guest() -> Option<Self> {
        if !has_all(&["curl", "mke2fs"]) {
            return None;
        }
        let scene = Self::empty();
        guest::make(&scene.place, "guest.raw");
        scene.back_up("web01", "guest.raw", "one");
        scene.place.disk("a.raw", 4, 1);
        scene.back_up("db01", "a.raw", "one");
        Some(scene)
    }

    /// The points `web01@one` and `db01@one` of small disks; `None` where curl is missing.
    pub(crate) fn of_disks() -> Option<Self> {
        if !has_all(&["curl"]) {
            return None;
        }
        let scene = Self::empty();
        scene.place.disk("a.raw", 40, 1);
        for vm in ["web01", "db01"] {
            scene.back_up(vm, "a.raw", "one");
        }
        Some(scene)
    }

    /// A repository without points.
    pub(crate) fn empty() -> Self {
        Self {
            place: Place::new(),
            daemon: None,
            base: String::new(),
        }
    }

    pub(crate) fn back_up(&self, vm: &str, source: &str, point: &str) {
        let disk = format!("vda={source}");
        self.place.ok(&["backup", vm, &disk, "--point", point]);
    }

    /// The same with its daemon.
    pub(crate) fn started(mut self) -> Self {
        self.start(&[]);
        self
    }

    /// Starts the daemon with more arguments, and waits until it is ready; returns its first answer.
    pub(crate) fn start(&mut self, more: &[&str]) -> Value {
        let paths = ["nbd.sock", "http.sock", "audit.jsonl"].map(|name| self.path_of(name));
        let mut args = vec!["serve", "--json", "--nbd", &paths[0]];
        args.extend(["--http-socket", &paths[1], "--audit", &paths[2]]);
        if !more.contains(&"--http") {
            args.extend(["--http", "127.0.0.1:0"]);
        }
        args.extend(more);
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.place.path("log"))
            .unwrap();
        let mut child = self
            .place
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let mut answers = serde_json::Deserializer::from_reader(output).into_iter();
        let answer: Option<Result<Value, _>> = answers.next();
        let Some(Ok(answer)) = answer else {
            panic!("the daemon did not become ready: {}", self.log());
        };
        self.daemon = Some(child);
        let places = answer["http"].as_array().unwrap();
        let mut urls = places.iter().filter_map(Value::as_str);
        let url = urls.find(|place| place.starts_with("http"));
        self.base = url.unwrap_or_default().trim_end_matches('/').to_owned();
        answer
    }

    /// SIGTERM; returns how the daemon ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the daemon's end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < STOP_PATIENCE, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self.daemon.as_ref().unwrap().id();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// A number of the daemon's `/proc/PID/status`: `Threads`, `VmRSS` (KiB).
    pub(crate) fn figure(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == key).unwrap();
        let digits = value.split_whitespace().next().unwrap();
        digits.parse().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.base.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn path_of(&self, name: &str) -> String {
        self.place.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn http_socket(&self) -> PathBuf {
        self.place.path("http.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// The lines of the audit file.
    pub(crate) fn acts(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.place.path("audit.jsonl")).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Makes a token with these rights on these VMs, and returns it.
    pub(crate) fn token(&self, name: &str, rights: &str, vms: &str) -> String {
        self.token_with(name, rights, vms, &[])
    }

    pub(crate) fn token_with(&self, name: &str, rights: &str, vms: &str, more: &[&str]) -> String {
        let mut args = vec!["token", "add", name, "--rights", rights, "--vms", vms];
        args.extend(more);
        let token = self.place.ok(&args).trim().to_owned();
        assert!(token.starts_with("rfs_"), "{token}");
        token
    }

    /// A token with all rights on all VMs.
    pub(crate) fn all(&self) -> String {
        self.token("all", "read,restore,ingest,manage,admin,metrics", "*")
    }

    /// A request over TCP.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Request<'_> {
        Request::new(self, method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Request<'_> {
        self.ask("GET", path)
    }

    /// Every layer of the repository as `qemu-img check` finds it.
    pub(crate) fn check_layers(&self) {
        let mut count = 0;
        for vm in std::fs::read_dir(self.place.repo().join("vms")).unwrap() {
            let layers = vm.unwrap().path().join("layers");
            for layer in std::fs::read_dir(layers).into_iter().flatten() {
                let path = layer.unwrap().path();
                if path.extension().is_some_and(|e| e == "qcow2") {
                    let path = path.to_str().unwrap();
                    crate::kit::shell::run("qemu-img", &["check", "-q", path]);
                    count += 1;
                }
            }
        }
        assert!(count > 0, "there are no layers");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
