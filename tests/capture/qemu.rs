//! A QEMU without a guest: it is paused, and its devices are told to write by the monitor (`qemu-io -d`). A model has what they wrote.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::kit::need::need;
use crate::kit::place::Place;
use crate::kit::wait::eventually;

/// A release of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The installed one: 10.0 of bookworm-backports.
    New,
    /// 7.2 of bookworm, unpacked by `tests/capture/unpack`.
    Old,
}

pub(crate) const RELEASES: [Release; 2] = [Release::New, Release::Old];

impl Release {
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::New => "/usr/bin/qemu-system-x86_64".into(),
            Self::Old => {
                let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/qemu-7.2/run");
                std::env::var_os("RESTOREFS_QEMU_7").map_or(unpacked, Into::into)
            }
        }
    }

    /// Whether it is there; 10.0 must be new enough for filters.
    #[track_caller]
    pub(crate) fn is_here(self) -> bool {
        let program = self.program();
        let version = Command::new(&program).arg("--version").output();
        let version = version.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let is_right = match self {
            Self::New => version
                .is_ok_and(|text| text.contains("version 10.") || text.contains("version 11.")),
            Self::Old => version.is_ok_and(|text| text.contains("version 7.2")),
        };
        need(
            is_right,
            &format!("{} (tests/run installs it)", program.display()),
        )
    }
}

/// A disk of the machine, with the content that it must have.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) id: String,
    pub(crate) format: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Further properties of the device.
    pub(crate) device: String,
}

impl Disk {
    pub(crate) fn new(id: &str, format: &'static str, clusters: usize) -> Self {
        Self {
            id: id.to_owned(),
            format,
            bytes: vec![0; clusters << 16],
            device: String::new(),
        }
    }

    fn file(&self) -> String {
        format!("{}.{}", self.id, self.format)
    }
}

/// A running QEMU; dropping it kills it.
pub(crate) struct Qemu {
    child: Child,
    dir: PathBuf,
    release: Release,
    pub(crate) disks: Vec<Disk>,
    /// A second monitor, for the test.
    monitor: Option<(BufReader<UnixStream>, usize)>,
    more: Vec<String>,
}

/// Makes the images of disks.
pub(crate) fn make(place: &Place, disks: &[Disk]) {
    for disk in disks {
        let size = disk.bytes.len().to_string();
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", disk.format, &disk.file(), &size])
            .current_dir(place.dir.path())
            .status();
        assert!(made.unwrap().success());
    }
}

impl Qemu {
    /// Starts a machine with these disks, whose images exist, and further arguments.
    pub(crate) fn start(place: &Place, release: Release, disks: Vec<Disk>, more: &[&str]) -> Self {
        let dir = place.dir.path().to_owned();
        let child = spawn(&dir, release, &disks, more);
        let mut qemu = Self {
            child,
            dir,
            release,
            disks,
            monitor: None,
            more: more.iter().map(|text| (*text).to_owned()).collect(),
        };
        qemu.connect();
        qemu
    }

    /// A machine of two fresh disks: one of QCOW2, one raw.
    pub(crate) fn of_two(place: &Place, release: Release) -> Self {
        let disks = vec![Disk::new("vda", "qcow2", 256), Disk::new("vdb", "raw", 128)];
        make(place, &disks);
        Self::start(place, release, disks, &[])
    }

    fn connect(&mut self) {
        let path = self.dir.join("test.sock");
        let mut found = None;
        eventually("QEMU listens", || {
            found = UnixStream::connect(&path).ok();
            found.is_some()
        });
        let mut reader = BufReader::new(found.unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("QMP"), "{line}");
        self.monitor = Some((reader, 0));
        self.ask("qmp_capabilities", json!({})).unwrap();
    }

