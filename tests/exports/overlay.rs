//! A guest that is tried out: its tree below an overlay, what is written goes to memory, and its own programs run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::{World, ready, run, text};

/// A mount of the kernel's, undone when dropped.
struct Kernel(PathBuf);

impl Kernel {
    fn new(kind: &str, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", kind, "-o", options, "none", text(at)]);
        Self(at.to_owned())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn a_guests_programs_run_in_its_tree_and_change_nothing() {
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !ready(&["busybox"])
        || (!kernel.contains("\toverlay")
            && Command::new("modprobe").arg("overlay").status().is_err())
    {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let files = mount.point("files");
    let memory = Kernel::new("tmpfs", &world.path("memory"), "size=64M");
    for dir in ["upper", "work"] {
        std::fs::create_dir(memory.0.join(dir)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={1}/upper,workdir={1}/work",
        text(&files),
        text(&memory.0)
    );
    let merged = Kernel::new("overlay", &world.path("merged"), &options);
    let inside = |script: &str| {
        let output = Command::new("chroot")
            .arg(&merged.0)
            .args(["/bin/sh", "-c", &format!("export PATH=/bin; {script}")])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(inside("cat /etc/link"), "root:x:0:0:root:/root:/bin/sh\n");
    // Copied up: appended to, renamed, removed, in a directory that is the guest's.
    let after = inside(
        "echo more >> /etc/passwd && mv /srv/big /srv/moved && rm /etc/fstab && cat /etc/passwd && ls /srv",
    );
    assert!(
        after.contains("more") && after.contains("moved") && !after.contains("big\n"),
        "{after}"
    );
    assert_eq!(
        std::fs::read(merged.0.join("srv/moved")).unwrap(),
        crate::kit::noise::noise(1, 3_000_000)
    );
    // The point is as it was.
    assert!(files.join("srv/big").exists() && files.join("etc/fstab").exists());
    assert_eq!(
        std::fs::read_to_string(files.join("etc/passwd")).unwrap(),
        "root:x:0:0:root:/root:/bin/sh\n"
    );
    assert_eq!(
        world.place.restored("web01@one", "vda"),
        std::fs::read(world.path("vda.raw")).unwrap()
    );
}
