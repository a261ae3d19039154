//! Other programs that tests run: QEMU's, and loop devices.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kit::place::Place;

/// A program in the place's directory.
pub(crate) fn command(place: &Place, program: &str, args: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(place.dir.path())
        .env("PATH", path);
    command
}

/// Runs a program, expects success, answers standard output.
pub(crate) fn ok(place: &Place, program: &str, args: &[&str]) -> String {
    let output = command(place, program, args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a QCOW2 image; `arguments` are those of `qemu-img create` after the format, with a space between.
pub(crate) fn create(place: &Place, arguments: &str) {
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    args.extend(arguments.split(' '));
    ok(place, "qemu-img", &args);
}

/// A loop device, detached when dropped.
pub(crate) struct Loop {
    pub(crate) device: String,
}

impl Loop {
    pub(crate) fn attach(place: &Place, file: &str, options: &[&str]) -> Self {
        let mut args = options.to_vec();
        args.extend_from_slice(&["-f", "--show", file]);
        let device = ok(place, "losetup", &args).trim().to_owned();
        Self { device }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// A mount, taken away when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn at(place: &Place, device: &str, name: &str, options: &str) -> Self {
        let path = place.path(name);
        std::fs::create_dir_all(&path).unwrap();
        ok(
            place,
            "mount",
            &["-o", options, device, path.to_str().unwrap()],
        );
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// `qemu-nbd` with an image open: for writing unless told otherwise, as a running machine has it.
pub(crate) struct QemuNbd {
    child: Child,
    pub(crate) uri: String,
}

impl QemuNbd {
    pub(crate) fn start(place: &Place, format: &str, file: &str, more: &[&str]) -> Self {
        let socket = place.path(&format!("s-{}", uuid::Uuid::new_v4().simple()));
        let mut args = more.to_vec();
        let path = socket.to_str().unwrap();
        args.extend_from_slice(&["-t", "-e", "8", "-f", format, "--socket", path, file]);
        let child = command(place, "qemu-nbd", &args)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "qemu-nbd does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        // It listens before it has opened the image, and greets after.
        let mut greeting = [0; 8];
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGIC");
        Self {
            child,
            uri: format!("nbd+unix:///?socket={path}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
