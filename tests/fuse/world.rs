//! A repository with a VM whose disk holds a GPT and an ext4 filesystem, and a mount of it.

pub(crate) use crate::kit::shell::{run, text};

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::kit::need::{can_mount, has_all};
use crate::kit::wait::eventually;
use restorefs::block::piece::CopySource;
use restorefs::block::{FileDisk, MemoryDisk, ReadAt};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, SystemClock};
use restorefs::error::ErrorKind;
use restorefs::fuse::{MountOptions, Mounted, mount};
use restorefs::ingest::copy::copy_into;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::repo::{Owner, Repository};
use restorefs::task::Monitor;
use restorefs::tree::Tree;
use restorefs::types::{DiskName, PointName, VmName};

/// Where the partition begins, in bytes, and its size.
pub(crate) const PART_START: u64 = 1 << 20;
pub(crate) const PART_BYTES: u64 = 64 << 20;
/// Size of the disk: no multiple of a cluster.
pub(crate) const DISK_BYTES: u64 = (70 << 20) + 512;

/// A repository on disk.
pub(crate) struct World {
    temp: tempfile::TempDir,
}

/// The content of the guest: everything that a tree of files can have.
fn fill(source: &Path) {
    std::fs::create_dir_all(source.join("etc/deep/er/still")).unwrap();
    std::fs::write(source.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n / 1000) as u8).collect();
    std::fs::write(source.join("etc/deep/big"), &big).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    for at in [0u64, 5 << 20, 9 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 8192], at).unwrap();
    }
    sparse.set_len(12 << 20).unwrap();
    std::fs::hard_link(source.join("etc/passwd"), source.join("etc/passwd-")).unwrap();
    symlink("../empty", source.join("etc/link")).unwrap();
    symlink("/etc/passwd", source.join("absolute")).unwrap();
    symlink("/etc/deep", source.join("lib")).unwrap();
    symlink("../../../../../../../etc", source.join("etc/climb")).unwrap();
    symlink("round", source.join("round")).unwrap();
    symlink("x".repeat(900), source.join("long-link")).unwrap();
    std::fs::create_dir(source.join("many")).unwrap();
    for n in 0..1500 {
        std::fs::write(
            source.join(format!("many/a-file-of-number-{n}")),
            format!("{n}"),
        )
        .unwrap();
    }
    std::fs::write(source.join("ä \u{1f600} name"), "utf-8").unwrap();
    std::fs::write(source.join("setuid"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(source.join("setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(source.join("etc/deep"), PermissionsExt::from_mode(0o1770)).unwrap();
    let at = |name: &str| text(&source.join(name)).to_owned();
    run("chown", &["1234:5678", &at("etc/deep/big")]);
    run("touch", &["-d", "1961-04-12 06:07:00.5 UTC", &at("empty")]);
    run("mknod", &[&at("null"), "c", "1", "3"]);
    run("mknod", &[&at("disk"), "b", "259", "70000"]);
    run("mkfifo", &[&at("fifo")]);
    run(
        "setfattr",
        &["-n", "user.colour", "-v", "blue", &at("etc/passwd")],
    );
    run(
        "setfattr",
        &["-n", "trusted.secret", "-v", "0sAAEC", &at("etc/passwd")],
    );
    run("setfacl", &["-m", "u:4321:rw", &at("etc/deep/big")]);
    run("setfacl", &["-d", "-m", "g:99:rx", &at("etc/deep/er")]);
}

impl World {
    /// An empty repository.
    pub(crate) fn empty() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Repository::init(&temp.path().join("repo"), SystemClock.now()).unwrap();
        std::fs::create_dir(temp.path().join("mnt")).unwrap();
        Self { temp }
    }

    /// One with a point `first` of the VM `web01`, whose disk `vda` is a real one, and `vdb` has no table.
    pub(crate) fn with_guest() -> Self {
        let world = Self::empty();
        let source = world.path("source");
        fill(&source);
        let image = world.image();
        std::fs::File::create(&image)
            .unwrap()
            .set_len(DISK_BYTES)
            .unwrap();
        run(
            "sgdisk",
            &["-n", "1:2048:+64M", "-n", "2:0:0", text(&image)],
        );
        let offset = format!("offset={PART_START}");
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-L",
                "root",
                "-d",
                text(&source),
                "-E",
                &offset,
                text(&image),
                "64M",
            ],
        );
        let disk = FileDisk::open(&image, restorefs::sys::beneath::Access::Read).unwrap();
        let noise: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let bare = MemoryDisk::from_bytes(&noise);
        world.commit("web01", "first", &[("vda", &disk), ("vdb", &bare)]);
        world
    }

    /// The disk image that was backed up.
    pub(crate) fn image(&self) -> PathBuf {
        self.path("vda.img")
    }

    /// A path in the temporary directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The repository's directory.
    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repo")
    }

    /// Commits a point, as another process would.
    pub(crate) fn commit(&self, vm: &str, point: &str, disks: &[(&str, &dyn ReadAt)]) {
        commit(&self.repository(), vm, point, disks);
    }

    /// Commits a point of one small disk.
    pub(crate) fn commit_small(&self, vm: &str, point: &str) {
        let mut bytes = vec![0; 4096];
        bytes[..point.len()].copy_from_slice(point.as_bytes());
        self.commit(vm, point, &[("vda", &MemoryDisk::from_bytes(&bytes))]);
    }

    /// A tree of the repository.
    pub(crate) fn tree(&self, options: &MountOptions) -> Arc<Tree> {
        let repository = Arc::new(Repository::open(&self.repository()).unwrap());
        let pool = Pool::new(PoolLimits::default());
        Tree::new(repository, pool, options.tree_options(0, 0, false)).unwrap()
    }

    /// Mounts with these options.
    pub(crate) fn mount_with(&self, options: &str) -> Mounted {
        let mut parsed = MountOptions::default();
        parsed.parse(options).unwrap();
        mount(&self.tree(&parsed), &self.path("mnt"), &parsed).unwrap()
    }

    /// Mounts.
    pub(crate) fn mount(&self) -> Mounted {
        self.mount_with("")
    }

    /// A path in the mount.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path("mnt").join(path)
    }

    /// A path in the guest's filesystem in the mount.
    pub(crate) fn guest(&self, path: &str) -> PathBuf {
        self.at("web01/first/volumes/vda/part/1").join(path)
    }
}

