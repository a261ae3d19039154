//! Archives of a hostile guest, read back.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{ArchiveOptions, Archived, Format, ReaderGone, archive};
use crate::block::filter::{Fault, OpKind};
use crate::block::{MemoryDisk, ReadAt};
use crate::error::{ErrorKind, Result};
use crate::export::fake::{Body, Fake};
use crate::export::files::XattrChoice;
use crate::guest::fs::{FileType, Time, Xattr};
use crate::task::Monitor;
use crate::tree::{Attributes, Ino};

const BEFORE: Time = Time {
    seconds: -6,
    nanoseconds: 750_000_000,
};

/// A guest whose files have attributes that a header has no room for.
fn guest() -> Fake {
    Fake::of(Attributes {
        ino: Ino(0),
        file_type: FileType::Regular,
        mode: 0o4755,
        uid: 3_000_000_000,
        gid: 5,
        nlink: 1,
        size_bytes: 0,
        blocks: 0,
        atime: BEFORE,
        mtime: BEFORE,
        ctime: BEFORE,
        crtime: None,
        rdev: Some((1, 3)),
    })
}

fn take(fake: &Fake, format: Format) -> (Vec<u8>, Result<Archived>) {
    let mut out = Vec::new();
    let options = ArchiveOptions {
        format,
        threads: 3,
        xattrs: &XattrChoice::default(),
    };
    let monitor = Monitor::default();
    let done = archive(fake, Ino(1), b"out", Box::new(&mut out), options, &monitor);
    (out, done)
}

/// Path, type, link and content of each entry, read with the crate's own reader.
fn read(tar: &[u8]) -> Vec<(String, char, String, Vec<u8>)> {
    let mut archive = ::tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry
            .link_name_bytes()
            .map_or_else(String::new, |l| String::from_utf8_lossy(&l).into_owned());
        let letter = char::from(entry.header().entry_type().as_byte());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path, letter, link, bytes)
    });
    entries.collect()
}

fn reasons(archived: &Archived) -> String {
    let all = archived
        .skipped
        .iter()
        .map(|s| format!("{}: {}\n", s.path.display(), s.reason));
    all.collect()
}

/// Nothing in an archive leads out of it, and no path occurs twice.
#[test]
fn hostile_names_are_left_out_and_named() {
    let long = vec![b'n'; 256];
    let fake = guest()
        .dir(
            1,
            &[
                (b"..", 2),
                (b".", 2),
                (b"../up", 2),
                (b"/abs", 2),
                (b"nul\0x", 2),
                (b"", 2),
                (&long, 2),
                (b"good", 2),
                (b"good", 3),
                (b"loop", 1),
                (b"gone", 50),
                (b"nolink", 4),
                (b"dev", 99),
            ],
        )
        .file(2, b"two")
        .with(3, Body::Link(b"/etc".to_vec()))
        .with(4, Body::Link(Vec::new()))
        .with(99, Body::Other(FileType::CharDevice))
        .set(99, |a| a.rdev = Some((1, u32::MAX)));
    for format in [Format::Tar, Format::Zip] {
        let (bytes, done) = take(&fake, format);
        let archived = done.unwrap();
        let names: Vec<String> = if format == Format::Tar {
            read(&bytes).into_iter().map(|entry| entry.0).collect()
        } else {
            let zip = ::zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
            zip.file_names()
                .map(|name| name.unwrap().into_owned())
                .collect()
        };
        assert_eq!(names, ["out/", "out/good"]);
        let notes = reasons(&archived);
        for part in [
            "out/..: a name that",
            "abs: a name with a slash",
            "good: the name is there already",
            "loop: a directory that was met before",
            "gone: ",
            "nolink: a symlink whose target",
            "dev: a device",
        ] {
            assert!(notes.contains(part), "{part} is not in {notes}");
        }
        assert_eq!(archived.skipped_count, 12);
    }
}

