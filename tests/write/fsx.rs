//! Random operations on a disk of an open session, compared with the same on bytes in memory.
//!
//! `RESTOREFS_FSX` is how many; a run is repeated with `RESTOREFS_FSX_SEED`.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use crate::stand::{DISK_BYTES, Stand, ready};

const SIZE_MAX: u64 = DISK_BYTES as u64 + 200_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// A range; often on boundaries, mostly short.
    fn range(&mut self) -> (u64, u64) {
        let mut from = self.below(SIZE_MAX);
        if self.below(3) == 0 {
            from -= from % [512, 4096, 65_536][self.below(3) as usize];
        }
        let most = [600, 5000, 70_000, 300_000][self.below(4) as usize];
        let length = 1 + self.below(most);
        (from, length.min(SIZE_MAX - from).max(1))
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Run {
    file: fs::File,
    truth: Vec<u8>,
    random: Random,
}

impl Run {
    fn grow(&mut self, end: u64) {
        if end > self.truth.len() as u64 {
            self.truth.resize(end as usize, 0);
        }
    }

    fn zero(&mut self, from: u64, length: u64) {
        let size = self.truth.len() as u64;
        let (a, b) = (from.min(size), (from + length).min(size));
        self.truth[a as usize..b as usize].fill(0);
    }

    fn step(&mut self) -> String {
        let (from, length) = self.random.range();
        let end = from + length;
        match self.random.below(11) {
            0..=2 => {
                let fill = self.random.next() as u8;
                let bytes: Vec<u8> = (0..length)
                    .map(|n| fill.wrapping_add((n / 7) as u8))
                    .collect();
                self.file.write_all_at(&bytes, from).unwrap();
                self.grow(end);
                self.truth[from as usize..end as usize].copy_from_slice(&bytes);
                format!("write {from} {length}")
            }
            3..=5 => {
                let mut read = vec![0; length as usize];
                let mut got = 0;
                while got < read.len() {
                    match self
                        .file
                        .read_at(&mut read[got..], from + got as u64)
                        .unwrap()
                    {
                        0 => break,
                        more => got += more,
                    }
                }
                let size = self.truth.len() as u64;
                let (a, b) = (from.min(size) as usize, end.min(size) as usize);
                assert!(read[..got] == self.truth[a..b], "read {from} {length}");
                format!("read {from} {length}")
            }
            6 => {
                self.file.set_len(from).unwrap();
                self.truth.resize(from as usize, 0);
                format!("truncate {from}")
            }
            7 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.file, flags, from, length).unwrap();
                self.zero(from, length);
                format!("punch {from} {length}")
            }
            8 => {
                rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, from, length)
                    .unwrap();
                self.grow(end);
                self.zero(from, length);
                format!("zero {from} {length}")
            }
            9 => {
                rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, length).unwrap();
                self.grow(end);
                format!("allocate {from} {length}")
            }
            _ => {
                self.file.sync_all().unwrap();
                "sync".to_owned()
            }
        }
    }
}

#[test]
fn random_operations() {
    if !ready(&[]) {
        return;
    }
    let seed =
        number("RESTOREFS_FSX_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let steps = number("RESTOREFS_FSX").unwrap_or(4000);
    println!("RESTOREFS_FSX_SEED={seed}");
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let open = |stand: &Stand| {
        fs::File::options()
            .read(true)
            .write(true)
            .open(stand.disk("s"))
            .unwrap()
    };
    let mut run = Run {
        file: open(&stand),
        truth: bytes.clone(),
        random: Random(seed | 1),
    };
    let mut said = Vec::new();
    for step in 0..steps {
        said.push(run.step());
        assert_eq!(
            run.file.metadata().unwrap().len(),
            run.truth.len() as u64,
            "seed {seed}, step {step}: {:?}",
            &said[said.len().saturating_sub(10)..]
        );
        if step % (steps / 4).max(1) == steps / 8 {
            let whole = fs::read(stand.disk("s")).unwrap();
            assert!(
                whole == run.truth,
                "seed {seed}, step {step}: {:?}",
                &said[said.len().saturating_sub(30)..]
            );
            // And on with another daemon, from what was synced.
            run.file.sync_all().unwrap();
            drop(run.file);
            if step % 2 == 0 {
                stand.kill();
            } else {
                stand.stop();
            }
            stand.start("");
            run.file = open(&stand);
        }
    }
    run.file.set_len(SIZE_MAX).unwrap();
    run.truth.resize(SIZE_MAX as usize, 0);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == run.truth, "seed {seed}");
    assert!(stand.point("p0") == bytes);
    drop(run.file);
    stand.stop();
    assert!(
        stand.place.restored("vm@p1", "vda") == run.truth,
        "seed {seed}"
    );
    stand.check_left(2);
}

/// The field's own exerciser, with mapped reads and writes: <https://crates.io/crates/fsx>.
#[test]
fn the_file_system_exerciser() {
    if !ready(&["fsx"]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    stand.begin("s");
    let config = stand.place.path("fsx.toml");
    fs::write(
        &config,
        "flen = 1000000\n[opsize]\nmax = 131072\n[weights]\nclose_open = 1\ninvalidate = 1\nread = 10\nwrite = 10\n\
         mapread = 10\nmapwrite = 10\ntruncate = 10\nfsync = 1\nfdatasync = 1\npunch_hole = 3\nfallocate = 0\nsendfile = 1\n\
         posix_fadvise = 1\ncopy_file_range = 1\n",
    )
    .unwrap();
    let steps = number("RESTOREFS_FSX").unwrap_or(4000).to_string();
    let (config, disk) = (config, stand.disk("s"));
    let output = std::process::Command::new("fsx")
        .args(["-q", "-N", &steps, "-f"])
        .args([&config, &disk])
        .current_dir(stand.place.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
