//! Writes and reads while a commit runs, which fails or succeeds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;

use crate::stand::{Stand, Stop, ready, run, text};

/// Where the number of the last write lies: in a cluster of which a part is written.
const PLACE: u64 = 70_000;
/// LIMIT: how long anything may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

fn open(stand: &Stand) -> File {
    let mut options = File::options();
    options.read(true).write(true);
    options.open(stand.disk("s")).unwrap()
}

fn read(file: &File) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, PLACE)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Writes 1, 2, 3, ... and tells after each that it is written. It ends when told to, after one write at least, or with
/// the first error.
struct Writer {
    written: AtomicU32,
    stop: AtomicBool,
}

impl Writer {
    const fn new() -> Self {
        Self {
            written: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn run(&self, file: &File) -> std::io::Result<()> {
        let _guard = Stop(&self.stop);
        loop {
            let next = self.written.load(Ordering::SeqCst) + 1;
            file.write_all_at(&next.to_le_bytes(), PLACE)?;
            self.written.store(next, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }

    /// Waits until more is written than `before`, so that whoever calls it does not run ahead of the writer.
    fn wait_beyond(&self, before: u32) -> u32 {
        let begun = std::time::Instant::now();
        loop {
            let written = self.written.load(Ordering::SeqCst);
            if written > before {
                return written;
            }
            assert!(!self.stop.load(Ordering::SeqCst), "the writer has ended");
            assert!(begun.elapsed() < PATIENCE, "{written} writes, and no more");
            std::thread::yield_now();
        }
    }
}

/// Whoever writes while a commit runs waits for it: a commit that fails refuses no write, and loses nothing of what came
/// meanwhile. It fails before the seal (a point has the name) or after it (something else is in the point's place).
#[test]
fn writes_during_a_commit_that_fails_are_kept() {
    if !ready(&[]) {
        return;
    }
    for (options, name) in [
        ("threads=1", "p0"),
        ("", "p0"),
        ("threads=1", "x"),
        ("", "x"),
    ] {
        let (stand, mut bytes) = Stand::with_point(options);
        stand.begin("s");
        std::fs::File::create(stand.place.repo().join("vms/vm/points/x")).unwrap();
        run("touch", &[text(&stand.disk("s"))]);
        let file = open(&stand);
        let writer = Writer::new();
        std::thread::scope(|scope| {
            let guard = Stop(&writer.stop);
            let running = scope.spawn(|| writer.run(&file));
            let mut written = 0;
            for _ in 0..20 {
                written = writer.wait_beyond(written);
                let refused = stand.commit("s", name);
                assert_eq!(refused, Err(Errno::EXIST), "{}", stand.last_error("s"));
            }
            drop(guard);
            running.join().unwrap().unwrap();
        });
        let last = writer.written.load(Ordering::SeqCst);
        assert_eq!(read(&file).unwrap(), last);
        let at = usize::try_from(PLACE).unwrap();
        bytes[at..at + 4].copy_from_slice(&last.to_le_bytes());
        assert!(std::fs::read(stand.disk("s")).unwrap() == bytes);
        stand.commit("s", "p1").unwrap();
        assert!(stand.point("p1") == bytes);
    }
}

/// A commit that succeeds ends a writer that goes on: what it was told is written is in the point, and nobody waits for ever.
#[test]
fn a_writer_that_goes_on_does_not_hold_a_commit_up() {
    if !ready(&[]) {
        return;
    }
    for round in 0..8 {
        let options = if round % 2 == 0 { "threads=1" } else { "" };
        let (stand, _) = Stand::with_point(options);
        stand.begin("s");
        let file = open(&stand);
        let writer = Writer::new();
        std::thread::scope(|scope| {
            let _guard = Stop(&writer.stop);
            let running = scope.spawn(|| writer.run(&file));
            writer.wait_beyond(0);
            stand.commit("s", "p1").unwrap();
            let ended = running.join().unwrap().unwrap_err();
            assert_eq!(Errno::from_io_error(&ended), Some(Errno::ROFS));
        });
        let last = writer.written.load(Ordering::SeqCst).to_le_bytes();
        let at = usize::try_from(PLACE).unwrap();
        assert_eq!(stand.point("p1")[at..at + 4], last);
    }
}

/// Who has written reads what it wrote, whoever else reads, and so fills the page cache, while the write is under way.
#[test]
fn nobody_reads_an_older_page_after_a_write() {
    if !ready(&[]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    stand.begin("s");
    let file = open(&stand);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _guard = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let file = open(&stand);
                while !stop.load(Ordering::SeqCst) {
                    read(&file).unwrap();
                }
            });
        }
        for n in 1..3000u32 {
            file.write_all_at(&n.to_le_bytes(), PLACE).unwrap();
            assert_eq!(read(&file).unwrap(), n);
        }
    });
}