#[test]
fn all_types_and_what_the_header_has_no_room_for() {
    let (deep, target) = (vec![b'd'; 200], vec![b't'; 3000]);
    let fake = guest()
        .dir(
            1,
            &[
                (b"a", 2),
                (b"b", 2),
                (b"fifo", 3),
                (b"sock", 4),
                (&deep, 5),
                (b"odd\xff", 6),
            ],
        )
        .file(2, b"two")
        .set(2, |a| a.nlink = 2)
        .with(3, Body::Other(FileType::Fifo))
        .with(4, Body::Other(FileType::Socket))
        .link(5, &target)
        .file(6, b"");
    let fake = fake.all_xattrs(&[
        Xattr {
            name: b"user.a=b".to_vec(),
            value: vec![0, 10, 255],
        },
        Xattr {
            name: b"user.restorefs.uid".to_vec(),
            value: vec![1],
        },
        Xattr {
            name: b"system.posix_acl_access".to_vec(),
            value: vec![9; 4],
        },
    ]);
    let (bytes, done) = take(&fake, Format::Tar);
    let archived = done.unwrap();
    let entries = read(&bytes);
    let paths: Vec<(&str, char)> = entries.iter().map(|e| (e.0.as_str(), e.1)).collect();
    let deep = format!("out/{}", "d".repeat(200));
    assert_eq!(
        paths,
        [
            ("out/", '5'),
            ("out/a", '0'),
            ("out/b", '1'),
            ("out/fifo", '6'),
            (deep.as_str(), '2'),
            ("out/odd\u{fffd}", '0'),
        ]
    );
    assert_eq!(entries[1].3, b"two");
    assert_eq!(entries[2].2, "out/a");
    assert_eq!(entries[4].2.as_bytes(), target);
    // Compares the encoded records: the crate takes a newline in a value for the record's end.
    let has = |record: &[u8]| bytes.windows(record.len()).any(|w| w == record);
    assert!(has(b" mtime=-5.250000000\n"));
    assert!(has(b" uid=3000000000\n"));
    assert!(has(b"31 SCHILY.xattr.user.a%3Db=\x00\x0a\xff\n"));
    assert!(!has(b"user.restorefs"));
    assert!(
        reasons(&archived).contains("its ACL: "),
        "{}",
        reasons(&archived)
    );
    assert_eq!(
        (archived.files, archived.hard_links, archived.special),
        (2, 1, 1)
    );
    // A socket is not a failure; five invalid ACLs are. A link has no ACL of its own.
    assert_eq!((archived.skipped_count, archived.failed_count), (6, 5));
}

/// An unreadable small file is missing under all of its names.
#[test]
fn a_damaged_small_file_is_left_out() {
    let bad = Fault::new(Arc::new(MemoryDisk::from_bytes(&vec![1; 4 << 20])));
    bad.fail_range(OpKind::Read, 3 << 20, 1, ErrorKind::Corrupt);
    let fake = guest()
        .dir(1, &[(b"bad", 2), (b"good", 3), (b"bad2", 2)])
        .with(2, Body::File(Arc::new(bad)))
        .set(2, |a| a.nlink = 2)
        .file(3, b"good");
    let (bytes, done) = take(&fake, Format::Tar);
    let archived = done.unwrap();
    let names: Vec<String> = read(&bytes).into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, ["out/", "out/good"]);
    assert_eq!(archived.failed_count, 2);
    assert!(reasons(&archived).contains("out/bad2"));
}

