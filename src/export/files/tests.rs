//! Extraction from a hostile guest.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::{ExtractOptions, Extracted, extract};
use crate::block::filter::{Fault, OpKind};
use crate::block::{MemoryDisk, ReadAt, WriteAt};
use crate::error::{ErrorKind, Result};
use crate::export::fake::{Body, Event, Fake};
use crate::guest::fs::FileType;
use crate::sys::Dir;
use crate::task::Monitor;
use crate::tree::Ino;

/// A file whose reading runs an action.
struct Meanwhile(Event);

impl ReadAt for Meanwhile {
    fn size_bytes(&self) -> u64 {
        4
    }
    fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<()> {
        (self.0)();
        buf.fill(b'x');
        Ok(())
    }
}

fn take(fake: &Fake, target: &Path) -> Result<Extracted> {
    let dir = Dir::open(target).unwrap();
    let options = ExtractOptions::default();
    extract(fake, Ino(1), b"out", &dir, &options, &Monitor::default())
}

fn reasons(extracted: &Extracted) -> String {
    let mut lines: Vec<String> = extracted
        .skipped
        .iter()
        .map(|s| format!("{}: {}\n", s.path.display(), s.reason))
        .collect();
    lines.sort();
    lines.concat()
}

/// Everything below a directory: paths, sorted.
fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = vec![root.to_path_buf()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let shown = entry.path().strip_prefix(root).unwrap().to_path_buf();
            found.push(shown.display().to_string());
            if entry.file_type().unwrap().is_dir() {
                queue.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn hostile_names_make_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("a/b");
    Dir::open(temp.path())
        .unwrap()
        .make_dirs("a/b", 0o755)
        .unwrap();
    let long: &'static [u8] = &[b'x'; 256];
    let names: Vec<(&'static [u8], u64)> = vec![
        (b"..", 2),
        (b".", 2),
        (b"", 2),
        (b"../../evil", 2),
        (b"/evil", 2),
        (b"sub/evil", 2),
        (b"nul\0evil", 2),
        (long, 2),
        (b"good", 2),
        (b"missing", 99),
    ];
    let count = names.len() - 1;
    let fake = Fake::default().dir(1, &names).file(2, b"text");
    let extracted = take(&fake, &target).unwrap();
    assert_eq!(walk(temp.path()), ["a", "a/b", "a/b/out", "a/b/out/good"]);
    assert_eq!((extracted.files, extracted.skipped.len()), (1, count));
    assert!(
        extracted.skipped.iter().all(|s| s.path.starts_with("out")),
        "{}",
        reasons(&extracted)
    );
}

/// A symlink, then a directory or file of the same name with content: the classic escape.
#[test]
fn nothing_goes_through_a_symlink() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("target");
    let outside = temp.path().join("outside");
    let dir = Dir::open(temp.path()).unwrap();
    dir.make_dir("target", 0o755).unwrap();
    dir.make_dir("outside", 0o755).unwrap();
    let path: &'static str = Box::leak(outside.display().to_string().into_boxed_str());
    let file: &'static str = Box::leak(format!("{path}/file").into_boxed_str());
    let fake = Fake::default()
        .dir(1, &[(b"d", 2), (b"d", 3), (b"f", 4), (b"f", 5)])
        .link(2, path.as_bytes())
        .dir(3, &[(b"evil", 5)])
        .link(4, file.as_bytes())
        .file(5, b"evil");
    let extracted = take(&fake, &target).unwrap();
    assert!(walk(&outside).is_empty());
    assert_eq!(walk(&target), ["out", "out/d", "out/f"]);
    assert_eq!((extracted.symlinks, extracted.files), (2, 0));
    assert_eq!(
        reasons(&extracted),
        "out/d: the name is there already\nout/f: the name is there already\n"
    );
    assert_eq!(
        std::fs::read_link(target.join("out/d")).unwrap(),
        Path::new(path)
    );
}

#[test]
fn loops_and_twins_end() {
    let temp = tempfile::tempdir().unwrap();
    let fake = Fake::default()
        .dir(1, &[(b"again", 1), (b"one", 2), (b"two", 2)])
        .dir(2, &[(b"up", 1), (b"f", 3)])
        .file(3, b"x");
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!(extracted.skipped_count, 3, "{}", reasons(&extracted));
    assert_eq!((extracted.directories, extracted.files), (2, 1));
    // Deeper than the limit: every directory contains the next.
    let mut deep = Fake::default();
    for ino in 1..1000 {
        deep = deep.dir(ino, &[(b"d", ino + 1)]);
    }
    let other = tempfile::tempdir().unwrap();
    let extracted = take(&deep, other.path()).unwrap();
    assert_eq!(extracted.directories, 400);
    assert!(reasons(&extracted).contains("deeper than"));
}

