//! Requests by curl, and what came of them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::scene::Scene;

/// A request that is being made.
pub(crate) struct Request<'a> {
    scene: &'a Scene,
    command: Command,
    path: String,
    base: String,
    dir: TempDir,
}

/// What curl has received.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Exit code of curl: 0 for a whole answer, 18 or 92 for a broken one.
    pub(crate) exit: i32,
    /// The status; 0 without an answer.
    pub(crate) status: u16,
    /// The head, in lower case but for the values.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// A request that runs.
pub(crate) struct Running {
    child: Child,
    dir: TempDir,
}

impl<'a> Request<'a> {
    pub(crate) fn new(scene: &'a Scene, method: &str, path: &str) -> Self {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "-g", "--path-as-is", "--max-time", "120"]);
        command.args(["--noproxy", "*"]);
        match method {
            "HEAD" => command.arg("--head"),
            "GET" => &mut command,
            _ => command.args(["-X", method]),
        };
        Self {
            scene,
            command,
            path: path.to_owned(),
            base: scene.base.clone(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// With a token.
    pub(crate) fn token(self, token: &str) -> Self {
        self.header(&format!("Authorization: Bearer {token}"))
    }

    pub(crate) fn header(mut self, line: &str) -> Self {
        self.command.args(["-H", line]);
        self
    }

    /// With arguments of curl.
    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// With a body of JSON.
    pub(crate) fn json(self, body: &Value) -> Self {
        let text = body.to_string();
        self.header("Content-Type: application/json")
            .with(&["--data-binary", &text])
    }

    /// Over the Unix socket.
    pub(crate) fn unix(mut self) -> Self {
        self.command
            .arg("--unix-socket")
            .arg(self.scene.http_socket());
        self.base = "http://localhost".to_owned();
        self
    }

    /// Over TLS, to the same port by the name of the certificate; `files` has `ca-cert.pem`.
    pub(crate) fn tls(mut self, files: &std::path::Path) -> Self {
        self.command.arg("--cacert").arg(files.join("ca-cert.pem"));
        self.base = format!("https://localhost:{}", self.scene.port());
        self
    }

    /// With a client's certificate.
    pub(crate) fn certificate(mut self, files: &std::path::Path) -> Self {
        self.command
            .arg("--cert")
            .arg(files.join("client-cert.pem"))
            .arg("--key")
            .arg(files.join("client-key.pem"));
        self
    }

    /// As another user of this machine with these groups.
    pub(crate) fn by(mut self, user: u32, groups: &str) -> Self {
        let plain = std::mem::replace(&mut self.command, Command::new("setpriv"));
        self.command
            .args(["--reuid", &user.to_string(), "--regid", "65534"])
            .args(["--groups", groups])
            .arg(plain.get_program())
            .args(plain.get_args());
        // That user writes the files of the answer.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(self.dir.path(), open).unwrap();
        self
    }

    /// Begins it.
    pub(crate) fn spawn(mut self) -> Running {
        let child = self
            .command
            .arg("-D")
            .arg(self.dir.path().join("head"))
            .arg("-o")
            .arg(self.dir.path().join("body"))
            .args(["-w", "%{http_code}"])
            .arg(format!("{}{}", self.base, self.path))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            child,
            dir: self.dir,
        }
    }

    /// Does it.
    pub(crate) fn run(self) -> Answer {
        self.spawn().end()
    }

    /// Does it, and expects this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Answer {
        let (what, scene) = (self.path.clone(), self.scene);
        let answer = self.run();
        assert!(
            answer.status == status && answer.exit == 0,
            "{what}: curl {}, {} instead of {status}: {}{}\n{}",
            answer.exit,
            answer.status,
            answer.head,
            answer.text(),
            scene.log()
        );
        answer
    }

    /// Does it, expects this status, and returns the JSON.
    #[track_caller]
    pub(crate) fn value(self, status: u16) -> Value {
        self.expect(status).value()
    }
}

impl Running {
    /// What has been received so far.
    pub(crate) fn body(&self) -> PathBuf {
        self.dir.path().join("body")
    }

    pub(crate) fn received_bytes(&self) -> u64 {
        std::fs::metadata(self.body()).map_or(0, |meta| meta.len())
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Answer {
        let output = self.child.wait_with_output().unwrap();
        let read = |name| std::fs::read(self.dir.path().join(name)).unwrap_or_default();
        let head = String::from_utf8_lossy(&read("head")).into_owned();
        let lines = head.lines().map(|line| match line.split_once(':') {
            Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
            None => format!("{line}\n"),
        });
        Answer {
            exit: output.status.code().unwrap_or(-1),
            status: String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0),
            head: lines.collect(),
            body: read("body"),
        }
    }

    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(known, _)| *known == name)?;
        Some(value.trim())
    }
}
