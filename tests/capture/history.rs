//! Random histories: writes, zeroes, backups by each way, restarts of QEMU in order and at once, against the model. Every point is what the
//! machine had at its instant.

use crate::kit::chance::Chance;
use crate::kit::need::has_all;
use crate::kit::place::Place;
use crate::qemu::{Disk, Qemu, RELEASES, Release, compare};

/// Histories of each release; `RESTOREFS_CASES` are more.
const HISTORIES: usize = 2;
const STEPS: usize = 14;

fn history(release: Release, seed: u64) {
    println!("{release:?} seed {seed}");
    let mut chance = Chance(seed | 1);
    let place = Place::new();
    let mut qemu = Qemu::of_two(&place, release);
    let socket = qemu.socket();
    let mut points: Vec<(String, Vec<Disk>)> = Vec::new();
    for step in 0..STEPS {
        for _ in 0..=chance.below(6) {
            let disk = chance.below(2);
            let (id, size) = (qemu.disks[disk].id.clone(), qemu.disks[disk].bytes.len());
            let offset = chance.below(size / 512) * 512;
            let length = ((chance.below(300) + 1) * 512).min(size - offset);
            match chance.below(4) {
                0 => qemu.zero(&id, offset, length),
                _ => qemu.write(&id, (chance.below(255) + 1) as u8, offset, length),
            }
        }
        match chance.below(8) {
            0 => {
                qemu.quit();
                qemu.again();
            }
            1 => {
                qemu.kill();
                qemu.again();
            }
            _ => {}
        }
        let name = format!("p{step}");
        let mut args = vec!["backup", "web01", "--qmp", &socket, "--point", &name];
        let way = chance.below(6);
        if way == 0 {
            args.extend(["--method", "blockdev-backup"]);
        }
        if way == 1 {
            args.push("--full");
        }
        place.ok(&args);
        points.push((name, qemu.disks.clone()));
        qemu.is_clean(2);
    }
    for (name, disks) in &points {
        compare(&place, &format!("web01@{name}"), disks);
    }
    place.ok(&["verify", "web01"]);
}

#[test]
fn every_point_of_a_random_history_is_what_the_machine_had() {
    if !has_all(&["qemu-img"]) {
        return;
    }
    let cases = std::env::var("RESTOREFS_CASES").ok();
    let cases = cases.and_then(|text| text.parse::<usize>().ok());
    let histories = cases.map_or(HISTORIES, |cases| (cases / 100).max(1));
    for release in RELEASES {
        if !release.is_here() {
            continue;
        }
        for seed in 0..histories {
            history(release, 0x5eed + seed as u64 * 7919);
        }
    }
}
