//! Guests' readers in separate processes: they return the same answers as in-process readers and
//! cannot access anything else, and when one dies, hangs or grows, only its volume suffers.
//!
//! This program is its own reader: started with the argument of a reader, it opens the volumes of
//! [`hostile`]. So it has its own `main`, which runs the tests one by one; `cargo test --test
//! worker NAME` runs those whose names contain NAME.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "it is its own test harness")]

mod hostile;
#[path = "../kit/mod.rs"]
mod kit;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use restorefs::block::filter::{Fault, OpKind};
use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::error::ErrorKind;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::fs::{FileType, GuestFs, VolumeState};
use restorefs::guest::worker::{Isolation, Limits, Readers, server};

const MIB: usize = 1 << 20;

fn limits() -> Limits {
    Limits {
        memory_bytes: 192 << 20,
        answer_time: Duration::from_millis(700),
        rest: Duration::from_millis(100),
        read_bytes: 8 << 20,
        ..Limits::default()
    }
}

fn readers() -> Readers {
    let program = std::env::current_exe().unwrap();
    Readers::new(Isolation::Process(program), limits(), 16 * MIB)
}

fn open(readers: &Readers) -> Arc<dyn GuestFs> {
    let opening = readers.open(vec![hostile::volume()]);
    assert_eq!(opening.state, VolumeState::Readable);
    opening.fs.unwrap()
}

fn looks_alive(fs: &dyn GuestFs) {
    let ino = fs.lookup(fs.root(), b"plain").unwrap();
    let mut bytes = [0; 5];
    fs.read_encoded(ino, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

/// Asks for what ends the reader; then nothing works, and after a rest everything.
fn dies_of(name: &[u8], says: &str) {
    let readers = readers();
    let (fs, other) = (open(&readers), open(&readers));
    let error = fs.lookup(fs.root(), name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(error.report().contains(says), "{error:?}");
    let trouble = fs.trouble().unwrap();
    assert!(
        !trouble.over && trouble.reason.contains(says),
        "{trouble:?}"
    );
    let again = fs.lookup(fs.root(), b"plain").unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Io);
    assert!(again.report().contains(says), "{again:?}");
    // Others do not notice.
    looks_alive(&*other);
    assert_eq!(other.trouble(), None);
    std::thread::sleep(Duration::from_millis(150));
    looks_alive(&*fs);
    let trouble = fs.trouble().unwrap();
    assert!(
        trouble.over && trouble.reason.contains("anew 1 time,"),
        "{trouble:?}"
    );
}

fn the_rest_begins_with_the_death() {
    let fs = open(&readers());
    assert!(fs.lookup(fs.root(), b"exit").is_err());
    // Nobody asks meanwhile.
    std::thread::sleep(Duration::from_millis(150));
    looks_alive(&*fs);
}

fn a_stack_overflow_is_one_volumes_damage() {
    dies_of(b"overflow the stack", "overflowed its stack");
}

fn a_loop_is_ended() {
    let began = Instant::now();
    dies_of(b"loop", "took longer than");
    assert!(began.elapsed() < Duration::from_secs(30));
}

fn a_sleeper_is_ended() {
    dies_of(b"sleep", "took longer than");
}

fn an_allocation_of_100_gib_is_ended() {
    dies_of(b"allocate", "memory allocation");
}

fn one_that_grows_is_ended() {
    dies_of(b"grow", "memory allocation");
}

fn one_that_exits_is_noticed() {
    dies_of(b"exit", "it died");
}

fn one_that_reads_for_ever_is_ended() {
    dies_of(b"read for ever", "it read more than");
}

fn a_program_that_is_no_reader_is_told() {
    for program in ["/bin/true", "/bin/cat", "/no/such/program"] {
        let readers = Readers::new(Isolation::Process(program.into()), limits(), MIB);
        let opening = readers.open(vec![hostile::volume()]);
        assert!(opening.fs.is_none() && opening.passing);
        let VolumeState::Damaged(reason) = opening.state else {
            panic!("{:?}", opening.state);
        };
        assert!(reason.contains("start"), "{reason}");
    }
}

fn a_panic_is_damage_and_not_the_end() {
    let fs = open(&readers());
    let error = fs.lookup(fs.root(), b"panic").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.report().contains("as was asked"), "{error:?}");
    looks_alive(&*fs);
    assert_eq!(fs.trouble(), None);
}

/// glibc opens a file under /proc before it shrinks a heap, and a reader once died of that.
fn memory_may_be_given_back() {
    let fs = open(&readers());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    fs.lookup(fs.root(), b"allocate and free").unwrap();
                }
            });
        }
    });
    assert_eq!(fs.trouble(), None);
}

/// Each forbidden thing is tried in the reader's process, and refused there; the reader goes on.
fn files_and_network_are_out_of_reach() {
    let fs = open(&readers());
    for name in hostile::FORBIDDEN {
        let error = fs.lookup(fs.root(), name.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {error:?}");
        assert!(error.report().contains("was refused"), "{name}: {error:?}");
    }
    assert_eq!(fs.trouble(), None);
}

/// A descriptor that whoever started the daemon had left open does not reach those who parse hostile bytes.
fn no_descriptor_is_inherited() {
    let secret = std::fs::File::open("/etc/passwd").unwrap();
    // Without the flag that closes it in other programs, as shells and careless services leave descriptors.
    let leaked = rustix::io::dup(&secret).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let fs = open(&readers());
    looks_alive(fs.as_ref());
    let own = std::process::id();
    let mut seen = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        if !status.contains(&format!("PPid:\t{own}\n")) {
            continue;
        }
        seen += 1;
        let descriptors = std::fs::read_dir(process.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let shows = std::fs::read_link(descriptor.path()).unwrap_or_default();
            assert_ne!(shows, std::path::Path::new("/etc/passwd"), "{descriptor:?}");
        }
    }
    assert!(seen > 0, "no reader was seen");
    drop((leaked, secret));
}

