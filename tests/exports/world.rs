//! A guest whose programs run, beside a disk of three terabytes, mounted by the program as an administrator does it.

pub(crate) use crate::kit::shell::{run, text};

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::need::{can_mount, has_all};
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;

const MIB: u64 = 1 << 20;
/// Size of the second disk: beyond 32 bits of anything, and of 512-byte blocks.
pub(crate) const VDB_BYTES: u64 = 3 << 40;
/// The end of the second disk.
const TAIL: &[u8] = b"the end";
/// A file whose time is in another century.
pub(crate) const OLD: &str = "srv/A long name, \u{fc}ml\u{e4}ut \u{20ac}.txt";

/// A repository with a point `one` of `web01`, and what was backed up.
pub(crate) struct World {
    pub(crate) place: Place,
}

/// Whether these tests can run with these tools; says SKIP when not.
pub(crate) fn ready(tools: &[&str]) -> bool {
    can_mount() && has_all(&["mkfs.ext4", "sfdisk"]) && has_all(tools)
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            place: Place::new(),
        };
        world.fill();
        let (vda, source) = (world.path("vda.raw"), world.source());
        File::create(&vda).unwrap().set_len(64 * MIB).unwrap();
        put(
            &world.path("table"),
            b"label: gpt\nstart=1MiB,size=62MiB,type=linux\n",
        );
        let table = format!("sfdisk -q {} < {}", text(&vda), text(&world.path("table")));
        run("sh", &["-c", &table]);
        let arguments = [
            "-q",
            "-F",
            "-d",
            text(&source),
            "-E",
            "offset=1048576",
            text(&vda),
            "62M",
        ];
        run("mkfs.ext4", &arguments);
        let vdb = File::create(world.path("vdb.raw")).unwrap();
        vdb.set_len(VDB_BYTES).unwrap();
        vdb.write_all_at(TAIL, VDB_BYTES - TAIL.len() as u64)
            .unwrap();
        world.back_up("one");
        std::fs::create_dir(world.path("mnt")).unwrap();
        world
    }

    fn fill(&self) {
        let source = self.source();
        put(
            &source.join("etc/passwd"),
            b"root:x:0:0:root:/root:/bin/sh\n",
        );
        put(
            &source.join("etc/fstab"),
            b"/dev/vda1 / ext4 defaults 0 1\n",
        );
        put(
            &source.join("etc/os-release"),
            b"ID=debian\nPRETTY_NAME=\"A guest\"\n",
        );
        put(&source.join(OLD), b"hello\n");
        put(&source.join("srv/big"), &noise(1, 3_000_000));
        put(&source.join("home/ann/secret"), b"hers\n");
        let sparse = File::create(source.join("srv/sparse")).unwrap();
        sparse.set_len(5 * MIB).unwrap();
        sparse.write_all_at(&[7; 4096], 2 * MIB).unwrap();
        std::fs::hard_link(source.join("etc/passwd"), source.join("etc/passwd-")).unwrap();
        symlink("passwd", source.join("etc/link")).unwrap();
        for dir in ["bin", "proc", "tmp", "srv/many"] {
            std::fs::create_dir(source.join(dir)).unwrap();
        }
        for n in 0..500 {
            put(
                &source.join(format!("srv/many/file {n}")),
                format!("{n}").as_bytes(),
            );
        }
        if let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|p| Path::new(p).exists())
        {
            std::fs::copy(busybox, source.join("bin/busybox")).unwrap();
            for name in ["sh", "cat", "ls", "mv", "rm"] {
                symlink("busybox", source.join("bin").join(name)).unwrap();
            }
        }
        let ann = source.join("home/ann");
        run("chown", &["-R", "1000:1000", text(&ann)]);
        std::fs::set_permissions(&ann, PermissionsExt::from_mode(0o700)).unwrap();
        run(
            "touch",
            &["-d", "1999-02-03 04:05:06 UTC", text(&source.join(OLD))],
        );
    }

    /// Expects that a directory has all of the guest's files, with everything that rsync sees of them. mkfs has its own opinion of when the
    /// top directory was changed, so times of directories are left out.
    #[track_caller]
    pub(crate) fn assert_copied(&self, to: &Path) {
        let (from, to) = (
            format!("{}/", text(&self.source())),
            format!("{}/", text(to)),
        );
        let options = [
            "-aHAXOn",
            "--checksum",
            "-i",
            "--delete",
            "--exclude=/lost+found",
        ];
        assert_eq!(run("rsync", &[&options[..], &[&from, &to]].concat()), "");
    }

    /// What the guest's tree was made of.
    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Backs up both disks.
    pub(crate) fn back_up(&self, point: &str) {
        self.place.ok(&[
            "backup",
            "web01",
            "vda=vda.raw",
            "vdb=vdb.raw",
            "--point",
            point,
        ]);
    }

    /// `restorefs mount`, as long as what is answered lives.
    pub(crate) fn mount(&self, options: &str) -> Mount {
        let at = self.path("mnt");
        let child = self
            .place
            .command(&["mount", "--foreground", "-o", options, text(&at)])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mount = Mount { child, at };
        eventually("the mounting", || mount.at.join("web01").is_dir());
        mount
    }
}

/// A mount by a process of its own.
pub(crate) struct Mount {
    child: Child,
    at: PathBuf,
}

impl Mount {
    /// Below the point `one`.
    pub(crate) fn point(&self, path: &str) -> PathBuf {
        self.at.join("web01/one").join(path)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.at
    }

    /// Its device number.
    pub(crate) fn device(&self) -> u64 {
        std::os::unix::fs::MetadataExt::dev(&self.at.metadata().unwrap())
    }

    /// Kills the process, and takes the dead mount away.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that serves, ended when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts a program, and waits until it accepts connections on this port.
    pub(crate) fn start(command: &mut Command, port: u16) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self(child);
        eventually("the server's start", || {
            let ended = server.0.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?}: {ended:?}");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        for _ in 0..100 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
