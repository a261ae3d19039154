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
use restorefs::guest::fs::{FileType, GuestFs, GuestIno};

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
    mtime: (i64, i64),
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

fn kernel_tree(dir: &Path, prefix: &[u8], tree: &mut Tree) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
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
        let facts = Facts {
            ino: meta.ino(),
            file_type,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            nlink: u32::try_from(meta.nlink()).unwrap(),
            size: meta.size(),
            blocks: meta.blocks(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            rdev: if is_device { rdev } else { (0, 0) },
            target: if file_type == 'l' {
                std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_vec()
            } else {
                Vec::new()
            },
            xattrs: kernel_xattrs(&path),
            content: (file_type == '-').then(|| blake3::hash(&std::fs::read(&path).unwrap())),
        };
        let name = [prefix, entry.file_name().as_bytes()].concat();
        if file_type == 'd' {
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

fn our_tree(
    fs: &Arc<dyn GuestFs>,
    volume: &Arc<dyn ReadAt>,
    dir: GuestIno,
    prefix: &[u8],
    tree: &mut Tree,
    counts: &mut Counts,
) {
    for entry in fs.entries(dir).unwrap().iter() {
        assert_eq!(fs.lookup(dir, &entry.name).unwrap(), entry.ino);
        let attributes = fs.attributes(entry.ino).unwrap();
        let file_type = match attributes.file_type {
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::CharDevice => 'c',
            FileType::BlockDevice => 'b',
            FileType::Fifo => 'p',
            FileType::Socket => 's',
            FileType::Regular => '-',
        };
        let name = [prefix, &entry.name].concat();
        let facts = Facts {
            ino: attributes.ino.0,
            file_type,
            mode: attributes.mode.into(),
            owner: (attributes.uid, attributes.gid),
            nlink: attributes.nlink,
            size: attributes.size_bytes,
            blocks: attributes.blocks,
            mtime: (
                attributes.mtime.seconds,
                attributes.mtime.nanoseconds.into(),
            ),
            rdev: attributes.rdev.unwrap_or((0, 0)),
            target: if file_type == 'l' {
                fs.symlink_target(entry.ino).unwrap()
            } else {
                Vec::new()
            },
            xattrs: fs
                .xattrs(entry.ino)
                .unwrap()
                .iter()
                .map(|xattr| (xattr.name.clone(), xattr.value.clone()))
                .collect(),
            content: (file_type == '-')
                .then(|| blake3::hash(&content(fs, volume, entry.ino, counts).unwrap())),
        };
        if file_type == 'd' {
            our_tree(
                fs,
                volume,
                entry.ino,
                &[&name, &b"/"[..]].concat(),
                tree,
                counts,
            );
        }
        tree.insert(name, facts);
    }
}

/// Asserts that both trees are the same; tells how our side was read.
pub(crate) fn compare(fs: Box<dyn GuestFs>, volume: &Arc<dyn ReadAt>, kernel: &Path) -> Counts {
    let fs: Arc<dyn GuestFs> = fs.into();
    let (mut theirs, mut ours, mut counts) = (Tree::new(), Tree::new(), Counts::default());
    kernel_tree(kernel, b"", &mut theirs);
    our_tree(&fs, volume, fs.root(), b"", &mut ours, &mut counts);
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
    counts
}
