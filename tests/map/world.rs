//! A repository, a runtime directory of its own, and the program: nothing here meets another test or an installation.

pub(crate) use crate::kit::shell::{run, text};

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::kit::need::{can_loop, can_mount, has_all};
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use serde_json::Value;

/// Where the partition of [`World::with_guest`] begins, and its size in bytes.
pub(crate) const PART_START: u64 = 1 << 20;
pub(crate) const PART_BYTES: u64 = 16 << 20;

/// A mounted filesystem, unmounted when dropped.
pub(crate) struct Mount(pub(crate) PathBuf);

impl Mount {
    pub(crate) fn new(options: &str, device: &str, path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        run("mount", &["-o", options, device, text(&path)]);
        Self(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A process, killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place for maps. When dropped, everything that it mapped is unmapped, by force where a test has failed.
pub(crate) struct World {
    place: Place,
}

impl std::ops::Deref for World {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

impl World {
    /// An empty repository.
    pub(crate) fn new() -> Self {
        Self {
            place: Place::with_runtime("run"),
        }
    }

    /// One with `web01@one`: `vda` has a partition with ext4 and the file `hello`, and `vdb` has noise of no whole page.
    pub(crate) fn with_guest() -> Self {
        let world = Self::new();
        let (source, image) = (world.path("source"), world.path("a.raw"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("hello"), "hello\n").unwrap();
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(PART_START + PART_BYTES + (1 << 20) + 512)
            .unwrap();
        let size = format!("+{}M", PART_BYTES >> 20);
        run("sgdisk", &["-n", &format!("1:2048:{size}"), text(&image)]);
        let (offset, blocks) = (
            format!("offset={PART_START}"),
            format!("{}k", PART_BYTES >> 10),
        );
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-b",
                "1024",
                "-d",
                text(&source),
                "-E",
                &offset,
                text(&image),
                &blocks,
            ],
        );
        std::fs::write(world.path("b.raw"), noise(7, 150_000)).unwrap();
        world.ok(&[
            "backup",
            "web01",
            "vda=a.raw",
            "vdb=b.raw",
            "--point",
            "one",
        ]);
        world
    }

    /// The directory of maps.
    pub(crate) fn maps(&self) -> PathBuf {
        self.path("run/map")
    }

    /// Maps one disk, answers its device.
    #[track_caller]
    pub(crate) fn map(&self, args: &[&str]) -> String {
        let mut all = vec!["map"];
        all.extend_from_slice(args);
        let device = self.ok(&all).trim().to_owned();
        assert!(device.starts_with("/dev/loop"), "{device}");
        device
    }

    /// What the list says.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["map", "--json"])).unwrap()
    }

    /// The disk as `restore` gives it, filled up to whole sectors.
    pub(crate) fn restored(&self, point: &str, disk: &str) -> Vec<u8> {
        let mut bytes = self.place.restored(point, disk);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// That nothing at all is left of any map.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert!(self.list().is_empty());
        let ours = text(&self.maps()).to_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&ours), "{mounts}");
        let loops = run("losetup", &["-a"]);
        assert!(!loops.contains(&ours), "{loops}");
        let left: Vec<_> = std::fs::read_dir(self.maps())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "lock")
            .collect();
        assert!(left.is_empty(), "{left:?}");
        eventually("the end of the processes", || self.processes().is_empty());
    }

    /// Processes of ours that serve maps.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let ours = text(&self.path("repo")).to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(&ours) && line.contains("--foreground") {
                found.push(pid);
            }
        }
        found
    }

    /// Sends a signal to all processes of maps; one may have ended by itself.
    pub(crate) fn signal_all(&self, signal: rustix::process::Signal) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Whether all threads of the maps' processes have been stopped (proc(5), the state in `stat`).
    pub(crate) fn are_stopped(&self) -> bool {
        let tasks = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let is_stopped = |stat: String| stat.rsplit(") ").next().unwrap().starts_with('T');
        self.processes().into_iter().flat_map(tasks).all(|task| {
            is_stopped(std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap())
        })
    }

    /// Sends a signal to the process of the first map.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.list()[0]["pid"].as_i64().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a test that has failed has mounted was unmounted by its own guard, if that came later.
        let _ = self.command(&["unmap", "--all", "--quiet"]).output();
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.command(&["unmap", "--stale", "--quiet"]).output();
    }
}

/// Bytes of a whole device, not those that the kernel has kept.
pub(crate) fn read_device(device: &str) -> Vec<u8> {
    run("blockdev", &["--flushbufs", device]);
    std::fs::read(device).unwrap()
}

/// Makes devices of the partitions where the kernel knows no partition tables; answers the first.
pub(crate) fn first_partition(device: &str) -> String {
    let partition = format!("{device}p1");
    let name = partition.trim_start_matches("/dev/");
    if !Path::new("/sys/class/block").join(name).exists() {
        run("partx", &["--add", device]);
    }
    eventually("the partition's device", || Path::new(&partition).exists());
    partition
}

/// Whether disks can be mapped here, with these tools.
pub(crate) fn ready(tools: &[&str]) -> bool {
    can_mount() && can_loop() && has_all(tools)
}
