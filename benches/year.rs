//! A year of one VM: a backup a day with 1 % of the disk changed, retention and merging after each.
//!
//! `cargo bench --bench year -- [--quick] [--dir DIR]`. `DIR` chooses the filesystem: with shared extents (XFS, btrfs) merging writes
//! little. The clock of the repository is moved; nothing waits.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::disk::{CLUSTER_BYTES, Dice};
use kit::{Options, Result};
use restorefs::block::page::PageBudget;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::jobs::merge::{MergeOptions, merge_vm};
use restorefs::jobs::retention::{Choice, Period, Rules, VmPlan};
use restorefs::repo::{Owner, Repository};
use restorefs::task::{Monitor, Pace};
use restorefs::types::{DiskName, VmName};

const DAY: i64 = 86_400;

/// A file as rsync compares it: inode, size and time of change.
type Seen = (u64, u64, i64, i64);

/// Bytes that the files below a directory take, and those that rsync would send since the last look.
fn look(dir: &Path, seen: &mut HashMap<String, Seen>) -> Result<(u64, u64)> {
    let (mut all, mut sent) = (0, 0);
    let mut now = HashMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = entry.metadata()?;
        let mark = (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        let bytes = file.blocks() * 512;
        all += bytes;
        if seen.get(&name) != Some(&mark) {
            sent += bytes;
        }
        now.insert(name, mark);
    }
    *seen = now;
    Ok((all, sent))
}

fn share(part: u64, of: u64) -> String {
    format!("{}.{:02}", part / of.max(1), part * 100 / of.max(1) % 100)
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let size_bytes: u64 = options.pick(128 << 20, 1 << 30);
    let days = options.pick(90, 365);
    let clusters = size_bytes / CLUSTER_BYTES;
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let path = options.dir().join("repo");
    let repository = Arc::new(Repository::init(&path, clock.now())?);
    let owner = Arc::new(Owner::open(
        Arc::clone(&repository),
        clock.clone(),
        "bench",
    )?);
    let engine = Engine::new(Arc::clone(&owner), Pool::new(PoolLimits::default()));
    let (vm, disk) = (VmName::new("web01")?, DiskName::new("vda")?);
    let layers = path.join("vms/web01/layers");
    let rules = Rules {
        periods: [(Period::Day, 7), (Period::Week, 4), (Period::Month, 12)].into(),
        ..Rules::default()
    };
    let merging = MergeOptions {
        compact: false,
        low_water_bytes: 0,
        budget: PageBudget::new(64 << 20),
        pace: Pace::new(None),
    };
    let mut dice = Dice::new(7);
    let mut bytes = vec![0; usize::try_from(CLUSTER_BYTES)?];
    let (mut ingested, mut merged, mut sent, mut largest) = (0, 0, 0, 0);
    let mut seen = HashMap::new();
    let (mut spent, mut before) = (Duration::ZERO, 0);
    for day in 0..days {
        clock.advance(DAY);
        let mut request = BeginRequest::new(vm.clone());
        request.disks.push(DiskRequest {
            name: disk.clone(),
            source_bytes: Some(size_bytes),
            key: None,
            full: false,
        });
        let session = Session::begin(&engine, &request)?;
        let writer = session.disk(&disk)?;
        // Half of the disk is data; of the changes of a day, half fall on a tenth of it.
        let writes = if day == 0 {
            clusters / 2
        } else {
            clusters / 100
        };
        for n in 0..writes {
            let cluster = match (day, n % 2) {
                (0, _) => n,
                (_, 0) => dice.below(clusters / 20),
                _ => dice.below(clusters / 2),
            };
            dice.fill(&mut bytes);
            writer.write(cluster * CLUSTER_BYTES, &bytes)?;
        }
        writer.set_finished(true);
        session.commit(&CommitRequest::default(), &|| ())?;
        let (now, _) = look(&layers, &mut HashMap::new())?;
        ingested += now.saturating_sub(before);
        largest = largest.max(now);
        let plan = VmPlan::of_vm(
            &repository,
            &vm,
            &Choice::Rules(rules.clone()),
            false,
            clock.now(),
        )?;
        owner.forget_points(&vm, &plan.gone())?;
        let begun = Instant::now();
        let swap = |replacement: &_| owner.replace(replacement);
        let done = merge_vm(&repository, &vm, &merging, &swap, &|_, _| {
            Ok(Monitor::default())
        })?;
        spent += begun.elapsed();
        merged += done.written_bytes;
        let (left, resent) = look(&layers, &mut seen)?;
        before = left;
        sent += resent;
        owner.empty_trash()?;
    }
    let points = owner.vm_snapshot(&vm)?.index.points.len();
    println!(
        "## A year of one VM: {days} days, a disk of {} MiB, half of it data\n",
        size_bytes >> 20
    );
    println!("| | MiB | to what was ingested |\n|---|--:|--:|");
    for (what, part) in [
        ("ingested", ingested),
        ("written by merging (the files that it made)", merged),
        ("sent by a nightly rsync -a (whole files)", sent),
        ("at most on the disk", largest),
        ("at the end on the disk", before),
    ] {
        println!("| {what} | {} | {} |", part >> 20, share(part, ingested));
    }
    println!(
        "\n{points} points are left, in {} layers. Merging took {} ms a day.",
        seen.len() / 2,
        spent.as_millis() / u128::try_from(days)?
    );
    Ok(())
}
