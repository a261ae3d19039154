//! Programs that tests work with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs a program, which must succeed, and returns what it wrote.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(tool: &str, arguments: &[S]) -> String {
    let output = attempt(tool, arguments);
    assert!(
        output.status.success(),
        "{tool} {:?}: {}{}",
        arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end, whatever that is. It is ended after two minutes.
pub(crate) fn attempt<S: AsRef<std::ffi::OsStr>>(tool: &str, arguments: &[S]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(tool).args(arguments);
    command.output().unwrap()
}

/// A server that runs in the foreground until it is dropped.
pub(crate) struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts one; `arguments` gets the socket's path.
    pub(crate) fn start(tool: &str, arguments: impl FnOnce(&str) -> Vec<String>) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("s");
        let child = Command::new(tool)
            .args(arguments(socket.to_str().unwrap()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, dir };
        wait_for(&server.socket());
        server
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The URI of an export.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < deadline, "{socket:?} does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
