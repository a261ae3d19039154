//! The conformance suite: the promises of every [`GuestFs`], whatever its content. Other tests compare
//! content with the kernel.
//!
//! Public, so that integration tests run it too. It panics with a description of the fault and has no other
//! use.

use std::collections::HashSet;
use std::sync::Arc;

use super::fs::{FileType, GuestFs, GuestIno, Subvolume};
use crate::block::ReadAt;
use crate::block::run::Target;
use crate::error::{ErrorKind, Result};
use crate::types::width::usize_from_u64;

/// Bytes of a file to read and compare.
const BYTES_MAX: u64 = 1 << 20;

#[track_caller]
fn fails<T>(result: Result<T>, kinds: &[ErrorKind]) {
    match result {
        Ok(_) => panic!("this must fail with one of {kinds:?}"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{error:?}"),
    }
}

/// Walks everything, which must be sound, and checks the reader's promises; returns the number of inodes.
///
/// # Panics
/// Panics with a description of the fault.
pub fn check_guest_fs(fs: &dyn GuestFs, volume: &Arc<dyn ReadAt>) -> usize {
    let root = fs.attributes(fs.root()).expect("the root's attributes");
    assert_eq!(root.file_type, FileType::Directory, "the root");
    let default = fs
        .subvolume(&Subvolume::Default)
        .expect("a default subvolume");
    let default = fs.attributes(default).expect("its attributes");
    assert_eq!(
        default.file_type,
        FileType::Directory,
        "the default subvolume"
    );
    let nowhere = Subvolume::Path(b"no such subvolume, surely".to_vec());
    fails(fs.subvolume(&nowhere), &[ErrorKind::NotFound]);
    fails(fs.attributes(GuestIno(u64::MAX)), &[ErrorKind::NotFound]);
    fails(fs.entries(GuestIno(u64::MAX)), &[ErrorKind::NotFound]);
    fails(
        fs.lookup(fs.root(), b"no such name, surely"),
        &[ErrorKind::NotFound],
    );
    let mut seen = HashSet::new();
    let mut todo = vec![fs.root()];
    while let Some(ino) = todo.pop() {
        if seen.insert(ino) {
            todo.extend(check_inode(fs, volume, ino));
        }
    }
    seen.len()
}

/// Checks one inode; returns the inodes that it names.
fn check_inode(fs: &dyn GuestFs, volume: &Arc<dyn ReadAt>, ino: GuestIno) -> Vec<GuestIno> {
    let attributes = fs.attributes(ino).expect("attributes");
    assert_eq!(attributes.ino, ino);
    assert!(attributes.nlink >= 1, "links of {ino:?}");
    assert_eq!(attributes.mode & !0o7777, 0, "mode of {ino:?}");
    for time in [attributes.atime, attributes.mtime, attributes.ctime] {
        assert!(time.nanoseconds < 1_000_000_000, "times of {ino:?}");
    }
    let is_device = matches!(
        attributes.file_type,
        FileType::CharDevice | FileType::BlockDevice
    );
    assert_eq!(attributes.rdev.is_some(), is_device, "rdev of {ino:?}");
    for xattr in fs.xattrs(ino).expect("xattrs").iter() {
        assert!(xattr.name.contains(&b'.'), "an xattr without a name space");
    }
    if attributes.file_type == FileType::Symlink {
        let target = fs.symlink_target(ino).expect("a target");
        assert_eq!(target.len(), usize_from_u64(attributes.size_bytes));
    } else {
        fails(fs.symlink_target(ino), &[ErrorKind::InvalidInput]);
    }
    if attributes.file_type == FileType::Regular {
        check_file(fs, volume, ino, attributes.size_bytes);
    } else {
        fails(fs.runs(ino), &[ErrorKind::InvalidInput]);
        fails(
            fs.read_encoded(ino, 0, &mut [0]),
            &[ErrorKind::InvalidInput],
        );
    }
    if attributes.file_type != FileType::Directory {
        fails(fs.entries(ino), &[ErrorKind::NotADirectory]);
        fails(fs.lookup(ino, b"x"), &[ErrorKind::NotADirectory]);
        return Vec::new();
    }
    let entries = fs.entries(ino).expect("entries");
    for entry in entries.iter() {
        assert!(
            !entry.name.is_empty()
                && entry.name != b"."
                && entry.name != b".."
                && !entry.name.iter().any(|b| matches!(b, 0 | b'/')),
            "a name in {ino:?}: {:?}",
            entry.name.escape_ascii().to_string()
        );
        assert_eq!(fs.lookup(ino, &entry.name).expect("a lookup"), entry.ino);
    }
    entries.iter().map(|entry| entry.ino).collect()
}

/// Checks that the runs cover the file, lie on the volume, and match the reader's bytes.
fn check_file(fs: &dyn GuestFs, volume: &Arc<dyn ReadAt>, ino: GuestIno, size: u64) {
    let map = fs.runs(ino).expect("runs");
    assert_eq!(map.size_bytes(), size, "size of {ino:?}");
    fs.read_encoded(ino, size, &mut [])
        .expect("nothing, at the end");
    fails(
        fs.read_encoded(ino, size, &mut [0]),
        &[ErrorKind::InvalidInput],
    );
    fails(
        fs.read_encoded(ino, u64::MAX, &mut [0, 0]),
        &[ErrorKind::InvalidInput],
    );
    for run in map.runs() {
        let length = usize_from_u64(run.length_bytes.min(BYTES_MAX));
        let mut by_reader = vec![0x5a; length];
        fs.read_encoded(ino, run.start, &mut by_reader)
            .expect("bytes by the reader");
        let mut by_run = vec![0; length];
        match &run.target {
            Target::Source { offset, .. } => volume
                .read_at(*offset, &mut by_run)
                .expect("a run on the volume"),
            Target::Hole => {}
            Target::Inline(bytes) => by_run.copy_from_slice(&bytes[..length]),
            Target::Encoded => continue,
        }
        assert!(by_run == by_reader, "{ino:?} differs from {} on", run.start);
    }
}