/// Commits a point into the repository at a path.
pub(crate) fn commit(repository: &Path, vm: &str, point: &str, disks: &[(&str, &dyn ReadAt)]) {
    let repository = Arc::new(Repository::open(repository).unwrap());
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
    let mut request = BeginRequest::new(VmName::new(vm).unwrap());
    request.point = Some(PointName::new(point).unwrap());
    for (name, source) in disks {
        request.disks.push(DiskRequest {
            name: DiskName::new(*name).unwrap(),
            source_bytes: Some(source.size_bytes()),
            key: None,
            full: false,
        });
    }
    let session = Session::begin(&engine, &request).unwrap();
    for (name, source) in disks {
        let disk = session.disk(&DiskName::new(*name).unwrap()).unwrap();
        copy_into(
            &session,
            &disk,
            CopySource::whole(*source),
            &Monitor::default(),
        )
        .unwrap();
    }
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
}

/// The kernel's own mount of the guest's filesystem.
pub(crate) struct KernelMount {
    device: String,
    path: PathBuf,
}

impl KernelMount {
    pub(crate) fn new(world: &World) -> Self {
        let (offset, size) = (PART_START.to_string(), PART_BYTES.to_string());
        let image = world.image();
        let device = run(
            "losetup",
            &[
                "-f",
                "--show",
                "-r",
                "-o",
                &offset,
                "--sizelimit",
                &size,
                text(&image),
            ],
        );
        let device = device.trim().to_owned();
        let path = world.path("kernel");
        std::fs::create_dir(&path).unwrap();
        run(
            "mount",
            &["-t", "ext4", "-o", "ro,noload", &device, text(&path)],
        );
        Self { device, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        run("umount", &[text(&self.path)]);
        run("losetup", &["-d", &self.device]);
    }
}

/// Names in a directory, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Unmounts. A process that another test is just starting may hold a copy of our descriptors until it has begun.
#[track_caller]
pub(crate) fn unmount(mount: &Mounted) {
    eventually("the unmounting", || match mount.unmount(false) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::Busy => false,
        Err(error) => panic!("{error:?}"),
    });
}

/// Whether these tests can run here.
pub(crate) fn ready() -> bool {
    can_mount()
        && has_all(&[
            "sgdisk",
            "mkfs.ext4",
            "losetup",
            "rsync",
            "setfattr",
            "setfacl",
        ])
}
