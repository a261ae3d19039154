//! Many readers of many points while points are added, within little memory; and readers' processes that are killed meanwhile.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kernel::text;
use crate::layout::{Guest, Home, ready};
use crate::load::{Random, Score, Truth, read};
use crate::process::{descriptors, is_reader, readers_of, resident};

/// Right answers that a run has to have. A busy machine takes its time for them: there is a limit, and no rate.
const RIGHT_MIN: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether a run goes on: its time is not over, or it has not had its answers yet.
fn goes_on(began: Instant, time: Duration, score: &Score) -> bool {
    let right = score.right.load(Ordering::Relaxed);
    began.elapsed() < time || (right <= RIGHT_MIN && began.elapsed() < PATIENCE)
}

const READERS: u64 = 16;
const MIB: u64 = 1 << 20;
/// The budget that the daemon is given.
const MEMORY: u64 = 128 * MIB;
/// Beyond it: buffers of a backup and of requests in flight, stacks, what the allocator keeps.
const MORE: u64 = 32 * MIB;
/// One reader's share of the budget.
const READER: u64 = 12 * MIB;
/// Readers at once: the two that 128 MiB keep, and four that each thread of the load, and probing, may be opening for a point.
const READERS_MAX: usize = 2 + (READERS as usize + 1) * 4;
/// Descriptors that a point may keep (its layers), beyond those of the first ten.
const DESCRIPTORS_MORE: usize = 64;

fn seconds(default: u64) -> Duration {
    let said = std::env::var("RESTOREFS_STRESS_SECONDS").ok();
    Duration::from_secs(said.and_then(|text| text.parse().ok()).unwrap_or(default))
}

/// Another point: something changes where no filesystem is, so that every point shows the same files.
pub(crate) fn add_point(guest: &Guest, n: usize) {
    let disk = std::fs::File::options()
        .write(true)
        .open(guest.path("vda.raw"))
        .unwrap();
    // Between the table and the first partition.
    let fill = [n as u8 + 1; 4096];
    disk.write_all_at(&fill, 512 * 1024).unwrap();
    guest.back_up(&format!("point-{n}"));
}

fn points(guest: &Guest) -> Vec<PathBuf> {
    let vm = guest.path("mnt/db01");
    std::fs::read_dir(vm)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        // A session that is open now is no point yet, and gone when it is one.
        .filter(|path| path.extension().is_none_or(|end| end != "partial"))
        .collect()
}

/// No answer is wrong, no memory beyond the bound, and nothing is left.
#[test]
fn sixteen_readers_of_ten_points_in_little_memory() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Xfs, 800);
    let truth = Truth::new(&guest);
    for n in 0..10 {
        add_point(&guest, n);
    }
    std::fs::create_dir(guest.path("mnt")).unwrap();
    let mnt = guest.path("mnt");
    let daemon = guest
        .place
        .serve(&["--mount", text(&mnt), "--memory", "128M"]);
    let pid = daemon.child.id();
    let score = Score::default();
    let (mut most, mut most_readers, mut most_of_one, mut seen) = (0, 0, 0, Vec::new());
    let mut most_together = 0;
    let mut first = 0;
    let began = Instant::now();
    let time = seconds(8);
    std::thread::scope(|scope| {
        for seed in 0..READERS {
            let (truth, score, guest) = (&truth, &score, &guest);
            scope.spawn(move || read(truth, &|| points(guest), score, seed));
        }
        scope.spawn(|| {
            let mut n = 10;
            while !score.stop.load(Ordering::Relaxed) {
                add_point(&guest, n);
                n += 1;
                std::thread::sleep(Duration::from_millis(1500));
            }
        });
        while goes_on(began, time, &score) {
            std::thread::sleep(Duration::from_millis(200));
            let readers = readers_of(pid);
            let each: Vec<u64> = readers.iter().map(|reader| resident(*reader)).collect();
            most = most.max(resident(pid));
            most_together = most_together.max(resident(pid) + each.iter().sum::<u64>());
            most_readers = most_readers.max(readers.len());
            most_of_one = most_of_one.max(each.into_iter().max().unwrap_or(0));
            seen.extend(readers);
            if began.elapsed() < time / 3 {
                first = first.max(descriptors(pid));
            }
        }
        score.stop.store(true, Ordering::Relaxed);
    });
    let (right, failed) = (
        score.right.load(Ordering::Relaxed),
        score.failed.load(Ordering::Relaxed),
    );
    seen.sort_unstable();
    seen.dedup();
    println!(
        "{right} things were right; daemon at most {} MiB, with all readers {}, {most_readers} readers at once, {} in all, at most {} MiB each; \
         descriptors {first}, at rest {}",
        most / MIB,
        most_together / MIB,
        seen.len(),
        most_of_one / MIB,
        descriptors(pid)
    );
    assert_eq!(failed, 0, "{:?}", score.other.lock().unwrap());
    assert!(right > RIGHT_MIN, "{right}");
    assert!(most_together <= MEMORY + MORE, "{most_together} bytes");
    assert!(most_of_one <= READER, "{most_of_one} bytes");
    assert!(most_readers <= READERS_MAX, "{most_readers} readers");
    let at_rest = descriptors(pid);
    assert!(
        at_rest <= first + DESCRIPTORS_MORE,
        "{at_rest} descriptors, {first} before"
    );
    daemon.stop();
    seen.retain(|reader| is_reader(*reader));
    assert!(seen.is_empty(), "{seen:?} are left");
}

