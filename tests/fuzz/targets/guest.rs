//! A guest filesystem of any sectors: walked, every file read. A reader's own panics are caught inside and are damage, so a run under
//! libFuzzer, which ends at any panic, also finds those.

use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::guest::fs::{FileType, GuestFs, GuestIno};
use restorefs::guest::probe::open_fs;

/// Inodes that are looked at.
const INODES: usize = 100;

fn look(fs: &dyn GuestFs, ino: GuestIno, todo: &mut Vec<GuestIno>) {
    let Ok(attributes) = fs.attributes(ino) else {
        return;
    };
    let _ = fs.xattrs(ino);
    match attributes.file_type {
        FileType::Directory => {
            if let Ok(entries) = fs.entries(ino) {
                todo.extend(entries.iter().take(INODES).map(|entry| entry.ino));
            }
        }
        FileType::Symlink => {
            let _ = fs.symlink_target(ino);
        }
        FileType::Regular => {
            if let Ok(map) = fs.runs(ino) {
                assert_eq!(map.size_bytes(), attributes.size_bytes);
            }
            let length = usize::try_from(attributes.size_bytes.min(8192)).unwrap_or(0);
            let _ = fs.read_encoded(ino, 0, &mut vec![0; length]);
        }
        _ => {}
    }
}

/// Opens the filesystem on the devices and walks it.
pub(crate) fn walk(devices: &[Arc<dyn ReadAt>]) {
    if let (_, Some(fs)) = open_fs(devices) {
        look_around(&*fs);
    }
}

/// Walks a filesystem.
pub(crate) fn look_around(fs: &dyn GuestFs) {
    let mut todo = vec![fs.root()];
    for _ in 0..INODES {
        let Some(ino) = todo.pop() else { return };
        look(fs, ino, &mut todo);
    }
}
