//! A directory with a repository, and the program run in it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A fresh directory; `init` makes its repository.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    /// Where its processes have sockets and maps.
    runtime: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self::without_repository();
        place.ok(&["init"]);
        place
    }

    pub(crate) fn without_repository() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().to_owned();
        Self { dir, runtime }
    }

    /// The same with a runtime directory of its own below.
    pub(crate) fn with_runtime(name: &str) -> Self {
        let mut place = Self::without_repository();
        place.runtime = place.path(name);
        place.ok(&["init"]);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("RESTOREFS_REPO", self.repo())
            .env("RESTOREFS_RUNTIME_DIR", &self.runtime)
            .env("RESTOREFS_CONFIG_DIR", self.dir.path())
            .env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs the program, expects success, and returns its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{args:?}: {} {said}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Runs the program, expects this exit code, and returns its standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        // A daemon may have logged something before.
        let is_ours = said.lines().any(|line| line.starts_with("restorefs: "));
        assert!(is_ours || said.contains("error:"), "{args:?}: {said}");
        said
    }

    /// Creates a raw disk of `clusters` clusters with content that depends on `seed`; every third
    /// cluster is empty.
    pub(crate) fn disk(&self, name: &str, clusters: usize, seed: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for cluster in 0..clusters {
            let fill = if cluster % 3 == 2 {
                0
            } else {
                (cluster as u8).wrapping_mul(7) ^ seed
            };
            bytes.extend(
                (0..65_536usize).map(|n| if fill == 0 { 0 } else { fill ^ (n >> 9) as u8 }),
            );
        }
        std::fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    pub(crate) fn restored(&self, point: &str, disk: &str) -> Vec<u8> {
        let out = self.path("restored.raw");
        let _ = std::fs::remove_file(&out);
        self.ok(&["restore", point, disk, "restored.raw"]);
        std::fs::read(out).unwrap()
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn serve(&self, more: &[&str]) -> Daemon {
        let socket = self.path("nbd.sock");
        let mut args = vec!["serve", "--json", "--nbd", socket.to_str().unwrap()];
        args.extend_from_slice(more);
        self.started(&args)
    }

    /// Starts the daemon of a configuration and waits until it is ready.
    #[allow(dead_code, reason = "not every test program configures one")]
    pub(crate) fn serve_config(&self, config: &str) -> Daemon {
        self.started(&["serve", "--json", "--config", config])
    }

    fn started(&self, args: &[&str]) -> Daemon {
        let mut child = self
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The daemon prints its status when it is ready.
        let mut line = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line)
            .expect("the daemon did not become ready");
        Daemon {
            child,
            socket: self.path("nbd.sock"),
        }
    }
}

/// A running daemon; dropping it kills the daemon.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Daemon {
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Sends SIGTERM; the daemon must end with exit code 0.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the daemon does not stop"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