fn names_that_mean_something_else_do_not_come_through() {
    let fs = open(&readers());
    for dir in ["dotdot", "slash", "nul", "empty"] {
        let dir = fs.lookup(fs.root(), dir.as_bytes()).unwrap();
        assert_eq!(fs.entries(dir).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let huge = fs.lookup(fs.root(), b"16 EiB").unwrap_err();
    assert_eq!(huge.kind(), ErrorKind::Corrupt);
    looks_alive(&*fs);
}

fn a_volume_that_cannot_be_read_says_so() {
    let faulty = Arc::new(Fault::new(hostile::volume_disk()));
    let fs = readers()
        .open(vec![Arc::<Fault<MemoryDisk>>::clone(&faulty)])
        .fs
        .unwrap();
    faulty.fail_range(OpKind::Read, 1 << 20, 1 << 20, ErrorKind::Stale);
    let error = fs.lookup(fs.root(), b"read at 1 MiB").unwrap_err();
    // Not what the reader made of it.
    assert_eq!(error.kind(), ErrorKind::Stale);
    looks_alive(&*fs);
}

fn many_ask_at_once() {
    let fs = open(&readers());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..200 {
                    looks_alive(&*fs);
                }
            });
        }
    });
    // Some of them while it dies: each is answered.
    std::thread::scope(|scope| {
        for n in 0..16 {
            let fs = &fs;
            scope.spawn(move || {
                let ino = fs.lookup(fs.root(), b"plain").map_or(fs.root(), |ino| ino);
                if n == 3 {
                    assert!(fs.lookup(fs.root(), b"exit").is_err());
                } else {
                    let _ = fs.read_encoded(ino, 0, &mut [0; 5]);
                }
            });
        }
    });
    std::thread::sleep(Duration::from_millis(150));
    looks_alive(&*fs);
}

fn a_real_filesystem_is_the_same_in_another_process() {
    let Some(image) = hostile::ext_image() else {
        return;
    };
    let volume: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(&image));
    let there = readers().open(vec![Arc::clone(&volume)]).fs.unwrap();
    let in_this = Readers::new(Isolation::Thread, limits(), MIB);
    let here = in_this.open(vec![Arc::clone(&volume)]).fs.unwrap();
    assert!(check_guest_fs(&*there, &volume) > 3000);
    assert_eq!(there.info(), here.info());
    let mut todo = vec![there.root()];
    while let Some(ino) = todo.pop() {
        assert_eq!(
            there.attributes(ino).unwrap(),
            here.attributes(ino).unwrap()
        );
        assert_eq!(there.xattrs(ino).unwrap(), here.xattrs(ino).unwrap());
        match there.attributes(ino).unwrap().file_type {
            FileType::Directory => {
                let entries = there.entries(ino).unwrap();
                assert_eq!(entries, here.entries(ino).unwrap());
                todo.extend(entries.iter().map(|entry| entry.ino));
            }
            FileType::Regular => assert_eq!(there.runs(ino).unwrap(), here.runs(ino).unwrap()),
            _ => {}
        }
    }
}

const TESTS: &[(&str, fn())] = &[
    (
        "the_rest_begins_with_the_death",
        the_rest_begins_with_the_death,
    ),
    (
        "a_stack_overflow_is_one_volumes_damage",
        a_stack_overflow_is_one_volumes_damage,
    ),
    ("a_loop_is_ended", a_loop_is_ended),
    ("a_sleeper_is_ended", a_sleeper_is_ended),
    (
        "an_allocation_of_100_gib_is_ended",
        an_allocation_of_100_gib_is_ended,
    ),
    ("one_that_grows_is_ended", one_that_grows_is_ended),
    ("one_that_exits_is_noticed", one_that_exits_is_noticed),
    (
        "one_that_reads_for_ever_is_ended",
        one_that_reads_for_ever_is_ended,
    ),
    (
        "a_program_that_is_no_reader_is_told",
        a_program_that_is_no_reader_is_told,
    ),
    (
        "a_panic_is_damage_and_not_the_end",
        a_panic_is_damage_and_not_the_end,
    ),
    ("memory_may_be_given_back", memory_may_be_given_back),
    (
        "files_and_network_are_out_of_reach",
        files_and_network_are_out_of_reach,
    ),
    (
        "names_that_mean_something_else_do_not_come_through",
        names_that_mean_something_else_do_not_come_through,
    ),
    (
        "a_volume_that_cannot_be_read_says_so",
        a_volume_that_cannot_be_read_says_so,
    ),
    ("many_ask_at_once", many_ask_at_once),
    ("no_descriptor_is_inherited", no_descriptor_is_inherited),
    (
        "a_real_filesystem_is_the_same_in_another_process",
        a_real_filesystem_is_the_same_in_another_process,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == server::ARGUMENT)
    {
        server::run_with(hostile::open).unwrap();
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = TESTS.iter().filter(|(name, _)| {
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    });
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in chosen {
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        *(if ok { &mut passed } else { &mut failed }) += 1;
    }
    println!("test result: {passed} passed; {failed} failed");
    std::process::exit(i32::from(failed > 0));
}