#[test]
fn what_gives_power_is_left_out_and_said() {
    let temp = tempfile::tempdir().unwrap();
    let fake = Fake::default()
        .dir(1, &[(b"null", 2), (b"su", 3), (b"ping", 66), (b"l", 67)])
        .link(67, b"su")
        .with(2, Body::Other(FileType::CharDevice))
        .file(3, b"su")
        .file(66, b"ping")
        .set(3, |a| (a.mode, a.nlink) = (0o6755, 1))
        .xattrs(
            66,
            &[
                "security.capability",
                "security.selinux",
                "trusted.overlay.redirect",
                "user.note",
            ],
        )
        .xattrs(67, &["trusted.overlay.redirect"]);
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!(walk(temp.path()), ["out", "out/l", "out/ping", "out/su"]);
    let withheld: Vec<_> = extracted.withheld.iter().collect();
    let counted = [
        ("security.capability", 1),
        ("security.selinux", 1),
        ("trusted.overlay.redirect", 2),
    ];
    let counted = counted.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(
        withheld,
        counted.each_ref().map(|(name, count)| (name, count))
    );
    let su = std::fs::metadata(temp.path().join("out/su")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.mtime(), su.mtime_nsec()),
        (0o755, 1_000_000, 5)
    );
    let reasons = reasons(&extracted);
    for reason in ["out/null: a device", "out/su: its setuid"] {
        assert!(reasons.contains(reason), "{reasons}");
    }
}

#[test]
fn holes_links_and_directories_keep_what_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let sparse = MemoryDisk::sparse(64 << 20);
    sparse.write_at(10 << 20, &[7; 4096]).unwrap();
    let fake = Fake::default()
        .dir(1, &[(b"sparse", 2), (b"same", 2), (b"dir", 3)])
        .with(2, Body::File(Arc::new(sparse)))
        .dir(3, &[(b"same", 2)])
        .set(2, |a| (a.mode, a.nlink) = (0o640, 3))
        .set(3, |a| (a.mode, a.nlink) = (0o1750, 2))
        .set(1, |a| (a.mode, a.nlink) = (0o755, 3));
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!((extracted.files, extracted.hard_links), (1, 2));
    let stat = |name: &str| std::fs::metadata(temp.path().join(name)).unwrap();
    let file = stat("out/sparse");
    assert_eq!((file.len(), file.nlink()), (64 << 20, 3));
    assert!(file.blocks() < 10_000, "{}", file.blocks());
    assert_eq!(file.ino(), stat("out/dir/same").ino());
    assert_eq!(
        (stat("out/dir").mode() & 0o7777, stat("out/dir").mtime()),
        (0o1750, 1_000_000)
    );
    assert_eq!(stat("out").mtime(), 1_000_000);
    let mut bytes = std::fs::read(temp.path().join("out/same")).unwrap();
    assert_eq!(bytes.split_off(10 << 20)[..4096], [7; 4096]);
    // The name exists now.
    let again = take(&fake, temp.path()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

/// A file that cannot be read to its end is missing under all of its names; the other files are there.
#[test]
fn a_damaged_file_is_not_left_half() {
    let temp = tempfile::tempdir().unwrap();
    let bad = Fault::new(Arc::new(MemoryDisk::from_bytes(&vec![1; 4 << 20])));
    bad.fail_range(OpKind::Read, 3 << 20, 1, ErrorKind::Corrupt);
    let fake = Fake::default()
        .dir(1, &[(b"bad", 2), (b"good", 3), (b"bad2", 2)])
        .with(2, Body::File(Arc::new(bad)))
        .set(2, |a| (a.mode, a.nlink) = (0o644, 2))
        .file(3, b"good");
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!(walk(temp.path()), ["out", "out/good"]);
    assert_eq!((extracted.files, extracted.hard_links), (1, 0));
    assert!(reasons(&extracted).contains("out/bad"));
}

#[test]
fn stopping_stops() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let fake = Fake::default().dir(1, &[(b"a", 2)]).file(2, b"a");
    let monitor = Monitor::default();
    monitor.cancel();
    let options = ExtractOptions::default();
    let error = extract(&fake, Ino(1), b"out", &dir, &options, &monitor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// A local user with the number of a guest's user can reach nothing before everything is complete.
#[test]
fn the_top_is_closed_until_all_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let top = temp.path().join("out");
    let look = move || {
        // The walk has ended long before.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let mode = std::fs::metadata(&top).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    };
    let fake = Fake::default()
        .dir(1, &[(b"a", 2)])
        .set(1, |a| (a.mode, a.nlink) = (0o755, 2))
        .with(2, Body::File(Arc::new(Meanwhile(Box::new(look)))));
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!(extracted.files, 1, "{}", reasons(&extracted));
    let mode = std::fs::metadata(temp.path().join("out")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o755);
}

/// The owner of the target replaces the restored directory with another one while names are created in it.
#[test]
fn what_is_put_in_the_tops_place_is_given_no_names() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().to_path_buf();
    let exchange = move || {
        let target = Dir::open(&target).unwrap();
        target.rename("out", "moved").unwrap();
        for dir in ["out", "out/a", "out/z"] {
            target.make_dir(dir, 0o755).unwrap();
        }
        target.create_file("out/z/same", 0o644).unwrap();
    };
    let fake = Fake::default()
        .dir(1, &[(b"a", 2), (b"z", 3)])
        .dir(2, &[(b"same", 4)])
        .dir(3, &[(b"same", 4)])
        .file(4, b"true")
        .set(4, |a| (a.mode, a.nlink) = (0o600, 2));
    // "z" comes first, because the newest step is taken first.
    let fake = fake.when_listed(2, Box::new(exchange));
    let extracted = take(&fake, temp.path()).unwrap();
    assert_eq!(extracted.hard_links, 1, "{}", reasons(&extracted));
    assert!(!temp.path().join("out/a/same").exists());
    let at = |name: &str| std::fs::metadata(temp.path().join(name)).unwrap();
    assert_eq!(at("moved/a/same").ino(), at("moved/z/same").ino());
    assert_eq!(at("moved/a/same").len(), 4);
}
