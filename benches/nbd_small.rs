//! Writing over NBD, server by server: a dense disk by `nbdcopy`, and 4 KiB random writes by fio.
//!
//! `cargo bench --bench nbd_small -- [--quick] [--rounds N] [--dir DIR] [--json FILE]`. Rows take turns on
//! fresh disks. Beside wall time the tables have what the server alone used. "writes to commit" is the time
//! for all writes, a FLUSH, and with us the commit.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kit::disk::Dice;
use kit::peer::{restorefs, timed};
use kit::server::Server;
use kit::table::Table;
use kit::world::Daemon;
use kit::{Options, Result};

const QEMU: &str = "qemu-nbd, new qcow2";
const NULL: &str = "nbdkit null";
const COPY: &str = "nbdcopy s";
const WRITES: &str = "writes s";
const TO_COMMIT: &str = "writes to commit s";

struct Scene {
    /// Ends before the directory of the options is removed, in which it is mounted.
    daemon: Daemon,
    repository: PathBuf,
    source: PathBuf,
    size_bytes: u64,
    base: PathBuf,
    options: Options,
}

type Start<'a> = (&'a str, &'a dyn Fn(&str) -> Result<Server>);

fn main() -> Result<()> {
    let options = Options::parse()?;
    let size_bytes: u64 = options.pick(64 << 20, 1 << 30);
    let dir = options.dir();
    let (source, base) = (dir.join("source.raw"), dir.join("base.qcow2"));
    dense(&source, size_bytes)?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    timed(convert.arg(&source).arg(&base))?;
    let repository = dir.join("served");
    timed(restorefs(&repository).arg("init"))?;
    let disk = format!("vda={}", source.display());
    timed(restorefs(&repository).args(["backup", "old", &disk]))?;
    let daemon = Daemon::start(&repository, dir)?;
    let scene = Scene {
        repository,
        daemon,
        source,
        size_bytes,
        base,
        options,
    };
    let tables = [scene.copies()?, scene.small_writes()?];
    scene.options.publish("nbd_small", &tables)
}

/// Makes a disk of which no cluster is zero or like another.
fn dense(path: &Path, size_bytes: u64) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let (mut dice, mut bytes) = (Dice::new(7), vec![0; 1 << 20]);
    for _ in 0..size_bytes >> 20 {
        dice.fill(&mut bytes);
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

impl Scene {
    fn copies(&self) -> Result<Table> {
        let title = format!("nbdcopy of {} MiB of random data", self.size_bytes >> 20);
        let mut table = Table::new(title, QEMU, &[COPY]).of_seconds();
        let dir = self.options.dir();
        let new = |turn: &str| self.session(&format!("new{turn}"), Some(self.size_bytes));
        let unchanged = |_: &str| self.session("old", None);
        let qemu = |_: &str| Server::qemu(dir, self.size_bytes, None);
        let file = |_: &str| Server::nbdkit_file(dir, self.size_bytes);
        let null = |_: &str| Server::nbdkit(dir, "null", self.size_bytes);
        let rows: [Start<'_>; 5] = [
            ("restorefs, new disk", &new),
            ("restorefs, unchanged", &unchanged),
            (QEMU, &qemu),
            ("nbdkit file", &file),
            (NULL, &null),
        ];
        for round in 0..self.options.rounds {
            for (name, start) in rows {
                let server = start(&format!("c{round}"))?;
                let mut copy = Command::new("nbdcopy");
                let used = server.measured(copy.arg(&self.source).arg(&server.uri))?;
                table.add_used(name, COPY, used.seconds, &used);
                if self.options.quick && name != NULL {
                    let mut compare = Command::new("qemu-img");
                    compare.args(["compare", "-q", "-f", "raw", "-F", "raw"]);
                    timed(compare.arg(&self.source).arg(&server.uri))?;
                }
                server.end()?;
            }
        }
        Ok(table)
    }

    fn small_writes(&self) -> Result<Table> {
        let count = self.options.pick(2000, 40_000);
        let title = format!(
            "{count} random writes of 4 KiB, 16 in flight, on {} MiB",
            self.size_bytes >> 20
        );
        let mut table = Table::new(title, QEMU, &[WRITES, TO_COMMIT]).of_seconds();
        let dir = self.options.dir();
        let new = |turn: &str| self.session(&format!("new{turn}"), Some(self.size_bytes));
        let parent = |_: &str| self.session("old", None);
        let qemu = |_: &str| Server::qemu(dir, self.size_bytes, None);
        let overlay = |_: &str| Server::qemu(dir, self.size_bytes, Some(&self.base));
        let rows: [Start<'_>; 4] = [
            ("restorefs, new disk", &new),
            (QEMU, &qemu),
            ("restorefs, over a parent", &parent),
            ("qemu-nbd, over a full backing file", &overlay),
        ];
        for round in 0..self.options.rounds {
            for (name, start) in rows {
                let mut server = start(&format!("w{round}"))?;
                let used = server.measured(&mut self.fio(&server.uri, count))?;
                table.add_used(name, WRITES, used.seconds, &used);
                let began = Instant::now();
                let mut flush = Command::new("qemu-io");
                timed(
                    flush
                        .args(["-f", "raw", "-c", "write 0 4096", "-c", "flush"])
                        .arg(&server.uri),
                )?;
                server.commit()?;
                table.add(
                    name,
                    TO_COMMIT,
                    used.seconds + began.elapsed().as_secs_f64(),
                );
                server.end()?;
            }
        }
        Ok(table)
    }

    fn fio(&self, uri: &str, count: u64) -> Command {
        let mut fio = Command::new("fio");
        fio.args(["--name=w", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"])
            .args(["--iodepth=16", "--randrepeat=1", "--output-format=json"])
            .arg(format!("--uri={uri}"))
            .arg(format!("--size={}", self.size_bytes))
            .arg(format!("--io_size={}", count * 4096));
        if self.options.quick {
            fio.args(["--verify=crc32c", "--do_verify=1", "--verify_state_save=0"]);
        }
        fio
    }

    fn session(&self, vm: &str, size_bytes: Option<u64>) -> Result<Server> {
        Server::session(&self.repository, &self.daemon, vm, size_bytes)
    }
}
