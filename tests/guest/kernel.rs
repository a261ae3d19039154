//! Programs of this machine, and its kernel's own view of an image.

pub(crate) use crate::kit::shell::{run, text};

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount by the kernel, undone when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a file or a device.
    pub(crate) fn new(what: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        // The loop device that mount(8) chose may be held for a moment: by another test's mount(8), which chose it too.
        for _ in 0..50 {
            let output = Command::new("mount")
                .args(["-o", options])
                .args([what, at])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return Self(at.to_owned());
            }
            assert!(said.contains("busy"), "{}: {said}", what.display());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{} stays busy", what.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Another test's program, between fork and exec, has our files open for a moment.
        for _ in 0..50 {
            let output = Command::new("umount").arg(&self.0).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(std::thread::panicking(), "{} is busy", self.0.display());
    }
}

/// A loop device, undone when dropped.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    /// A device of `size` bytes from `offset` on.
    pub(crate) fn new(file: &Path, offset: u64, size: u64) -> Self {
        let (offset, size) = (offset.to_string(), size.to_string());
        let name = run(
            "losetup",
            &[
                "-f",
                "--show",
                "-o",
                &offset,
                "--sizelimit",
                &size,
                text(file),
            ],
        );
        Self(name.trim().to_owned())
    }

    /// A device that nobody writes to, over a whole file.
    pub(crate) fn read_only(file: &Path) -> Self {
        Self(
            run("losetup", &["-r", "-f", "--show", text(file)])
                .trim()
                .to_owned(),
        )
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}
