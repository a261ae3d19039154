//! A directory with a repository, a configuration, and a service manager that listens to its daemon.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use restorefs::nbd::client::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::place::Place;
use crate::kit::wait::eventually;

/// LIMIT: how long anything may take that ends by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// A place for a daemon that runs as a service.
pub(crate) struct House {
    pub(crate) place: Place,
    manager: UnixDatagram,
}

/// A daemon that runs as a service. Killed when dropped.
pub(crate) struct Service {
    child: Child,
}

impl House {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let manager = UnixDatagram::bind(place.path("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { place, manager }
    }

    /// Writes a configuration with one repository: `global` comes first, `of_repository` after its path.
    pub(crate) fn configure(&self, global: &str, of_repository: &str) -> PathBuf {
        let mut text = format!("{global}\n[[repository]]\n");
        writeln!(
            text,
            "path = \"{}\"\n{of_repository}",
            self.place.repo().display()
        )
        .unwrap();
        self.write(&text)
    }

    /// Writes a configuration.
    pub(crate) fn write(&self, text: &str) -> PathBuf {
        let path = self.place.path("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A daemon with this configuration; what it logs goes to the file `log`.
    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let config = self.place.path("config.toml");
        let mut args = vec!["serve", "--config", config.to_str().unwrap()];
        args.extend_from_slice(more);
        let mut command = self.place.command(&args);
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.place.path("log"))
            .unwrap();
        command
            .env("NOTIFY_SOCKET", self.place.path("notify"))
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// Starts it, and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Service {
        self.start_by(self.command(&[]))
    }

    pub(crate) fn start_by(&self, command: Command) -> Service {
        let service = self.spawn(command);
        self.hear("READY=1");
        service
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(&self, mut command: Command) -> Service {
        let child = command.spawn().unwrap();
        Service { child }
    }

    /// The next word of the daemon to its manager.
    pub(crate) fn next(&self) -> String {
        let mut bytes = [0; 4096];
        match self.manager.recv(&mut bytes) {
            Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
            Err(e) => panic!("the daemon says nothing ({e}): {}", self.log()),
        }
    }

    /// Waits until the daemon says this, and answers the whole of what it said.
    pub(crate) fn hear(&self, word: &str) -> String {
        let begun = Instant::now();
        loop {
            let said = self.next();
            if said.contains(word) {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "no {word}: {}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Waits until the log has this.
    pub(crate) fn wait_for_log(&self, text: &str) {
        eventually(text, || self.log().contains(text));
    }

    /// A connection to an export of the daemon's first socket.
    pub(crate) fn try_connect(&self, export: &str) -> restorefs::error::Result<Client> {
        let socket = self.place.path("nbd.sock");
        let uri = format!("nbd+unix:///{export}?socket={}", socket.display());
        Client::connect(&uri.parse().unwrap())
    }

    pub(crate) fn connect(&self, export: &str) -> Client {
        self.try_connect(export).unwrap()
    }
}

/// `[repository.nbd]` with the socket that [`House::connect`] uses, and more.
pub(crate) fn nbd(house: &House, more: &str) -> String {
    let socket = house.place.path("nbd.sock");
    format!(
        "[repository.nbd]\nsockets = [\"{}\"]\n{more}",
        socket.display()
    )
}

impl Service {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM; it must end with exit code 0.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        let status = self.end();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a mount of that source and type whose requests nobody answers; it is dead when the answer is dropped.
pub(crate) fn mount_unanswered(at: &Path, source: &Path, kind: &str) -> File {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::NODEV;
    rustix::mount::mount(source, at, kind, flags, data.as_c_str()).unwrap();
    device
}
