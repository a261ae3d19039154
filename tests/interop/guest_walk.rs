//! The walk-compare: a guest filesystem as our reader shows it, against the kernel's mount of the same image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::block::run::{Run, RunMap, RunReader, Target};
use restorefs::error::Result;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::fs::{FileType, GuestFs, GuestIno, Time};

/// One file, as both sides can tell it.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    ino: u64,
    file_type: char,
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    size: u64,
    blocks: u64,
    times: [(i64, i64); 3],
    /// When it was made; the kernel knows none for formats without.
    crtime: Option<(i64, u32)>,
    rdev: (u32, u32),
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Option<blake3::Hash>,
}

type Tree = BTreeMap<Vec<u8>, Facts>;

fn kernel_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    names.truncate(length);
    names
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

fn kernel_facts(path: &Path) -> Facts {
    let meta = path.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let file_type = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () => '-',
    };
    let is_device = matches!(file_type, 'b' | 'c');
    let rdev = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    let statx = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        rustix::fs::StatxFlags::BTIME,
    )
    .unwrap();
    let has_crtime = statx.stx_mask & rustix::fs::StatxFlags::BTIME.bits() != 0;
    Facts {
        ino: meta.ino(),
        file_type,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        nlink: u32::try_from(meta.nlink()).unwrap(),
        size: meta.size(),
        blocks: meta.blocks(),
        times: [
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        ],
        crtime: has_crtime.then_some((statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec)),
        rdev: if is_device { rdev } else { (0, 0) },
        target: if file_type == 'l' {
            std::fs::read_link(path)
                .unwrap()
                .into_os_string()
                .into_vec()
        } else {
            Vec::new()
        },
        xattrs: kernel_xattrs(path),
        content: (file_type == '-').then(|| blake3::hash(&std::fs::read(path).unwrap())),
    }
}

fn kernel_tree(dir: &Path, prefix: &[u8], tree: &mut Tree) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let facts = kernel_facts(&path);
        let facts = facts.kept();
        let name = [prefix, entry.file_name().as_bytes()].concat();
        if facts.file_type == 'd' {
            kernel_tree(&path, &[&name, &b"/"[..]].concat(), tree);
        }
        tree.insert(name, facts);
    }
}

/// Reads a file's encoded parts through its reader.
struct Encoded {
    fs: Arc<dyn GuestFs>,
    ino: GuestIno,
    size_bytes: u64,
}

impl ReadAt for Encoded {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.fs.read_encoded(self.ino, offset, buf)
    }
}

/// What a walk counted of the ways to read.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) plain: usize,
    pub(crate) encoded: usize,
    pub(crate) inline: usize,
}

/// The content of a file, read by its runs, and again wholly by the reader: both must be the same.
pub(crate) fn content(
    fs: &Arc<dyn GuestFs>,
    volume: &Arc<dyn ReadAt>,
    ino: GuestIno,
    counts: &mut Counts,
) -> Result<Vec<u8>> {
    let runs = fs.runs(ino)?;
    for run in runs.runs() {
        match run.target {
            Target::Source { .. } => counts.plain += 1,
            Target::Encoded => counts.encoded += 1,
            Target::Inline(_) => counts.inline += 1,
            Target::Hole => {}
        }
    }
    let map = RunMap::new(
        runs.size_bytes(),
        runs.runs().iter().map(|run| Run {
            start: run.start,
            length_bytes: run.length_bytes,
            target: match &run.target {
                Target::Source { offset, .. } => Target::Source {
                    source: 0,
                    offset: *offset,
                },
                Target::Hole => Target::Hole,
                Target::Inline(bytes) => Target::Inline(Arc::clone(bytes)),
                Target::Encoded => Target::Encoded,
            },
        }),
    )?;
    let size_bytes = runs.size_bytes();
    let encoded = Arc::new(Encoded {
        fs: Arc::clone(fs),
        ino,
        size_bytes,
    });
    let mut by_runs = vec![0xa5; usize::try_from(size_bytes).unwrap()];
    RunReader::new(map, vec![Arc::clone(volume)], Some(encoded)).read_at(0, &mut by_runs)?;
    let mut by_reader = vec![0x5a; by_runs.len()];
    fs.read_encoded(ino, 0, &mut by_reader)?;
    assert!(
        by_runs == by_reader,
        "runs and reader differ in inode {ino:?}"
    );
    Ok(by_runs)
}

