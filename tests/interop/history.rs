//! A random history of a VM with two disks, written by the library: every point against `qemu-img`, in place, moved and copied.

use std::path::Path;

use restorefs::ingest::DiskWriter;
use restorefs::qcow2::Compression;
use restorefs::types::DiskName;

use crate::kit::need::has;
use crate::repository::{Present, Truth, Writer, assert_reads, layers, open};
use crate::tool::run;

const CLUSTER: usize = 65_536;
const INCREMENTALS: usize = 30;

/// Small and repeatable (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    /// Noise, or text that compresses.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let text = self.below(2) == 0;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            let word = self.next();
            if text {
                bytes.extend_from_slice(format!("{} ", word % 1000).as_bytes());
            } else {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes.truncate(length);
        bytes
    }
}

/// One random change of a disk, and of what it must be.
fn change(random: &mut Random, disk: &DiskWriter, bytes: &mut [u8]) {
    let size = bytes.len();
    match random.below(10) {
        // Anywhere, any length in bytes.
        0..=3 => {
            let at = random.below(size);
            let length = (1 + random.below(200_000)).min(size - at);
            let data = random.bytes(length);
            disk.write(at as u64, &data).unwrap();
            bytes[at..at + length].copy_from_slice(&data);
        }
        // Whole clusters.
        4..=6 => {
            let at = random.below(size / CLUSTER) * CLUSTER;
            let length = ((1 + random.below(8)) * CLUSTER).min(size - at);
            let data = random.bytes(length);
            disk.write(at as u64, &data).unwrap();
            bytes[at..at + length].copy_from_slice(&data);
        }
        // Zeroes and trims come to the same call.
        7..=8 => {
            let at = random.below(size);
            let length = (1 + random.below(600_000)).min(size - at);
            disk.zero(at as u64, length as u64).unwrap();
            bytes[at..at + length].fill(0);
        }
        // Zeroes that are written as data.
        _ => {
            let at = random.below(size / CLUSTER) * CLUSTER;
            let length = (2 * CLUSTER).min(size - at);
            disk.write(at as u64, &vec![0; length]).unwrap();
            bytes[at..at + length].fill(0);
        }
    }
}

