//! Volumes whose readers misbehave on request: looking up a certain name is what sets them off.

use std::sync::Arc;
use std::time::Duration;

use crate::kit::need::need;
use restorefs::block::run::RunMap;
use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::error::{Error, Result};
use restorefs::guest::fs::{Attributes, Entry, FsInfo, GuestFs, GuestIno, VolumeState, Xattr};
use restorefs::guest::memory::MemoryFs;
use restorefs::guest::probe::open_fs;

const MAGIC: &[u8] = b"hostile volume";

/// Names that try what a reader may not.
pub(crate) const FORBIDDEN: [&str; 7] = [
    "signal a stranger",
    "open a file",
    "list a directory",
    "connect",
    "start a program",
    "make a socket",
    "trace",
];

pub(crate) fn volume_disk() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::sparse(16 << 20);
    disk.write_at(0, MAGIC).unwrap();
    disk.write_at(1 << 20, &vec![7; 1 << 20]).unwrap();
    Arc::new(disk)
}

pub(crate) fn volume() -> Arc<dyn ReadAt> {
    volume_disk()
}

/// Opens hostile volumes, and all others as usual.
pub(crate) fn open(devices: &[Arc<dyn ReadAt>]) -> (VolumeState, Option<Box<dyn GuestFs>>) {
    let mut magic = [0; MAGIC.len()];
    let first = devices.first().unwrap();
    if first.read_at(0, &mut magic).is_err() || magic != MAGIC {
        return open_fs(devices);
    }
    let mut inner = MemoryFs::new();
    inner.encoded("plain", b"hello").unwrap();
    inner.encoded("16 EiB", b"x").unwrap();
    inner
        .change("16 EiB", |attributes| attributes.size_bytes = u64::MAX)
        .unwrap();
    for dir in ["dotdot", "slash", "nul", "empty"] {
        inner.directory(dir).unwrap();
    }
    let fs = HostileFs {
        inner,
        device: Arc::clone(first),
    };
    (VolumeState::Readable, Some(Box::new(fs)))
}

struct HostileFs {
    inner: MemoryFs,
    device: Arc<dyn ReadAt>,
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: &mut [u8; 4096]) -> u64 {
    let mut more = *depth;
    more[0] = more[0].wrapping_add(1);
    overflow(std::hint::black_box(&mut more)) + u64::from(more[1])
}

fn refused<T>(what: std::io::Result<T>) -> Result<GuestIno> {
    match what {
        Ok(_) => Ok(GuestIno(2)),
        Err(e) => Err(Error::not_found(format!("was refused: {e}"))),
    }
}

impl HostileFs {
    fn act(&self, name: &str) -> Option<Result<GuestIno>> {
        match name {
            "overflow the stack" => drop(std::hint::black_box(overflow(&mut [1; 4096]))),
            "loop" => loop {
                std::hint::black_box(0);
            },
            "sleep" => std::thread::sleep(Duration::from_secs(3600)),
            "allocate" => drop(std::hint::black_box(vec![1u8; 100 << 30])),
            "grow" => {
                let mut all = Vec::new();
                loop {
                    all.push(vec![1u8; 1 << 20]);
                }
            }
            "allocate and free" => {
                // In pieces that come from the thread's own heap, which shrinks again.
                let all: Vec<Vec<u8>> = (0..1000)
                    .map(|n: u16| vec![n.to_le_bytes()[0]; 60_000])
                    .collect();
                drop(std::hint::black_box(all));
                return Some(self.inner.lookup(self.inner.root(), b"plain"));
            }
            "exit" => std::process::exit(0),
            "panic" => panic!("as was asked"),
            "read for ever" => {
                let mut buf = vec![0; 1 << 20];
                while self.device.read_at(1 << 20, &mut buf).is_ok() {}
            }
            "read at 1 MiB" => {
                return Some(
                    self.device
                        .read_at(1 << 20, &mut [0; 512])
                        .map(|()| GuestIno(2)),
                );
            }
            "open a file" => return Some(refused(std::fs::File::open("/etc/passwd"))),
            "list a directory" => return Some(refused(std::fs::read_dir("/"))),
            "connect" => return Some(refused(std::net::TcpStream::connect("127.0.0.1:1"))),
            "make a socket" => return Some(refused(std::net::UdpSocket::bind("127.0.0.1:0"))),
            "start a program" => {
                return Some(refused(std::process::Command::new("/bin/true").status()));
            }
            // Of process 1, with the null signal: whoever may send it, may send others.
            "signal a stranger" => {
                let sent = rustix::process::test_kill_process(rustix::process::Pid::INIT);
                return Some(refused(sent.map_err(std::io::Error::from)));
            }
            "trace" => return Some(refused(std::fs::read("/proc/self/mem"))),
            _ => return None,
        }
        None
    }
}

impl GuestFs for HostileFs {
    fn info(&self) -> &FsInfo {
        self.inner.info()
    }
    fn root(&self) -> GuestIno {
        self.inner.root()
    }
    fn attributes(&self, ino: GuestIno) -> Result<Attributes> {
        self.inner.attributes(ino)
    }
    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>> {
        let names: [(&str, &[u8]); 4] = [
            ("dotdot", b".."),
            ("slash", b"a/b"),
            ("nul", b"a\0b"),
            ("empty", b""),
        ];
        for (dir, name) in names {
            if self.inner.resolve(dir).is_ok_and(|found| found == ino) {
                let name = name.to_vec();
                return Ok(Arc::new([Entry {
                    name,
                    ino: GuestIno(2),
                }]));
            }
        }
        self.inner.entries(ino)
    }
    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        match self.act(&String::from_utf8_lossy(name)) {
            Some(result) => result,
            None => self.inner.lookup(ino, name),
        }
    }
    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>> {
        self.inner.symlink_target(ino)
    }
    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>> {
        self.inner.xattrs(ino)
    }
    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>> {
        self.inner.runs(ino)
    }
    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_encoded(ino, offset, buf)
    }
}

/// A filesystem with a few thousand files; `None`, with SKIP, without the tools.
pub(crate) fn ext_image() -> Option<Vec<u8>> {
    let temp = tempfile::tempdir().unwrap();
    let (root, image) = (temp.path().join("root"), temp.path().join("image"));
    for n in 0..3000 {
        let dir = root.join(format!("dir{}", n % 7));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("file {n}")), vec![1; n]).unwrap();
    }
    for n in 0..200 {
        std::os::unix::fs::symlink("t".repeat(n + 1), root.join(format!("link{n}"))).unwrap();
    }
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let made = std::process::Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&root, &image])
        .status();
    if made.is_ok_and(|status| status.success()) {
        return Some(std::fs::read(&image).unwrap());
    }
    need(false, "mke2fs");
    None
}
