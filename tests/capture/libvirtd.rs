//! A libvirtd of its own: in a mount namespace, with all state below a directory, so that none of the machine is touched. Its domains are
//! paused QEMUs without a guest, whose devices are told to write by the monitor (`qemu-io -d`). A model has what they wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::need::{has_all, is_root};
use crate::kit::place::Place;
use crate::kit::shell::run;
use crate::kit::wait::eventually;

/// What is mounted over the machine's directories, with the place of each.
const MOUNTS: [(&str, &str); 4] = [
    ("etc", "/etc/libvirt"),
    ("var", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("run", "/run/libvirt"),
];

/// No other user, no security driver, no control groups: a container has none of them.
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = \"none\"\n\
    cgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n";

const LIBVIRTD_CONF: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";

/// A libvirtd that runs, with one domain.
pub(crate) struct Libvirtd {
    daemon: Child,
    pub(crate) place: Place,
    /// Disks of the domain by target, with the content that each must have.
    pub(crate) disks: BTreeMap<String, Disk>,
}

/// A disk of the domain.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) file: String,
    pub(crate) format: &'static str,
    pub(crate) serial: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

fn start(state: &Path) -> Child {
    // What libvirt finds out of the installed QEMU takes seconds, and is kept for all tests.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-cache");
    std::fs::create_dir_all(&cache).unwrap();
    let mut script = format!(
        "mkdir -p /var/cache/libvirt && mount --bind '{}' /var/cache/libvirt",
        cache.display()
    );
    for (name, over) in MOUNTS {
        let from = state.join(name);
        script += &format!(
            " && mkdir -p {over} && mount --bind '{}' {over}",
            from.display()
        );
    }
    let log = std::fs::File::create(state.join("libvirtd.out")).unwrap();
    Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c"])
        .arg(script + " && exec libvirtd -p /run/libvirt/libvirtd.pid")
        .env("PATH", path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}

impl Libvirtd {
    /// Starts it, if everything is there.
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let tools = [
            "libvirtd",
            "virsh",
            "qemu-system-x86_64",
            "qemu-img",
            "unshare",
        ];
        if !is_root() || !has_all(&tools) {
            return None;
        }
        let place = Place::new();
        let state = place.path("libvirt");
        for (name, _) in MOUNTS {
            std::fs::create_dir_all(state.join(name)).unwrap();
        }
        std::fs::create_dir_all(state.join("var/qemu")).unwrap();
        std::fs::create_dir_all(state.join("log/qemu")).unwrap();
        std::fs::create_dir_all(place.path("scratch")).unwrap();
        std::fs::write(state.join("etc/qemu.conf"), QEMU_CONF).unwrap();
        std::fs::write(state.join("etc/libvirtd.conf"), LIBVIRTD_CONF).unwrap();
        let mut libvirtd = Self {
            daemon: start(&state),
            place,
            disks: BTreeMap::new(),
        };
        libvirtd.is_ready();
        Some(libvirtd)
    }

    /// One with two disks that the domain has written, and a CD-ROM.
    #[track_caller]
    pub(crate) fn of_two() -> Option<Self> {
        let mut libvirtd = Self::start()?;
        libvirtd.add("vda", "qcow2", 8 << 20);
        libvirtd.add("vdb", "qcow2", 4 << 20);
        libvirtd.define();
        libvirtd.boot();
        libvirtd.write("vda", 1, 0, 3 << 20);
        libvirtd.write("vdb", 2, 1 << 20, 1 << 20);
        Some(libvirtd)
    }

    fn is_ready(&mut self) {
        eventually("libvirtd answers", || {
            self.try_virsh(&["version"]).status.success()
        });
    }

    pub(crate) fn uri(&self) -> String {
        let socket = self.place.path("libvirt/run/libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    }

    pub(crate) fn try_virsh(&self, arguments: &[&str]) -> Output {
        Command::new("virsh")
            .args(["-q", "-c", &self.uri()])
            .args(arguments)
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.try_virsh(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops libvirtd and starts it again; its domains run on.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.daemon = start(&self.place.path("libvirt"));
        self.is_ready();
    }

    /// Stops libvirtd.
    pub(crate) fn stop(&mut self) {
        signal(self.daemon.id(), Signal::TERM);
        self.daemon.wait().unwrap();
    }

    /// Makes an image, which the next [`Libvirtd::define`] gives to the domain.
    pub(crate) fn add(&mut self, target: &str, format: &'static str, size: usize) {
        let file = format!("{target}.{format}");
        let path = self.place.path(&file);
        let _ = std::fs::remove_file(&path);
        let (path, size_text) = (path.to_str().unwrap(), size.to_string());
        run(
            "qemu-img",
            &["create", "-q", "-f", format, path, &size_text],
        );
        let disk = Disk {
            file,
            format,
            serial: None,
            bytes: vec![0; size],
        };
        self.disks.insert(target.to_owned(), disk);
    }

    /// Defines the domain `guest` with the disks.
    pub(crate) fn define(&self) {
        std::fs::write(self.place.path("cd.iso"), [0; 65_536]).unwrap();
        let mut disks = String::new();
        for (target, disk) in &self.disks {
            let path = self.place.path(&disk.file);
            let serial = disk.serial.as_ref();
            let serial = serial.map(|serial| format!("<serial>{serial}</serial>"));
            disks += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{}' discard='unmap'/><source file='{}'/>\
                <target dev='{target}' bus='virtio'/>{}</disk>\n",
                disk.format,
                path.display(),
                serial.unwrap_or_default()
            );
        }
        let xml = format!(
            "<domain type='qemu'><name>guest</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
            <memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
            <on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash><devices>{disks}
            <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>
            <target dev='sda' bus='sata'/><readonly/></disk>
            <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
            <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
            self.place.path("cd.iso").display()
        );
        std::fs::write(self.place.path("domain.xml"), xml).unwrap();
        let path = self.place.path("domain.xml");
        self.virsh(&["define", path.to_str().unwrap()]);
    }

    /// Starts the domain; its processors stand still.
    pub(crate) fn boot(&self) {
        self.virsh(&["start", "guest", "--paused"]);
    }

    pub(crate) fn shut_off(&self) {
        self.virsh(&["destroy", "guest"]);
    }

    /// Kills QEMU, and waits until libvirt knows.
    pub(crate) fn kill_qemu(&self) {
        signal(self.qemu().unwrap(), Signal::KILL);
        eventually("libvirt knows that QEMU is gone", || {
            self.virsh(&["domstate", "guest"]).trim() == "shut off"
        });
    }

    fn qemu(&self) -> Option<u32> {
        let path = self.place.path("libvirt/run/qemu/guest.pid");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Lets the domain write a pattern.
    pub(crate) fn write(&mut self, target: &str, pattern: u8, offset: usize, length: usize) {
        let number = target.bytes().last().unwrap() - b'a';
        let line = format!(
            "qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend \"write -P {pattern} {offset} {length}\""
        );
        let said = self.virsh(&["qemu-monitor-command", "guest", "--hmp", &line]);
        assert_eq!(said.trim(), "");
        let disk = self.disks.get_mut(target).unwrap();
        disk.bytes[offset..offset + length].fill(pattern);
    }

    /// The arguments of a backup of the domain.
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let uri = self.uri();
        let all = [
            "backup",
            "web01",
            "--libvirt",
            "guest",
            "--connect",
            &uri,
            "--scratch",
            "scratch",
        ];
        let all = all.iter().chain(more);
        all.map(|&argument| argument.to_owned()).collect()
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let arguments = self.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.place.command(&arguments)
    }

    /// Makes a backup, and compares what is restored with the model; returns what it said.
    #[track_caller]
    pub(crate) fn backup(&self, point: &str, more: &[&str]) -> String {
        let output = self
            .command(&[&["--point", point], more].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{point}: {said}");
        self.compare(point);
        self.is_clean();
        said
    }

    /// Makes a backup that fails; returns what it said.
    #[track_caller]
    pub(crate) fn refused(&self, more: &[&str]) -> String {
        failed(self.command(more).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn compare(&self, point: &str) {
        let point = format!("web01@{point}");
        for (target, disk) in &self.disks {
            let restored = self.place.restored(&point, target);
            let differs = restored.iter().zip(&disk.bytes).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{point} {target}");
            assert_eq!(restored.len(), disk.bytes.len(), "{point} {target}");
        }
        let info = self.place.json(&["info", &point]);
        assert_eq!(info["disks"].as_array().unwrap().len(), self.disks.len());
    }

    /// Nothing of a backup is left, but at most one checkpoint of each repository.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.place.path("scratch"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.has_job());
        let checkpoints = self.checkpoints();
        let mut owners: Vec<&str> = checkpoints.iter().map(|name| &name[..18]).collect();
        owners.dedup();
        assert_eq!(owners.len(), checkpoints.len(), "{checkpoints:?}");
    }

    pub(crate) fn checkpoints(&self) -> Vec<String> {
        let list = self.virsh(&["checkpoint-list", "guest", "--name"]);
        let names = list.lines().map(str::trim).filter(|name| !name.is_empty());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    pub(crate) fn has_job(&self) -> bool {
        self.try_virsh(&["backup-dumpxml", "guest"])
            .status
            .success()
    }

    /// A backup in the background that takes some seconds; returns when it copies.
    pub(crate) fn slow(&self, point: &str) -> Child {
        let child = self
            .command(&["--point", point, "--limit", "1M"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the job has begun", || self.has_job());
        std::thread::sleep(Duration::from_millis(700));
        child
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.place.path("scratch")
    }
}

/// The end of a backup that fails; returns what it said.
#[track_caller]
pub(crate) fn failed(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let _ = kill_process(process, signal);
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if let Some(qemu) = self.qemu() {
            signal(qemu, Signal::KILL);
        }
        signal(self.daemon.id(), Signal::TERM);
        let _ = self.daemon.wait();
    }
}
