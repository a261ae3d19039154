//! Disks of several terabytes, nearly all of them nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::fs::SeekFrom;

use crate::stand::{Stand, ready, run, text};

const TIB: u64 = 1 << 40;
const SIZE: u64 = 3 * TIB + 12_288;
/// Where there is something.
const PLACES: [u64; 5] = [0, 65_000, TIB, 2 * TIB + 77, SIZE - 5000];

fn check(path: &std::path::Path, mark: u8) {
    let file = fs::File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), SIZE);
    let mut read = [0; 5000];
    for at in PLACES {
        file.read_exact_at(&mut read, at).unwrap();
        assert!(read.iter().all(|byte| *byte == mark), "{at}");
    }
    file.read_exact_at(&mut read, TIB / 2).unwrap();
    assert_eq!(read, [0; 5000]);
    // What lies between is a hole, and is passed over.
    let data = rustix::fs::seek(&file, SeekFrom::Data(1 << 30)).unwrap();
    assert!(data <= TIB && TIB - data < 65_536, "{data}");
    let hole = rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap();
    assert!((70_000..TIB / 2).contains(&hole), "{hole}");
}

fn source(stand: &Stand, mark: u8) -> std::path::PathBuf {
    let path = stand.place.path("source.raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    for at in PLACES {
        file.write_all_at(&[mark; 5000], at).unwrap();
    }
    path
}

#[test]
fn sparse_terabytes_are_written_in_seconds() {
    if !ready(&["qemu-img", "fallocate"]) {
        return;
    }
    let mut stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    let begun = Instant::now();
    let first = source(&stand, 1);
    stand.begin("one");
    run("cp", &[text(&first), text(&stand.disk("one"))]);
    check(&stand.disk("one"), 1);
    stand.commit("one", "one").unwrap();
    check(&stand.at("vm/one/disks/vda.raw"), 1);

    let second = source(&stand, 2);
    stand.begin("two");
    let flags = ["convert", "-n", "-f", "raw", "-O", "raw"];
    let mut all = flags.to_vec();
    let disk = stand.disk("two");
    all.extend([text(&second), text(&disk)]);
    run("qemu-img", &all);
    check(&disk, 2);
    stand.commit("two", "two").unwrap();

    stand.begin("three");
    let disk = stand.disk("three");
    run("truncate", &["-s", "0", text(&disk)]);
    run("truncate", &["-s", &SIZE.to_string(), text(&disk)]);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    for at in PLACES {
        file.write_all_at(&[3; 5000], at).unwrap();
    }
    run(
        "fallocate",
        &["-z", "-o", "1073741824", "-l", "100GiB", text(&disk)],
    );
    check(&disk, 3);
    stand.commit("three", "three").unwrap();
    check(&stand.at("vm/three/disks/vda.raw"), 3);
    check(&stand.at("vm/one/disks/vda.raw"), 1);
    drop(file);
    assert!(begun.elapsed().as_secs() < 300, "{:?}", begun.elapsed());
    stand.stop();
    stand.check_left(3);
}
