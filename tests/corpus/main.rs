//! The fuzz targets on stable Rust: they must handle every file of every corpus, and mutations of
//! each, in time and without a panic.
//!
//! `RESTOREFS_MUTATIONS` sets the number of mutations of each file; `RESTOREFS_SEED` selects
//! another sequence.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::print_stdout,
    reason = "a failure is repeated from what is printed"
)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

/// LIMIT: time of one call, in a debug build on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Names of files that begin so were found by libFuzzer for what they reach: they are run, and not changed.
const SEEN: &str = "seen_";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

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
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ff00,
    u64::MAX,
];

/// Changes a few things of `good`.
fn mutate(random: &mut Random, good: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return other.to_vec();
        }
        // Headers come first in most formats: half of the changes are there.
        let reach = if random.below(2) == 0 {
            128
        } else {
            usize::MAX
        };
        let at = random.below(bytes.len().min(reach));
        match random.below(8) {
            0..=2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = random.next().to_le_bytes()[0],
            4 | 5 => {
                let edge = EDGES[random.below(EDGES.len())];
                let width = [1, 2, 4, 8][random.below(4)];
                let number = if random.below(2) == 0 {
                    edge.to_le_bytes()[..width].to_vec()
                } else {
                    edge.to_be_bytes()[8 - width..].to_vec()
                };
                let at = at - at % width;
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            6 => bytes.truncate(at),
            _ => {
                // A piece of another file, or of this one.
                let from = if random.below(2) == 0 { good } else { other };
                let start = random.below(from.len());
                let length = random
                    .below(from.len() - start.min(from.len()) + 1)
                    .min(600);
                let end = (at + length).min(bytes.len());
                if let Some(piece) = from.get(start..start + (end - at)) {
                    bytes[at..end].copy_from_slice(piece);
                }
            }
        }
    }
    bytes
}

fn call(target: Target, data: &[u8], what: &str) {
    let began = Instant::now();
    let ended = std::panic::catch_unwind(|| target.1(data));
    let took = began.elapsed();
    if ended.is_err() || took > TIME_MAX {
        let path = std::env::temp_dir().join(format!("restorefs-{}.bin", target.0));
        std::fs::write(&path, data).unwrap();
        panic!("{} {what}: {took:?}; kept as {}", target.0, path.display());
    }
}

fn run(name: &str) {
    let target = *TARGETS.iter().find(|(found, _)| *found == name).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(dir.join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{name} has no corpus");
    let good: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    call(target, &[], "nothing");
    let (seed, mutations) = (
        number("RESTOREFS_SEED", 1),
        number("RESTOREFS_MUTATIONS", 2000),
    );
    for (file, bytes) in files.iter().zip(&good) {
        let name = file.file_name().unwrap().to_str().unwrap();
        call(target, bytes, name);
        let mutations = if name.starts_with(SEEN) { 0 } else { mutations };
        for n in 0..mutations {
            let mut random = Random(seed.wrapping_mul(1 << 40).wrapping_add(n));
            let other = &good[random.below(good.len())];
            let mutated = mutate(&mut random, bytes, other);
            call(
                target,
                &mutated,
                &format!("{name}, RESTOREFS_SEED={seed}, mutation {n}"),
            );
        }
    }
    println!("{name}: {} files", files.len());
}

/// A test for each target, so that they run beside each other.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        /// Targets that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

tests!(
    btrfs,
    control,
    ext,
    fat,
    fstab,
    gpt_mbr,
    lvm,
    nbd_handshake,
    nbd_proto,
    qcow2_check,
    qcow2_read,
    reader_answer,
    reader_question,
    session_log,
    sidecar,
    sums,
    xfs,
);

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_test() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(TESTED, targets);
    assert_eq!(listed(&fuzz.join("corpus")), targets);
    let sources: Vec<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(listed(&fuzz.join("bin")), sources);
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut programs: Vec<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|entry| entry.split('"').nth(1))
        .collect();
    programs.sort_unstable();
    assert_eq!(programs, targets);
}
