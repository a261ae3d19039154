//! Disks of a guest with names and files that attack whoever shows them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A picture of 2 by 1 pixels.
pub(crate) const PICTURE: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x01\x08\x02\x00\x00\x00\x7b\x40\xe8\xdd\x00\x00\
    \x00\x0d\x49\x44\x41\x54\x78\x9c\x63\xf8\xcf\x00\x04\xff\x01\x07\x00\x01\xff\xe2\x23\x9e\x59\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

/// Entries of the directory with many of them.
pub(crate) const MANY: usize = 1_203;

/// Names in `/srv/names`, and what the files have.
pub(crate) const NAMES: [(&[u8], &[u8]); 9] = [
    (
        b"x.svg",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    ),
    (b"x.html", b"<script>alert(1)</script>"),
    (b"a\"\r\nSet-Cookie:b", b"header"),
    ("\u{202e}gpj.exe".as_bytes(), b"right to left"),
    (b"bad-\xff\xfe", b"no UTF-8"),
    (b"<script>alert(1)<", b"markup"),
    (b"plus + and space & %41?#", b"form"),
    (b"esc-\x1b[31m", b"control"),
    (
        "Gr\u{fc}\u{df}e.txt".as_bytes(),
        "Gr\u{fc}\u{df}e".as_bytes(),
    ),
];

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// A guest whose disk changes from backup to backup.
pub(crate) struct Guest {
    dir: PathBuf,
}

impl Guest {
    /// The guest, with its tree below `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let guest = Self {
            dir: dir.to_owned(),
        };
        for (path, content) in [
            ("etc/fstab", &b"/dev/vda1 / ext4 defaults 0 1\n"[..]),
            (
                "etc/os-release",
                b"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
            ),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/nginx/nginx.conf", b"worker_processes 1;\n"),
            ("srv/pictures/dot.png", PICTURE),
            ("srv/old/inner/file", b"only on monday\n"),
            ("srv/blob", &[0; 70_000]),
            // What is no picture whatever it is called.
            ("srv/pictures/lie.png", b"<svg onload=alert(1)>"),
        ] {
            guest.put(path.as_bytes(), content);
        }
        for (name, content) in NAMES {
            guest.put(&[b"srv/names/", name].concat(), content);
        }
        for n in 0..MANY {
            guest.put(format!("srv/many/entry-{n:05}").as_bytes(), b"");
        }
        std::os::unix::fs::symlink("../etc/passwd", guest.path(b"srv/link")).unwrap();
        guest
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.dir.join("tree").join(OsStr::from_bytes(path))
    }

    /// Writes a file of the guest.
    pub(crate) fn put(&self, path: &[u8], content: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Removes a directory of the guest.
    pub(crate) fn remove(&self, path: &[u8]) {
        std::fs::remove_dir_all(self.path(path)).unwrap();
    }

    /// Makes the disk as it is now: a GPT with one ext4 filesystem.
    pub(crate) fn disk(&self, to: &Path) {
        let part = self.dir.join("part.raw");
        let _ = std::fs::remove_file(&part);
        run(
            "mke2fs",
            &[
                "-q".as_ref(),
                "-t".as_ref(),
                "ext4".as_ref(),
                "-U".as_ref(),
                "12345678-1234-1234-1234-123456789abc".as_ref(),
                "-d".as_ref(),
                self.dir.join("tree").as_os_str(),
                part.as_os_str(),
                "30M".as_ref(),
            ],
        );
        let disk = std::fs::File::create(to).unwrap();
        disk.set_len(32 << 20).unwrap();
        let mut table = Command::new("sfdisk")
            .args(["-q", to.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let script = b"label: gpt\nstart=1MiB,size=30MiB,type=linux\n";
        std::io::Write::write_all(table.stdin.as_mut().unwrap(), script).unwrap();
        drop(table.stdin.take());
        assert!(table.wait().unwrap().success());
        let bytes = std::fs::read(&part).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&disk, &bytes, 1 << 20).unwrap();
    }
}
