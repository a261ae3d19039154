//! A server and the machine that has the disks, for the tests of `backup --server`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::{free_port, has_all};
use crate::kit::shell::run;
use crate::kit::wait::eventually;
use crate::scene::Scene;

/// A server with HTTPS and NBD over TLS, and the machine that has the disks: a directory with neither a repository nor a configuration.
pub(crate) struct Pair {
    pub(crate) server: Scene,
    pub(crate) flags: Vec<String>,
    pub(crate) tls: PathBuf,
    pub(crate) machine: TempDir,
    pub(crate) authority: Authority,
}

impl Pair {
    /// Both, with a certificate that may write to all VMs; `None` where a tool is missing.
    pub(crate) fn new() -> Option<Self> {
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

    pub(crate) fn restart(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.server.start(&flags);
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.machine.path().join(name).to_str().unwrap().to_owned()
    }

    /// A file on the machine that only its owner may read.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
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
    pub(crate) fn token(&self, name: &str, rights: &str, vms: &str) -> String {
        let token = self.server.token(name, rights, vms);
        self.secret(name, &format!("{token}\n"))
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.server.port())
    }

    /// The program on the machine: nothing of the server's environment is there.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
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

    /// A backup of `web01`, with the client's certificate.
    pub(crate) fn backup(&self, token: &str, more: &[&str]) -> Command {
        self.backup_of("web01", &self.tls, token, more)
    }

    /// A backup with the certificates of a directory.
    pub(crate) fn backup_of(&self, vm: &str, tls: &Path, token: &str, more: &[&str]) -> Command {
        let (url, tls) = (self.url(), tls.to_str().unwrap());
        let mut args = vec!["backup", vm, "--server", &url, "--token-file", token];
        args.extend(["--tls-dir", tls]);
        args.extend(more);
        self.command(&args)
    }

    #[track_caller]
    pub(crate) fn done(&self, token: &str, more: &[&str]) -> (String, String) {
        let output = self.backup(token, more).output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    }

    pub(crate) fn sessions(&self) -> Vec<Value> {
        let answer = self.server.place.json(&["sessions"]);
        answer.as_array().cloned().unwrap_or_default()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        format!("vda={name}")
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that fails with this code, and returns what it says.
#[track_caller]
pub(crate) fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        !said.contains("panicked") && said.contains("restorefs: "),
        "{said}"
    );
    said
}

/// A backup that runs for some seconds, or a server; it is killed in the end.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An NBD server of a disk of 1 MiB, with a bitmap `seven` that has no changes; its socket, and the disk's bytes.
pub(crate) fn with_bitmap(scene: &Scene) -> (Running, String, Vec<u8>) {
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
    pub(crate) fn of(pair: &Pair, token: &str, disk: &str) -> Self {
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
    pub(crate) fn end(mut self) -> Output {
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
