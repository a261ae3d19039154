//! A repository whose tree is mounted by a daemon, to be written.

pub(crate) use crate::kit::shell::{run, text};

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use serde_json::Value;

use crate::kit::need::{can_mount, has_all};
use crate::kit::place::{Daemon, Place};

/// Size of a small disk: no multiple of a cluster.
pub(crate) const DISK_BYTES: usize = (2 << 20) + 512;

/// A mounted, writable tree. Dropping it leaves no mount.
pub(crate) struct Stand {
    pub(crate) place: Place,
    daemon: Option<Daemon>,
}

/// Whether this can be tried here, with these tools.
pub(crate) fn ready(tools: &[&str]) -> bool {
    can_mount() && has_all(tools)
}

/// Bytes that look like nothing else, decided by `seed`; every third cluster is zero.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; length];
    for (cluster, chunk) in bytes.chunks_mut(65_536).enumerate() {
        if cluster % 3 == 2 {
            continue;
        }
        for word in chunk.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let length = word.len();
            word.copy_from_slice(&state.to_le_bytes()[..length]);
        }
    }
    bytes
}

impl Stand {
    pub(crate) fn new(options: &str) -> Self {
        let mut stand = Self {
            place: Place::new(),
            daemon: None,
        };
        std::fs::create_dir(stand.place.path("mnt")).unwrap();
        stand.start(options);
        stand
    }

    /// One with the point `p0` of the VM `vm`, whose disk `vda` is as is answered.
    pub(crate) fn with_point(options: &str) -> (Self, Vec<u8>) {
        let stand = Self::new(options);
        let bytes = pattern(DISK_BYTES, 1);
        std::fs::create_dir(stand.at("vm")).unwrap();
        stand.begin("first");
        std::fs::write(stand.at("vm/first.partial/disks/vda.raw"), &bytes).unwrap();
        stand.commit("first", "p0").unwrap();
        (stand, bytes)
    }

    /// Starts the daemon.
    pub(crate) fn start(&mut self, options: &str) {
        let mnt = self.place.path("mnt");
        let mut args = vec!["--mount", mnt.to_str().unwrap()];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        self.daemon = Some(self.place.serve(&args));
    }

    /// Ends the daemon in good order.
    pub(crate) fn stop(&mut self) {
        self.daemon.take().unwrap().stop();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.place.path("mnt"))
            .output();
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// A path in the mount.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.place.path("mnt").join(path)
    }

    /// A session's disk.
    pub(crate) fn disk(&self, session: &str) -> PathBuf {
        self.at(&format!("vm/{session}.partial/disks/vda.raw"))
    }

    /// Begins a session of `vm`.
    pub(crate) fn begin(&self, session: &str) {
        std::fs::create_dir(self.at(&format!("vm/{session}.partial"))).unwrap();
    }

    /// Renames the session to a point.
    pub(crate) fn commit(&self, session: &str, point: &str) -> Result<(), Errno> {
        rustix::fs::rename(
            self.at(&format!("vm/{session}.partial")),
            self.at(&format!("vm/{point}")),
        )
    }

    pub(crate) fn status(&self, session: &str) -> Value {
        let path = self.at(&format!("vm/{session}.partial/status"));
        let bytes = std::fs::read(path).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn last_error(&self, session: &str) -> String {
        let status = self.status(session);
        status["last_error"].as_str().unwrap_or_default().to_owned()
    }

    /// The first disk of a session in its status.
    pub(crate) fn figure(&self, session: &str, name: &str) -> u64 {
        self.status(session)["disks"][0][name].as_u64().unwrap()
    }

    /// The disk of a committed point.
    pub(crate) fn point(&self, point: &str) -> Vec<u8> {
        std::fs::read(self.at(&format!("vm/{point}/disks/vda.raw"))).unwrap()
    }

    /// The layers of `vm` are clean, and nothing is left of sessions.
    pub(crate) fn check_left(&self, points: usize) {
        let dir = self.place.repo().join("vms/vm/layers");
        let mut names: Vec<String> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(
            names.iter().all(|name| !name.ends_with(".open")),
            "{names:?}"
        );
        let layers = names.iter().filter(|name| name.ends_with(".qcow2"));
        assert_eq!(layers.count(), points, "{names:?}");
        for name in names.iter().filter(|name| name.ends_with(".qcow2")) {
            run(
                "qemu-img",
                &["check", "-q", dir.join(name).to_str().unwrap()],
            );
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.place.path("mnt"))
            .output();
    }
}

/// Says stop when it is dropped, also when something fails.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The errno of an operation that must fail.
#[track_caller]
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}
