//! A repository of many VMs and points: opening it for a backup, listing it, mounting it, walking the mounted tree.
//!
//! `cargo bench --bench scale -- [--quick] [--rounds N] [--dir DIR]`. The repository has 1,000 VMs with 100 points each (`--quick`: 50 with
//! 20): one VM is made by backups, the others have its layers by hard links and sidecars of their own.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kit::peer::{restorefs, timed};
use kit::table::Table;
use kit::world::World;
use kit::{Options, Result};
use restorefs::repo::Repository;
use restorefs::repo::sidecar::encode;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::types::{Digest, PointId, VmId, VmName};

const SECONDS: &str = "s";
const MIB: &str = "MiB";
const ONE: &str = "backup, a repository with one VM";

fn main() -> Result<()> {
    let options = Options::parse()?;
    let vms = options.pick(50, 1000);
    let points = options.pick(20, 100);
    let raw = options.dir().join("disk.raw");
    kit::disk::make(&raw, 8 << 20, 1)?;
    let [small, large] = ["one", "many"].map(|name| options.dir().join(name));
    let begin = Instant::now();
    for path in [&small, &large] {
        drop(World::make(path)?);
        for point in 0..points {
            // By the program, which also finds out what is on the disks, as it does for people.
            let mut command = restorefs(path);
            command.args(["backup", "-q", "vm0000", "--point", &format!("p{point:04}")]);
            timed(command.arg(format!("vda={}", raw.display())))?;
        }
    }
    multiply(&large, vms)?;
    println!("made in {:.0} s", begin.elapsed().as_secs_f64());

    let title = format!("A repository of {vms} VMs with {points} points each");
    let mut table = Table::new(title, ONE, &[SECONDS, MIB]).of_seconds();
    let mountpoint = options.dir().join("mnt");
    fs::create_dir(&mountpoint)?;
    let backup = |path: &Path| {
        let mut command = restorefs(path);
        command.args(["backup", "-q", "vm0000"]);
        command.arg(format!("vda={}", raw.display()));
        command
    };
    // Whoever opens it first after it was copied together looks at all of it.
    table.add(
        "backup, first after a crash",
        SECONDS,
        timed(&mut backup(&large))?,
    );
    timed(&mut backup(&small))?;
    for _ in 0..options.rounds {
        table.add(ONE, SECONDS, timed(&mut backup(&small))?);
        table.add("backup", SECONDS, timed(&mut backup(&large))?);
        table.add("ls", SECONDS, timed(restorefs(&large).arg("ls"))?);
        let mut mount = restorefs(&large);
        mount.arg("mount").arg(&mountpoint);
        table.add("mount", SECONDS, timed(&mut mount)?);
        let _mounted = Unmount(&mountpoint);
        for depth in ["2", "3"] {
            let mut find = Command::new("find");
            find.arg(&mountpoint).args(["-maxdepth", depth]);
            let row = format!("find -maxdepth {depth}, cold");
            table.add(&row, SECONDS, timed(&mut find)?);
        }
        table.add("the mount's process", MIB, memory(&mountpoint)?);
    }
    let mut rebuild = restorefs(&large);
    rebuild.arg("rebuild-catalog");
    table.add("rebuild-catalog", SECONDS, timed(&mut rebuild)?);
    println!("{}", table.render());
    Ok(())
}

/// Unmounts when it is dropped.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(self.0)
            .stderr(Stdio::null())
            .status();
        // Its process ends a moment later.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Resident MiB of the process that serves a mount.
fn memory(mountpoint: &Path) -> Result<f64> {
    for entry in fs::read_dir("/proc")? {
        let dir = entry?.path();
        let Ok(line) = fs::read(dir.join("cmdline")) else {
            continue;
        };
        let serves = line
            .split(|b| *b == 0)
            .any(|word| word == mountpoint.as_os_str().as_encoded_bytes());
        let Ok(status) = fs::read_to_string(dir.join("status")) else {
            continue;
        };
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        if serves && let Some(kib) = kib.and_then(|text| text.split_whitespace().next()) {
            return Ok(kib.parse::<f64>()? / 1024.0);
        }
    }
    Err("nobody serves the mount".into())
}

/// Gives the repository `count` VMs, all with the points of the one that is there.
fn multiply(path: &Path, count: u64) -> Result<()> {
    let repository = Repository::open(path)?;
    let first = VmName::new("vm0000")?;
    let model = repository.vm(&first)?;
    let index = repository.index(&first)?;
    let sidecars = index
        .points
        .iter()
        .map(|entry| repository.point(&first, entry));
    let sidecars = sidecars.collect::<restorefs::error::Result<Vec<_>>>()?;
    let states = index
        .points
        .iter()
        .map(|entry| repository.state(&first, entry));
    let states = states.collect::<restorefs::error::Result<Vec<_>>>()?;
    let from = path.join("vms/vm0000");
    let mut serial = index.serial_high;
    let mut next = || {
        serial += 1;
        serial
    };
    for n in 1..count {
        let mut vm = model.clone();
        vm.name = VmName::new(format!("vm{n:04}"))?;
        vm.vm_id = VmId::random();
        vm.serial = next();
        let dir = path.join("vms").join(vm.name.as_str());
        for below in ["points", "layers", "state"] {
            fs::create_dir_all(dir.join(below))?;
        }
        for layer in fs::read_dir(from.join("layers"))? {
            let layer = layer?;
            fs::hard_link(layer.path(), dir.join("layers").join(layer.file_name()))?;
        }
        let ids: Vec<PointId> = sidecars.iter().map(|_| PointId::random()).collect();
        let mut own = restorefs::repo::sidecar::index::Index {
            vm_id: vm.vm_id,
            name: vm.name.clone(),
            serial: vm.serial,
            points: Vec::new(),
            ..index.clone()
        };
        for ((point, state), id) in sidecars.iter().zip(&states).zip(&ids) {
            let mut point = point.clone();
            (point.vm, point.vm_id, point.point_id) = (vm.name.clone(), vm.vm_id, *id);
            if let Some(parent) = &mut point.parent {
                let at = sidecars.iter().position(|p| p.point_id == parent.point_id);
                parent.point_id = *at
                    .and_then(|at| ids.get(at))
                    .ok_or("a parent that is no point")?;
            }
            let bytes = encode(&point)?;
            let place = dir.join("points").join(point.name.as_str());
            fs::create_dir(&place)?;
            fs::write(place.join("point.json"), &bytes)?;
            let mut state = state.clone();
            state.point_id = *id;
            fs::write(dir.join(format!("state/{id}.json")), encode(&state)?)?;
            own.points
                .push(PointEntry::of(&point, Digest::of(&bytes), next()));
        }
        own.serial_high = own
            .points
            .iter()
            .map(|p| p.serial)
            .max()
            .unwrap_or(vm.serial);
        fs::write(dir.join("index.json"), encode(&own)?)?;
        fs::write(dir.join("vm.json"), encode(&vm)?)?;
    }
    Ok(())
}
