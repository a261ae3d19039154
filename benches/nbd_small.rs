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
use kit::peer::{Peer, nbdkit, qemu_nbd, restorefs, timed, uri};
use kit::table::Table;
use kit::usage::Usage;
use kit::world::Daemon;
use kit::{Options, Result};

const QEMU: &str = "qemu-nbd, new qcow2";
const COPY: &str = "nbdcopy s";
const WRITES: &str = "writes s";
const TO_COMMIT: &str = "writes to commit s";

/// A server for one measurement.
struct Server {
    uri: String,
    /// Whose use is measured.
    pid: u32,
    peer: Option<Peer>,
    files: Vec<PathBuf>,
    /// A session of ours: repository, VM and name.
    session: Option<(PathBuf, String)>,
}

impl Server {
    fn end(self) -> Result<()> {
        drop(self.peer);
        if let Some((repository, session)) = self.session {
            // One that was committed is gone.
            let _ = restorefs(&repository).args(["abort", &session]).output();
        }
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }

    /// Runs a client, and answers its time with what the server used.
    fn measured(&self, client: &mut Command) -> Result<Usage> {
        let before = Usage::so_far(self.pid)?;
        let seconds = timed(client)?;
        Ok(Usage::so_far(self.pid)?.since(&before, seconds))
    }
}

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
        let new = |turn: &str| self.session(&format!("new{turn}"), true);
        let unchanged = |_: &str| self.session("old", false);
        let qemu = |_: &str| self.qemu(None);
        let file = |_: &str| self.nbdkit_file();
        let null = |_: &str| self.nbdkit_null();
        let rows: [Start<'_>; 5] = [
            ("restorefs, new disk", &new),
            ("restorefs, unchanged", &unchanged),
            (QEMU, &qemu),
            ("nbdkit file", &file),
            ("nbdkit null", &null),
        ];
        for round in 0..self.options.rounds {
            for (name, start) in rows {
                let server = start(&format!("c{round}"))?;
                let mut copy = Command::new("nbdcopy");
                let used = server.measured(copy.arg(&self.source).arg(&server.uri))?;
                table.add_used(name, COPY, used.seconds, &used);
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
        let new = |turn: &str| self.session(&format!("new{turn}"), true);
        let parent = |_: &str| self.session("old", false);
        let qemu = |_: &str| self.qemu(None);
        let overlay = |_: &str| self.qemu(Some(&self.base));
        let rows: [Start<'_>; 4] = [
            ("restorefs, new disk", &new),
            (QEMU, &qemu),
            ("restorefs, over a parent", &parent),
            ("qemu-nbd, over a full backing file", &overlay),
        ];
        for round in 0..self.options.rounds {
            for (name, start) in rows {
                let server = start(&format!("w{round}"))?;
                let used = server.measured(&mut self.fio(&server.uri, count))?;
                table.add_used(name, WRITES, used.seconds, &used);
                let began = Instant::now();
                let mut flush = Command::new("qemu-io");
                timed(
                    flush
                        .args(["-f", "raw", "-c", "write 0 4096", "-c", "flush"])
                        .arg(&server.uri),
                )?;
                if let Some((repository, session)) = &server.session {
                    timed(restorefs(repository).args(["commit", session]))?;
                    let point = format!("{}@latest", session.trim_end_matches("/s"));
                    timed(restorefs(repository).args(["forget", &point]))?;
                }
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
        fio
    }

    fn session(&self, vm: &str, is_new: bool) -> Result<Server> {
        let mut begin = restorefs(&self.repository);
        begin.args(["begin", vm, "--session", "s"]);
        if is_new {
            begin.arg(format!("vda={}", self.size_bytes));
        }
        timed(&mut begin)?;
        Ok(Server {
            uri: uri(&self.daemon.socket, &format!("{vm}/s/vda")),
            pid: self.daemon.id(),
            peer: None,
            files: Vec::new(),
            session: Some((self.repository.clone(), format!("{vm}/s"))),
        })
    }

    fn peer(&self, peer: Peer, files: Vec<PathBuf>, socket: &Path) -> Server {
        Server {
            uri: uri(socket, ""),
            pid: peer.id(),
            peer: Some(peer),
            files,
            session: None,
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.options.dir().join(name)
    }

    fn qemu(&self, backing: Option<&Path>) -> Result<Server> {
        let (file, socket) = (self.place("peer.qcow2"), self.place("peer.sock"));
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            create.args(["-F", "qcow2", "-b"]).arg(backing);
        }
        timed(create.arg(&file).arg(self.size_bytes.to_string()))?;
        let peer = qemu_nbd(&socket, "qcow2", false, &file)?;
        Ok(self.peer(peer, vec![file, socket.clone()], &socket))
    }

    fn nbdkit_file(&self) -> Result<Server> {
        let (file, socket) = (self.place("peer.raw"), self.place("peer.sock"));
        std::fs::File::create(&file)?.set_len(self.size_bytes)?;
        let peer = nbdkit(&socket, &["file".to_owned(), file.display().to_string()])?;
        Ok(self.peer(peer, vec![file, socket.clone()], &socket))
    }

    fn nbdkit_null(&self) -> Result<Server> {
        let socket = self.place("peer.sock");
        let peer = nbdkit(&socket, &["null".to_owned(), self.size_bytes.to_string()])?;
        Ok(self.peer(peer, vec![socket.clone()], &socket))
    }
}