/// A large file that fails in the middle ends the archive in a way that every reader reports.
#[test]
fn a_damaged_large_file_ends_the_archive() {
    let bad = Fault::new(Arc::new(MemoryDisk::from_bytes(&vec![1; 12 << 20])));
    bad.fail_range(OpKind::Read, 11 << 20, 1, ErrorKind::Disconnected);
    let fake = guest()
        .dir(1, &[(b"large", 2), (b"later", 3)])
        .with(2, Body::File(Arc::new(bad)))
        .file(3, b"good");
    for format in [Format::Tar, Format::TarZstd, Format::Zip] {
        let (bytes, done) = take(&fake, format);
        let error = done.unwrap_err();
        assert!(error.report().contains("out/large"), "{}", error.report());
        assert!(!ReaderGone::caused(&error));
        let whole = match format {
            Format::Tar => {
                let mut archive = ::tar::Archive::new(bytes.as_slice());
                let mut entries = archive.entries().unwrap().map(|entry| {
                    let mut bytes = Vec::new();
                    entry.and_then(|mut entry| entry.read_to_end(&mut bytes))
                });
                entries.all(|read| read.is_ok())
            }
            Format::TarZstd => zstd::decode_all(bytes.as_slice()).is_ok(),
            Format::Zip => ::zip::ZipArchive::new(std::io::Cursor::new(&bytes)).is_ok(),
        };
        assert!(!whole, "{format:?}");
    }
}

/// A file whose reader panics.
struct Panics(u64);

impl ReadAt for Panics {
    fn size_bytes(&self) -> u64 {
        self.0
    }
    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
        panic!("on purpose")
    }
}

/// More panics than loaders: all are named, and no thread waits for ever.
#[test]
fn a_reader_that_panics_is_an_error() {
    let mut fake = guest();
    let mut entries = Vec::new();
    for n in 0..600u64 {
        fake = fake.with(n + 10, Body::File(Arc::new(Panics(10))));
        entries.push((format!("f{n}").into_bytes(), n + 10));
    }
    let (_, done) = take(&fake.with(1, Body::Directory(entries)), Format::Tar);
    assert_eq!(done.unwrap().failed_count, 600);
    let large = guest()
        .dir(1, &[(b"large", 2)])
        .with(2, Body::File(Arc::new(Panics(9 << 20))));
    let error = take(&large, Format::Tar).1.unwrap_err();
    assert!(error.report().contains("out/large"), "{}", error.report());
}

#[test]
fn more_than_the_queues_and_the_budget_hold() {
    let mut entries = Vec::new();
    let mut fake = guest();
    for n in 0..1000u64 {
        // Every tenth file is large, so that the budget is full several times.
        let size = if n % 10 == 0 { 2 << 20 } else { 10 };
        let fill = u8::try_from(n % 251).unwrap();
        fake = fake.file(n + 10, &vec![fill; size]);
        entries.push((format!("f{n:04}").into_bytes(), n + 10));
    }
    let fake = fake.with(1, Body::Directory(entries));
    let (bytes, done) = take(&fake, Format::Tar);
    assert_eq!(done.unwrap().files, 1000);
    for (n, (path, _, _, content)) in read(&bytes).into_iter().skip(1).enumerate() {
        assert_eq!(path, format!("out/f{n:04}"));
        assert!(content.iter().all(|byte| usize::from(*byte) == n % 251));
        assert_eq!(content.len(), if n % 10 == 0 { 2 << 20 } else { 10 });
    }
}

/// Accepts some bytes and then fails as if the reader were gone.
struct Closing(usize);

impl std::io::Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_who_reads_and_stopping() {
    let fake = guest().dir(1, &[(b"a", 2)]).file(2, &vec![7; 6 << 20]);
    for format in [Format::Tar, Format::Zip] {
        let options = ArchiveOptions {
            format,
            threads: 1,
            xattrs: &XattrChoice::default(),
        };
        let run = |sink: usize, stop: bool| {
            let monitor = Monitor::new(Arc::new(AtomicBool::new(stop)));
            let sink = Box::new(Closing(sink));
            archive(&fake, Ino(1), b"out", sink, options, &monitor).unwrap_err()
        };
        let closed = run(100, false);
        assert_eq!(closed.kind(), ErrorKind::Disconnected);
        assert!(ReaderGone::caused(&closed));
        assert_eq!(run(1 << 30, true).kind(), ErrorKind::Cancelled);
    }
    let error = take(&guest(), Format::Tar).1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