fn history(root: &Path, seed: u64) -> Vec<Truth> {
    let mut random = Random(seed);
    let writer = Writer::new(root);
    let mut disks = [("vda", 96 * CLUSTER + 512), ("vdb", 40 * CLUSTER)].map(|(name, size)| {
        let name = DiskName::new(name).unwrap();
        Present {
            name,
            bytes: vec![0; size],
        }
    });
    let mut truths = Vec::new();
    for number in 0..=INCREMENTALS {
        if number % 7 == 3 {
            // The guest's disk has grown before this backup.
            let grown = &mut disks[number % 2].bytes;
            grown.resize(grown.len() + 512 * (1 + random.below(400)), 0);
        }
        let compression =
            [Compression::None, Compression::Zlib, Compression::Zstd][random.below(3)];
        let session = writer.begin(&disks, compression, None);
        for disk in &mut disks {
            let target = session.disk(&disk.name).unwrap();
            // Some points change nothing of a disk: an empty layer.
            let changes = if number % 9 == 5 { 0 } else { random.below(14) };
            for _ in 0..changes {
                change(&mut random, &target, &mut disk.bytes);
            }
        }
        truths.extend(writer.commit(&session, &disks));
    }
    truths
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What QEMU says of every layer.
fn check_by_qemu(root: &Path, truths: &[Truth]) {
    let scratch = tempfile::tempdir().unwrap();
    let flat = scratch.path().join("flat.raw");
    for (number, truth) in truths.iter().enumerate() {
        let what = format!("{} {}", truth.point, truth.disk);
        let layer = layers(root).join(&truth.layer);
        run("qemu-img", &["check", "-q", "-f", "qcow2", text(&layer)]);
        run(
            "qemu-img",
            &[
                "convert",
                "-f",
                "qcow2",
                "-O",
                "raw",
                text(&layer),
                text(&flat),
            ],
        );
        assert!(std::fs::read(&flat).unwrap() == truth.bytes, "{what}");
        let output = run(
            "qemu-img",
            &["info", "--backing-chain", "--output=json", text(&layer)],
        );
        let chain: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        // Two disks take turns: this is the point's number, from 0.
        assert_eq!(chain.len(), number / 2 + 1, "{what}");
        for link in &chain {
            let file = link["filename"].as_str().unwrap();
            assert!(file.starts_with(text(&layers(root))), "{what}: {file}");
            let backing = link["backing-filename"].as_str();
            assert!(backing.is_none_or(|name| !name.contains('/')), "{what}");
        }
    }
}

fn check_by_us(root: &Path, truths: &[Truth]) {
    for truth in truths {
        let disk = open(root, truth, false);
        assert_reads(
            &disk,
            &truth.bytes,
            &format!("{} {}", truth.point, truth.disk),
        );
    }
}

#[test]
fn every_point_of_a_history_is_what_qemu_reads_wherever_the_repository_lies() {
    if !has("qemu-img") || !has("rsync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let seed = std::env::var("RESTOREFS_SEED").map_or(20_261_121, |s| s.parse().unwrap());
    println!("RESTOREFS_SEED={seed}");
    let truths = history(&dir.path().join("repo"), seed);
    assert_eq!(truths.len(), 2 * (INCREMENTALS + 1));

    let moved = dir.path().join("elsewhere/deeper/srv");
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    std::fs::rename(dir.path().join("repo"), &moved).unwrap();
    check_by_qemu(&moved, &truths);
    check_by_us(&moved, &truths);

    let copied = dir.path().join("copied");
    run("cp", &["-a", text(&moved), text(&copied)]);
    check_by_us(&copied, &truths);

    // As it is told to be copied: the cache is not taken along.
    let synced = dir.path().join("synced");
    let from = format!("{}/", moved.display());
    run("rsync", &["-aS", "--exclude=/cache", &from, text(&synced)]);
    check_by_us(&synced, &truths);
    let last = &truths[truths.len() - 2..];
    check_by_us(&moved, last);
}

/// A copy goes on where the original was: its next point compares with the last one, and QEMU reads it.
#[test]
fn a_copied_repository_goes_on() {
    if !has("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, copy) = (dir.path().join("repo"), dir.path().join("copy"));
    let truths = history(&root, 7);
    run("cp", &["-a", text(&root), text(&copy)]);
    std::fs::remove_dir_all(copy.join("cache")).unwrap();
    std::fs::remove_file(copy.join("catalog.redb")).unwrap();
    let writer = Writer::open(&copy);
    let mut disks: Vec<Present> = truths[truths.len() - 2..]
        .iter()
        .map(|truth| Present {
            name: truth.disk.clone(),
            bytes: truth.bytes.clone(),
        })
        .collect();
    let session = writer.begin(&disks, Compression::None, None);
    for disk in &mut disks {
        let target = session.disk(&disk.name).unwrap();
        // All of it again, as a client without knowledge of what has changed does, and one sector that is new.
        disk.bytes[CLUSTER + 512..CLUSTER + 1024].fill(0x5a);
        target.write(0, &disk.bytes).unwrap();
    }
    let next = writer.commit(&session, &disks);
    for truth in &next {
        let layer = layers(&copy).join(&truth.layer);
        run("qemu-img", &["check", "-q", "-f", "qcow2", text(&layer)]);
        let length = std::fs::metadata(&layer).unwrap().len();
        assert!(
            length <= 8 * 65_536,
            "one cluster and its tables, not {length} bytes"
        );
        assert_reads(&open(&copy, truth, false), &truth.bytes, &truth.layer);
    }
    check_by_us(&root, &truths);
}
