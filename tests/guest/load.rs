//! Readers of a mounted repository that know what is right: each looks at one thing of one point at a time.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::layout::Guest;

/// Numbers that look random (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

enum Known {
    Directory(Vec<OsString>),
    File(Vec<u8>),
    Symlink(PathBuf),
    Other,
}

/// A thing of the guest, at all its paths below a point, as the kernel shows it.
struct Item {
    paths: Vec<PathBuf>,
    known: Known,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is right.
pub(crate) struct Truth(Vec<Item>);

fn names(dir: &Path) -> std::io::Result<Vec<OsString>> {
    let entries: Result<Vec<_>, _> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect();
    let mut names = entries?;
    names.sort();
    Ok(names)
}

/// What `getfattr -h` would show, sorted.
fn xattrs(path: &Path) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut found = Vec::new();
    for name in list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    found.sort();
    Ok(found)
}

fn known(path: &Path) -> std::io::Result<Known> {
    let kind = path.symlink_metadata()?.file_type();
    Ok(match kind {
        _ if kind.is_dir() => Known::Directory(names(path)?),
        _ if kind.is_file() => Known::File(std::fs::read(path)?),
        _ if kind.is_symlink() => Known::Symlink(std::fs::read_link(path)?),
        _ => Known::Other,
    })
}

impl Truth {
    /// All that the kernel shows of a guest, volume by volume.
    pub(crate) fn new(guest: &Guest) -> Self {
        let mut items = Vec::new();
        let kernel = guest.by_kernel();
        let top = guest.path("kernel");
        for (part, volume) in [
            ("", "vda/part/3"),
            ("var", "lvm/vg0/var"),
            ("home", "vdb/part/2"),
        ] {
            // The root alone: what is mounted upon it is another volume's.
            let found = std::process::Command::new("find")
                .arg(top.join(part))
                .args(["-xdev", "-mindepth", "1", "-printf", "%P\\0"])
                .output()
                .unwrap();
            for name in found.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
                let name = PathBuf::from(OsString::from_vec(name.to_vec()));
                if part.is_empty()
                    && ["var", "home", "boot/efi"]
                        .iter()
                        .any(|m| name == Path::new(m))
                {
                    continue;
                }
                let at = top.join(part).join(&name);
                items.push(Item {
                    paths: vec![
                        Path::new("files").join(part).join(&name),
                        Path::new("volumes").join(volume).join(&name),
                    ],
                    known: known(&at).unwrap(),
                    xattrs: xattrs(&at).unwrap(),
                });
            }
        }
        drop(kernel);
        assert!(items.len() > 1000, "{}", items.len());
        Self(items)
    }

    /// Compares one thing of a point with what is right; `Err` is what the mount answered.
    fn check(&self, point: &Path, random: &mut Random) -> std::io::Result<()> {
        let item = &self.0[random.below(self.0.len())];
        let path = point.join(&item.paths[random.below(item.paths.len())]);
        let shown = path.display();
        assert_eq!(xattrs(&path)?, item.xattrs, "{shown}");
        match &item.known {
            Known::Directory(expected) => assert_eq!(names(&path)?, *expected, "{shown}"),
            Known::Symlink(expected) => {
                assert_eq!(std::fs::read_link(&path)?, *expected, "{shown}");
            }
            Known::Other => assert!(!path.symlink_metadata()?.is_file(), "{shown}"),
            Known::File(expected) => {
                let file = std::fs::File::open(&path)?;
                assert_eq!(file.metadata()?.len(), expected.len() as u64, "{shown}");
                // A piece first: the kernel then has not read all of it already.
                let from = random.below(expected.len().max(1));
                let mut piece = vec![0; 5000.min(expected.len() - from.min(expected.len()))];
                file.read_exact_at(&mut piece, from as u64)?;
                assert!(expected[from..].starts_with(&piece), "a piece of {shown}");
                assert!(std::fs::read(&path)? == *expected, "{shown}");
            }
        }
        Ok(())
    }
}

/// What readers did, and may be asked while they do it.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) right: AtomicU64,
    /// Answers that were EIO.
    pub(crate) failed: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// The first answer that was something else.
    pub(crate) other: Mutex<Option<String>>,
}

/// Reads points until it is stopped; wrong bytes end the test, errors are counted.
pub(crate) fn read(
    truth: &Truth,
    points: &(impl Fn() -> Vec<PathBuf> + Sync),
    score: &Score,
    seed: u64,
) {
    let mut random = Random::new(seed);
    while !score.stop.load(Ordering::Relaxed) {
        let now = points();
        let point = &now[random.below(now.len())];
        match truth.check(point, &mut random) {
            Ok(()) => score.right.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                if error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) {
                    let mut other = score.other.lock().unwrap();
                    other.get_or_insert(format!("{}: {error}", point.display()));
                }
                score.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}
