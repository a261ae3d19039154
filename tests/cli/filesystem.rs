//! A repository on a small real filesystem of its own, that can be filled, made read-only and shut down.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::kit::need::{has, is_root};
use crate::kit::place::Place;

/// A loop-mounted filesystem with a repository in it; unmounted when dropped.
pub(crate) struct Filesystem {
    pub(crate) place: Place,
}

pub(crate) fn tool(name: &str, args: &[&str]) {
    let output = Command::new(name).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {said}");
}

impl Filesystem {
    /// A filesystem of `kind` (ext4, xfs) and `megabytes` with a repository in it; `None` where that cannot be had.
    pub(crate) fn new(kind: &'static str, megabytes: u64) -> Option<Self> {
        if !has(&format!("mkfs.{kind}")) || !has("losetup") || !has("xfs_io") {
            return None;
        }
        if !is_root() {
            return None;
        }
        let place = Place::without_repository();
        let image = place.path("image");
        std::fs::File::create_new(&image)
            .and_then(|file| file.set_len(megabytes << 20))
            .unwrap();
        std::fs::create_dir(place.repo()).unwrap();
        let quiet = if kind == "xfs" { "-q" } else { "-qF" };
        tool(&format!("mkfs.{kind}"), &[quiet, image.to_str().unwrap()]);
        let filesystem = Self { place };
        filesystem.mount();
        filesystem.place.ok(&["init"]);
        Some(filesystem)
    }

    pub(crate) fn mount(&self) {
        let (image, repo) = (self.place.path("image"), self.place.repo());
        tool(
            "mount",
            &[
                "-o",
                "loop",
                image.to_str().unwrap(),
                repo.to_str().unwrap(),
            ],
        );
    }

    pub(crate) fn unmount(&self) {
        tool("umount", &[self.place.repo().to_str().unwrap()]);
    }

    pub(crate) fn remount(&self, how: &str) {
        let repo = self.place.repo();
        tool(
            "mount",
            &["-o", &format!("remount,{how}"), repo.to_str().unwrap()],
        );
    }

    /// What pulling its cable does: from now on every access fails.
    pub(crate) fn shut_down(&self) {
        // ext4 has the same ioctl as XFS.
        tool(
            "xfs_io",
            &["-x", "-c", "shutdown", self.place.repo().to_str().unwrap()],
        );
    }

    fn ballast(&self) -> PathBuf {
        self.place.repo().join("ballast")
    }

    /// Fills it to the last block, but for `bytes_left`.
    pub(crate) fn fill(&self, bytes_left: u64) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let mut length = 0;
        for step in [1 << 20, 1 << 12] {
            let block = vec![0xbb; step];
            while file.write_all(&block).is_ok() {
                length += step as u64;
            }
        }
        file.sync_all().ok();
        file.set_len(length.saturating_sub(bytes_left)).unwrap();
        file.sync_all().unwrap();
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        tool("sync", &["-f", self.place.repo().to_str().unwrap()]);
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.place.repo())
            .output();
    }
}