    /// Executes a command of the test's own monitor.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let (reader, number) = self.monitor.as_mut().unwrap();
        *number += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": number}).to_string();
        reader.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "QEMU has ended");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if answer["id"] != *number {
                continue;
            }
            return match answer.get("return") {
                Some(value) => Ok(value.clone()),
                None => Err(answer["error"]["desc"].to_string()),
            };
        }
    }

    /// Results of the device's writes so far.
    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.join("qemu.out")).unwrap()
    }

    /// Lets a device do something; returns what QEMU said of it.
    pub(crate) fn device(&mut self, id: &str, line: &str) -> String {
        let before = self.said().len();
        let line = format!("qemu-io -d /machine/peripheral/{id}/virtio-backend \"{line}\"");
        let told = self
            .ask("human-monitor-command", json!({"command-line": line}))
            .unwrap();
        assert_eq!(told.as_str().unwrap(), "", "{line}");
        let mut said = String::new();
        eventually("the device has done it", || {
            said = self.said().get(before..).unwrap().to_owned();
            said.contains('\n')
        });
        said
    }

    /// Lets a device write a pattern, and notes it in the model.
    pub(crate) fn write(&mut self, id: &str, pattern: u8, offset: usize, length: usize) {
        let said = self.device(id, &format!("write -P {pattern} {offset} {length}"));
        assert!(said.contains(&format!("wrote {length}/{length}")), "{said}");
        let disk = self.disks.iter_mut().find(|disk| disk.id == id).unwrap();
        disk.bytes[offset..offset + length].fill(pattern);
    }

    /// Lets a device write zeroes without data.
    pub(crate) fn zero(&mut self, id: &str, offset: usize, length: usize) {
        let said = self.device(id, &format!("write -z {offset} {length}"));
        assert!(said.contains(&format!("wrote {length}/{length}")), "{said}");
        let disk = self.disks.iter_mut().find(|disk| disk.id == id).unwrap();
        disk.bytes[offset..offset + length].fill(0);
    }

    pub(crate) fn socket(&self) -> String {
        self.dir.join("qmp.sock").display().to_string()
    }

    /// Ends QEMU in order, which stores its bitmaps.
    pub(crate) fn quit(&mut self) {
        self.ask("quit", json!({})).unwrap();
        self.child.wait().unwrap();
    }

    /// Ends QEMU at once, after the devices have flushed what they wrote.
    pub(crate) fn kill(&mut self) {
        for id in self
            .disks
            .iter()
            .map(|disk| disk.id.clone())
            .collect::<Vec<_>>()
        {
            let line = format!("qemu-io -d /machine/peripheral/{id}/virtio-backend flush");
            self.ask("human-monitor-command", json!({"command-line": line}))
                .unwrap();
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after its end.
    pub(crate) fn again(&mut self) {
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        self.child = spawn(&self.dir, self.release, &self.disks, &more);
        self.connect();
    }

    /// Names of what is ours in QEMU: nodes, exports, jobs, and bitmaps.
    pub(crate) fn ours(&mut self) -> Vec<String> {
        let nodes = self
            .ask("query-named-block-nodes", json!({"flat": true}))
            .unwrap();
        let exports = self.ask("query-block-exports", json!({})).unwrap();
        let jobs = self.ask("query-jobs", json!({})).unwrap();
        let mut names = Vec::new();
        let mut note = |name: &Value| {
            let name = name.as_str().unwrap_or_default();
            if name.starts_with("rfs-") || name.starts_with("restorefs-") {
                names.push(name.to_owned());
            }
        };
        for node in nodes.as_array().unwrap() {
            note(&node["node-name"]);
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                note(&bitmap["name"]);
            }
        }
        exports
            .as_array()
            .unwrap()
            .iter()
            .for_each(|one| note(&one["id"]));
        jobs.as_array()
            .unwrap()
            .iter()
            .for_each(|one| note(&one["id"]));
        names
    }

    /// Nothing of ours is left but the bitmap of the last point, on each disk that is written; no NBD server runs.
    #[track_caller]
    pub(crate) fn is_clean(&mut self, bitmaps: usize) {
        let ours = self.ours();
        assert_eq!(ours.len(), bitmaps, "{ours:?}");
        let same = ours.iter().all(|name| name == &ours[0]);
        assert!(
            same && ours.iter().all(|name| name.starts_with("restorefs-")),
            "{ours:?}"
        );
        let stopped = self.ask("nbd-server-stop", json!({}));
        assert!(stopped.is_err(), "an NBD server runs");
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, release: Release, disks: &[Disk], more: &[&str]) -> Child {
    let socket = |name: &str| format!("unix:{},server=on,wait=off", dir.join(name).display());
    let mut command = Command::new(release.program());
    command
        .args([
            "-M",
            "q35",
            "-m",
            "64",
            "-display",
            "none",
            "-nodefaults",
            "-S",
        ])
        .args(["-qmp", &socket("qmp.sock"), "-qmp", &socket("test.sock")]);
    for disk in disks {
        let (id, file) = (&disk.id, dir.join(disk.file()));
        command
            .arg("-blockdev")
            .arg(format!(
                "driver={},node-name=node-{id},discard=unmap,file.driver=file,file.filename={}",
                disk.format,
                file.display()
            ))
            .arg("-device")
            .arg(format!(
                "virtio-blk-pci,drive=node-{id},id={id}{}",
                disk.device
            ));
    }
    let out = std::fs::File::create(dir.join("qemu.out")).unwrap();
    let log = out.try_clone().unwrap();
    command
        .args(more)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Compares every disk of a point with the model.
#[track_caller]
pub(crate) fn compare(place: &Place, point: &str, disks: &[Disk]) {
    for disk in disks {
        let restored = place.restored(point, &disk.id);
        assert_eq!(restored.len(), disk.bytes.len(), "{point} {}", disk.id);
        let differs = restored.iter().zip(&disk.bytes).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{point} {}", disk.id);
    }
}