fn volume(guest: &Guest, path: &str) -> Value {
    let json = std::fs::read(guest.path("mnt/db01/point-0/volumes.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let volumes = json["volumes"].as_array().unwrap();
    volumes
        .iter()
        .find(|volume| volume["path"] == path)
        .unwrap()
        .clone()
}

/// Asks each volume's reader something new; answers which of them failed with EIO.
fn broken(guest: &Guest, n: usize) -> Vec<&'static str> {
    let volumes = [
        ("vda/part/1", "EFI/debian"),
        ("vda/part/3", "hard"),
        ("lvm/vg0/var", "lib/hard"),
        ("vdb/part/2", "user"),
    ];
    let ask = |dir: &str, volume: &str| {
        let path = format!("mnt/db01/point-0/volumes/{volume}/{dir}/nothing-{n}");
        let error = guest.path(&path).symlink_metadata().unwrap_err();
        let is_broken = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        assert!(
            is_broken || error.kind() == std::io::ErrorKind::NotFound,
            "{path}: {error}"
        );
        is_broken
    };
    volumes
        .into_iter()
        .filter(|(volume, dir)| ask(dir, volume))
        .map(|(volume, _)| volume)
        .collect()
}

fn kill(reader: u32) {
    // One that is gone already is as good.
    let _ = kill_process(
        Pid::from_raw(i32::try_from(reader).unwrap()).unwrap(),
        Signal::KILL,
    );
}

/// Each of the volumes' readers once: its volume alone suffers, says why, and comes back.
fn each_is_killed_once(guest: &Guest, daemon: u32) {
    assert!(broken(guest, 0).is_empty());
    let readers = readers_of(daemon);
    assert_eq!(readers.len(), 4, "{readers:?}");
    let mut n = 1;
    let mut hit = Vec::new();
    for reader in readers {
        kill(reader);
        let began = Instant::now();
        let mut now = Vec::new();
        while now.is_empty() && began.elapsed() < Duration::from_secs(30) {
            now = broken(guest, n);
            n += 1;
        }
        let [broken_volume] = now[..] else {
            panic!("{now:?}")
        };
        let resting = volume(guest, broken_volume);
        assert_eq!(resting["state"], "damaged", "{resting}");
        assert!(
            resting["reason"].as_str().unwrap().contains("signal 9"),
            "{resting}"
        );
        while !broken(guest, n).is_empty() {
            n += 1;
            assert!(began.elapsed() < Duration::from_secs(20), "{broken_volume}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let back = volume(guest, broken_volume);
        assert_eq!(back["state"], "readable", "{back}");
        let note = back["notes"][0].as_str().unwrap();
        assert!(note.contains("started anew 1 time,"), "{note}");
        hit.push(broken_volume);
    }
    hit.sort_unstable();
    hit.dedup();
    assert_eq!(hit.len(), 4, "{hit:?}");
}

/// Readers of the mount get right bytes or EIO, and nothing else; later everything is right again.
#[test]
fn readers_that_are_killed_cost_nobody_anything_but_time() {
    if !ready() {
        return;
    }
    let guest = Guest::new(Home::Xfs, 800);
    let truth = Truth::new(&guest);
    add_point(&guest, 0);
    std::fs::create_dir(guest.path("mnt")).unwrap();
    let daemon = guest.place.serve(&["--mount", text(&guest.path("mnt"))]);
    let pid = daemon.child.id();
    let _ = volume(&guest, "vda/part/3");
    each_is_killed_once(&guest, pid);
    let point = guest.path("mnt/db01/point-0");
    let score = Score::default();
    let mut random = Random::new(99);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (truth, score, point) = (&truth, &score, &point);
            scope.spawn(move || read(truth, &|| vec![point.clone()], score, seed));
        }
        let began = Instant::now();
        while goes_on(began, seconds(5) / 2, &score) {
            std::thread::sleep(Duration::from_millis(400));
            let readers = readers_of(pid);
            if !readers.is_empty() {
                kill(readers[random.below(readers.len())]);
            }
        }
        score.stop.store(true, Ordering::Relaxed);
    });
    println!("{:?} right, {:?} EIO", score.right, score.failed);
    assert!(score.right.load(Ordering::Relaxed) > RIGHT_MIN);
    assert_eq!(*score.other.lock().unwrap(), None);
    // What rests comes back; how long that takes grows with each death.
    let began = Instant::now();
    loop {
        let score = Score::default();
        std::thread::scope(|scope| {
            scope.spawn(|| read(&truth, &|| vec![point.clone()], &score, 7));
            std::thread::sleep(Duration::from_secs(1));
            score.stop.store(true, Ordering::Relaxed);
        });
        if score.failed.load(Ordering::Relaxed) == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "still broken");
    }
    daemon.stop();
}
