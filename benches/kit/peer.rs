//! Peers: programs that run beside us, each ended when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// How long a peer may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program, and what it has mounted.
pub(crate) struct Peer {
    child: Child,
    mountpoint: Option<PathBuf>,
}

impl Peer {
    /// Starts a program and waits until `ready` says so.
    pub(crate) fn start(
        command: &mut Command,
        mountpoint: Option<&Path>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Self> {
        let name = format!("{:?}", command.get_program());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{name}: {e}"))?;
        let mut peer = Self {
            child,
            mountpoint: mountpoint.map(Path::to_owned),
        };
        let begin = Instant::now();
        while !ready() {
            if let Some(status) = peer.child.try_wait()? {
                return Err(format!("{name} ended: {status}").into());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{name} does not come up").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(peer)
    }
}

impl Peer {
    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mountpoint) = &self.mountpoint {
            let _ = Command::new("fusermount3")
                .args(["-u", "-q", "-z"])
                .arg(mountpoint)
                .status();
        }
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; its time in seconds. What it says is shown when it fails.
pub(crate) fn timed(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let seconds = begin.elapsed().as_secs_f64();
    if output.status.success() {
        return Ok(seconds);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, said.trim()).into())
}

/// `restorefs` as this bench was built with.
pub(crate) fn restorefs(repository: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
    command.arg("--repo").arg(repository).arg("--quiet");
    command
}

/// `nbd+unix://` for a socket.
pub(crate) fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// `qemu-nbd` on a file.
pub(crate) fn qemu_nbd(socket: &Path, format: &str, read_only: bool, file: &Path) -> Result<Peer> {
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--shared=8", "-f", format, "-k"]);
    command.arg(socket);
    if read_only {
        command.arg("-r");
    }
    Peer::start(command.arg(file), None, || socket.exists())
}

/// `nbdkit` with a plugin's arguments.
pub(crate) fn nbdkit(socket: &Path, arguments: &[String]) -> Result<Peer> {
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--unix"]).arg(socket);
    Peer::start(command.args(arguments), None, || socket.exists())
}

/// Whether something is mounted on a file or directory.
pub(crate) fn is_mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == path.to_str())
    })
}
