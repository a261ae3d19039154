//! A random workload on guest filesystems, then a walk that compares: it finds cases that no list contains.
//!
//! `RESTOREFS_SEED` begins another sequence, `RESTOREFS_WORK` is how many steps.

use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::guest::fs::{GuestIno, OpenFs};
use restorefs::guest::{btrfs, ext, xfs};
use restorefs::sys::beneath::Access;
use rustix::fs::{FallocateFlags, FileType, Mode, XattrFlags};

use crate::guest_image::{Mount, make};
use crate::guest_walk::compare_from;
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Small and repeatable (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let n = self.below(u64::try_from(from.len()).unwrap());
        from[usize::try_from(n).unwrap()].clone()
    }

    /// Half of it text, so that something compresses.
    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.pick(&[10, 3000, 9000, 70_001, 300_000])).unwrap();
        match self.below(2) {
            0 => noise(self.0, length),
            _ => format!("line {} ", self.0)
                .repeat(length / 20 + 1)
                .into_bytes(),
        }
    }
}

/// What is there, and the way of its making.
struct Work {
    random: Random,
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Work {
    fn name(&mut self) -> PathBuf {
        let length = usize::try_from(self.random.pick(&[0, 0, 0, 60, 200])).unwrap();
        let name = format!("{}{}", self.random.below(300), "x".repeat(length));
        self.random.pick(&self.dirs).join(name)
    }

    /// One step. Some cannot be done, as what they want is gone or there already; that is no failure.
    fn step(&mut self) -> std::io::Result<()> {
        let name = self.name();
        let file = self.random.pick(&self.files);
        let opened = || std::fs::File::options().write(true).open(&file);
        let at = self.random.below(1_000_000);
        match self.random.below(16) {
            0 => {
                std::fs::create_dir(&name)?;
                self.dirs.push(name);
            }
            1..=4 => {
                std::fs::write(&name, self.random.bytes())?;
                self.files.push(name);
            }
            5 => opened()?.write_all_at(&self.random.bytes(), at)?,
            6 => opened()?.set_len(at)?,
            7 => std::fs::remove_file(&file)?,
            8 => {
                std::fs::rename(&file, &name)?;
                self.files.push(name);
            }
            9 => {
                std::fs::hard_link(&file, &name)?;
                self.files.push(name);
            }
            10 => {
                let length = usize::try_from(self.random.pick(&[5, 100, 700])).unwrap();
                symlink("t".repeat(length), &name)?;
            }
            11 | 12 => {
                let key = format!("user.{}", self.random.below(9));
                let length = usize::try_from(self.random.pick(&[5, 200, 2000])).unwrap();
                rustix::fs::setxattr(&file, key, &noise(at, length), XattrFlags::empty())?;
            }
            13 => {
                let flags = self.random.pick(&[
                    FallocateFlags::empty(),
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                ]);
                rustix::fs::fallocate(opened()?, flags, at & !4095, 40_960)?;
            }
            14 => {
                let device = rustix::fs::makedev(1 + u32::try_from(at % 99).unwrap(), 70_000);
                let mode = Mode::from_raw_mode(0o620);
                let kind = FileType::BlockDevice;
                rustix::fs::mknodat(rustix::fs::CWD, &name, kind, mode, device)?;
            }
            _ => {
                // In pieces, backwards.
                let pieces = opened()?;
                for n in (0..40).rev() {
                    pieces.write_all_at(b"piece", n * 8192)?;
                }
            }
        }
        Ok(())
    }
}

fn work(root: &Path) {
    let mut work = Work {
        random: Random(number("RESTOREFS_SEED", 1)),
        dirs: vec![root.to_owned()],
        files: vec![root.join("first")],
    };
    std::fs::write(root.join("first"), b"first").unwrap();
    let steps = number("RESTOREFS_WORK", 1500);
    let done = (0..steps).filter(|_| work.step().is_ok()).count();
    assert!(done * 3 > usize::try_from(steps).unwrap(), "{done} steps");
}

/// Works on a filesystem, lets it crash if `crash`, and compares it with what the kernel makes of a copy.
fn check(mkfs: &str, arguments: &[&str], options: &str, crash: bool, open: OpenFs) {
    let temp = tempfile::tempdir().unwrap();
    let image = if has("xfs_io") {
        make(temp.path(), mkfs, arguments, 400)
    } else {
        None
    };
    let Some(image) = image else { return };
    {
        let Some(mount) = Mount::new(&image, options) else {
            return;
        };
        work(mount.path());
        if crash {
            let at = mount.path().to_str().unwrap();
            run("xfs_io", &["-x", "-c", "shutdown -f", at]);
        }
    }
    let copy = temp.path().join("copy");
    std::fs::copy(&image, &copy).unwrap();
    let Some(mount) = Mount::new(&copy, "rw,noatime") else {
        return;
    };
    let volume: Arc<dyn ReadAt> = Arc::new(FileDisk::open(&image, Access::Read).unwrap());
    let fs = open(std::slice::from_ref(&volume)).unwrap();
    let root = fs.root();
    // Numbers of btrfs are the kernel's too, in the first tree.
    let same = |ino: GuestIno| ino.0;
    compare_from(fs, &volume, root, &same, mount.path());
}

#[test]
fn ext4_after_a_crash() {
    check("mkfs.ext4", &[], "rw", true, ext::open);
}

#[test]
fn xfs_after_a_crash() {
    check("mkfs.xfs", &[], "rw", true, xfs::open);
    check("mkfs.xfs", &["-b", "size=1024"], "rw", true, xfs::open);
}

#[test]
fn btrfs_at_rest() {
    for kind in ["zstd", "lzo"] {
        let options = format!("rw,compress-force={kind}");
        check("mkfs.btrfs", &[], &options, false, btrfs::open);
    }
}