/// One side of the comparison: a reader, what it reads, and how its numbers become the kernel's.
struct Ours<'a> {
    fs: Arc<dyn GuestFs>,
    volume: &'a Arc<dyn ReadAt>,
    number: &'a dyn Fn(GuestIno) -> u64,
    counts: Counts,
}

impl Ours<'_> {
    fn facts(&mut self, ino: GuestIno) -> Facts {
        let fs = Arc::clone(&self.fs);
        let attributes = fs.attributes(ino).unwrap();
        let file_type = match attributes.file_type {
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::CharDevice => 'c',
            FileType::BlockDevice => 'b',
            FileType::Fifo => 'p',
            FileType::Socket => 's',
            FileType::Regular => '-',
        };
        let time = |time: Time| (time.seconds, i64::from(time.nanoseconds));
        Facts {
            ino: (self.number)(attributes.ino),
            file_type,
            mode: attributes.mode.into(),
            owner: (attributes.uid, attributes.gid),
            nlink: attributes.nlink,
            size: attributes.size_bytes,
            blocks: attributes.blocks,
            times: [
                time(attributes.atime),
                time(attributes.mtime),
                time(attributes.ctime),
            ],
            crtime: attributes
                .crtime
                .map(|time| (time.seconds, time.nanoseconds)),
            rdev: attributes.rdev.unwrap_or((0, 0)),
            target: if file_type == 'l' {
                fs.symlink_target(ino).unwrap()
            } else {
                Vec::new()
            },
            xattrs: fs
                .xattrs(ino)
                .unwrap()
                .iter()
                .map(|xattr| (xattr.name.clone(), xattr.value.clone()))
                .collect(),
            content: (file_type == '-')
                .then(|| blake3::hash(&content(&fs, self.volume, ino, &mut self.counts).unwrap())),
        }
    }

    fn tree(&mut self, dir: GuestIno, prefix: &[u8], tree: &mut Tree) {
        for entry in self.fs.entries(dir).unwrap().iter() {
            assert_eq!(self.fs.lookup(dir, &entry.name).unwrap(), entry.ino);
            let facts = self.facts(entry.ino);
            let facts = facts.kept();
            let name = [prefix, &entry.name].concat();
            if facts.file_type == 'd' {
                self.tree(entry.ino, &[&name, &b"/"[..]].concat(), tree);
            }
            tree.insert(name, facts);
        }
    }
}

impl Facts {
    /// Without what a filesystem does not keep: btrfs gives the empty directories where subvolumes were, all inode 2, the time of
    /// the look.
    fn kept(mut self) -> Self {
        if self.ino == 2 {
            self.times = [(0, 0); 3];
            self.crtime = None;
        }
        self
    }
}

/// Asserts that both trees are the same; tells how our side was read.
pub(crate) fn compare(fs: Box<dyn GuestFs>, volume: &Arc<dyn ReadAt>, kernel: &Path) -> Counts {
    let root = fs.root();
    compare_from(fs, volume, root, &|ino| ino.0, kernel)
}

/// As [`compare`], from the directory `root` on; `number` turns our inode numbers into the kernel's.
pub(crate) fn compare_from(
    fs: Box<dyn GuestFs>,
    volume: &Arc<dyn ReadAt>,
    root: GuestIno,
    number: &dyn Fn(GuestIno) -> u64,
    kernel: &Path,
) -> Counts {
    let (mut theirs, mut ours) = (Tree::new(), Tree::new());
    theirs.insert(b".".to_vec(), kernel_facts(kernel));
    kernel_tree(kernel, b"", &mut theirs);
    let mut side = Ours {
        fs: fs.into(),
        volume,
        number,
        counts: Counts::default(),
    };
    ours.insert(b".".to_vec(), side.facts(root));
    side.tree(root, b"", &mut ours);
    assert!(theirs.len() > 2, "the kernel shows {} files", theirs.len());
    for (name, facts) in &theirs {
        let shown = OsStr::from_bytes(name);
        assert_eq!(ours.get(name), Some(facts), "{}", shown.display());
    }
    let extra: Vec<_> = ours
        .keys()
        .filter(|name| !theirs.contains_key(*name))
        .collect();
    assert!(extra.is_empty(), "only we show {extra:?}");
    side.counts
}

/// Walks a filesystem from several threads at once; each must see all of it.
pub(crate) fn by_many(fs: &dyn GuestFs, volume: &Arc<dyn ReadAt>) -> usize {
    std::thread::scope(|scope| {
        let walkers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| check_guest_fs(fs, volume)))
            .collect();
        let mut seen: Vec<usize> = walkers.into_iter().map(|w| w.join().unwrap()).collect();
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0]
    })
}
