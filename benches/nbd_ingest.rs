//! Writing a disk over NBD and from files: our server and peers side by side.
//!
//! `cargo bench --bench nbd_ingest -- [--quick] [--rounds N] [--dir DIR]`. Sources lie in the page cache. "nbdcopy" ends when the server
//! has taken all, "flushed" when it has also made it durable. Rates are of the data of the source, a quarter of its size.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::disk::{CLUSTER_BYTES, changes, make};
use kit::measure::megabytes;
use kit::peer::{Peer, nbdkit, qemu_nbd, restorefs, timed, uri};
use kit::table::Table;
use kit::world::Daemon;
use kit::{Options, Result};

const COPY: &str = "nbdcopy MB/s";
const FLUSHED: &str = "flushed MB/s";
const FIO_64: &str = "fio 64k random write MB/s";
const FIO_4: &str = "fio 4k random write MB/s";
const OURS: &str = "restorefs, full";
const QEMU: &str = "qemu-nbd, new qcow2";
const SECONDS: &str = "s";
const RATE: &str = "MB/s of data";
const CONVERT: &str = "qemu-img convert -O qcow2";

/// What is written.
struct Scene {
    options: Options,
    size_bytes: u64,
    data_bytes: u64,
    monday: PathBuf,
    /// Monday with 1 % of its data changed.
    tuesday: PathBuf,
}

/// A server for one measurement, and what to do with it afterwards.
struct Server {
    uri: String,
    peer: Option<Peer>,
    /// Files that are removed, so that nothing but the page cache's room is shared by two measurements.
    files: Vec<PathBuf>,
    /// VM and session that are aborted.
    session: Option<(PathBuf, String)>,
}

impl Server {
    fn end(self) -> Result<()> {
        drop(self.peer);
        if let Some((repository, session)) = self.session {
            timed(restorefs(&repository).args(["abort", &session]))?;
        }
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let size_bytes = options.pick(256 << 20, 2 << 30);
    let (monday, tuesday) = (
        options.dir().join("monday.raw"),
        options.dir().join("tuesday.raw"),
    );
    let data = make(&monday, size_bytes, 1)?;
    timed(
        Command::new("cp")
            .arg("--sparse=always")
            .args([&monday, &tuesday]),
    )?;
    let file = File::options().write(true).open(&tuesday)?;
    for (cluster, bytes) in changes(&data, data.len() / 100, 2)? {
        file.write_all_at(&bytes, cluster * CLUSTER_BYTES)?;
    }
    file.sync_all()?;
    let scene = Scene {
        options,
        size_bytes,
        data_bytes: u64::try_from(data.len())? * CLUSTER_BYTES,
        monday,
        tuesday,
    };
    println!("{}", scene.over_nbd()?.render());
    println!("{}", scene.of_files()?.render());
    Ok(())
}

impl Scene {
    fn title(&self, what: &str) -> String {
        let (size, data) = (self.size_bytes >> 20, self.data_bytes >> 20);
        format!("{what}: {size} MiB, {data} MiB of data")
    }

    fn over_nbd(&self) -> Result<Table> {
        let mut table = Table::new(
            self.title("Writing over NBD"),
            QEMU,
            &[COPY, FLUSHED, FIO_64, FIO_4],
        );
        let dir = self.options.dir();
        let repository = dir.join("served");
        timed(restorefs(&repository).arg("init"))?;
        let first = format!("vda={}", self.monday.display());
        timed(restorefs(&repository).args(["backup", "old", &first]))?;
        let daemon = Daemon::start(&repository, dir)?;
        let full = |turn: usize| self.session(&repository, &daemon, &format!("new{turn}"), true);
        let incremental = |_| self.session(&repository, &daemon, "old", false);
        let qemu = |_| self.qemu();
        let file = |_| self.nbdkit_file();
        let memory = |_| self.nbdkit_memory();
        let nbd_crate = |_| self.nbd_crate();
        type Start<'a> = &'a dyn Fn(usize) -> Result<Server>;
        let rows: [(&str, &Path, Start<'_>); 6] = [
            (OURS, &self.monday, &full),
            ("restorefs, 1 % changed", &self.tuesday, &incremental),
            (QEMU, &self.monday, &qemu),
            ("nbdkit file", &self.monday, &file),
            ("nbdkit memory", &self.monday, &memory),
            ("nbd crate 0.3.1, file", &self.monday, &nbd_crate),
        ];
        let mut turn = 0;
        for _ in 0..self.options.rounds {
            for (name, source, start) in &rows {
                for (column, arguments) in [(COPY, &[][..]), (FLUSHED, &["--flush"][..])] {
                    turn += 1;
                    let server = start(turn)?;
                    let mut copy = Command::new("nbdcopy");
                    copy.args(arguments).arg(source).arg(&server.uri);
                    match timed(&mut copy) {
                        Ok(seconds) => {
                            table.add(name, column, megabytes(self.data_bytes) / seconds);
                        }
                        Err(e) => table.note(format!("{name}, {column}: {e}")),
                    }
                    server.end()?;
                }
                for (column, block) in [(FIO_64, 65_536), (FIO_4, 4096)] {
                    turn += 1;
                    let server = start(turn)?;
                    match self.fio(&server.uri, block) {
                        Ok(rate) => table.add(name, column, rate),
                        Err(e) => table.note(format!("{name}, {column}: {e}")),
                    }
                    server.end()?;
                }
            }
        }
        Ok(table)
    }

    /// A session on one disk.
    fn session(&self, repository: &Path, daemon: &Daemon, vm: &str, new: bool) -> Result<Server> {
        let mut begin = restorefs(repository);
        begin.args(["begin", vm, "--session", "s"]);
        if new {
            begin.arg(format!("vda={}", self.size_bytes));
        }
        timed(&mut begin)?;
        Ok(Server {
            uri: uri(&daemon.socket, &format!("{vm}/s/vda")),
            peer: None,
            files: Vec::new(),
            session: Some((repository.to_owned(), format!("{vm}/s"))),
        })
    }

    /// A file and a socket of a peer.
    fn places(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let file = self.options.dir().join(name);
        let socket = self.options.dir().join(format!("{name}.sock"));
        for path in [&file, &socket] {
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        Ok((file, socket))
    }

    fn empty(&self, path: &Path) -> Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        file.set_len(self.size_bytes)?;
        Ok(file)
    }

    fn qemu(&self) -> Result<Server> {
        let (file, socket) = self.places("qemu.qcow2")?;
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]).arg(&file);
        timed(create.arg(self.size_bytes.to_string()))?;
        Ok(Server {
            peer: Some(qemu_nbd(&socket, "qcow2", false, &file)?),
            uri: uri(&socket, ""),
            files: vec![file, socket],
            session: None,
        })
    }

    fn nbdkit_file(&self) -> Result<Server> {
        let (file, socket) = self.places("nbdkit.raw")?;
        self.empty(&file)?;
        let arguments = ["file".to_owned(), file.display().to_string()];
        Ok(Server {
            peer: Some(nbdkit(&socket, &arguments)?),
            uri: uri(&socket, ""),
            files: vec![file, socket],
            session: None,
        })
    }

    fn nbdkit_memory(&self) -> Result<Server> {
        let (_, socket) = self.places("memory")?;
        let arguments = ["memory".to_owned(), self.size_bytes.to_string()];
        Ok(Server {
            peer: Some(nbdkit(&socket, &arguments)?),
            uri: uri(&socket, ""),
            files: vec![socket],
            session: None,
        })
    }

    /// The crate's server, a thread for each connection, in this process.
    fn nbd_crate(&self) -> Result<Server> {
        let (path, socket) = self.places("crate.raw")?;
        let file = self.empty(&path)?;
        let listener = UnixListener::bind(&socket)?;
        let size = self.size_bytes;
        // It ends with this process; each client is a thread that ends with its connection.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(file) = file.try_clone() else { return };
                std::thread::spawn(move || serve_by_crate(&stream, file, size));
            }
        });
        Ok(Server {
            uri: uri(&socket, "x"),
            peer: None,
            files: vec![path, socket],
            session: None,
        })
    }

    /// MB/s of random writes, 16 in flight.
    fn fio(&self, uri: &str, block: u32) -> Result<f64> {
        let output = Command::new("fio")
            .args(["--name=w", "--ioengine=nbd", "--rw=randwrite"])
            .args(["--iodepth=16", "--time_based", "--output-format=json"])
            .args(["--randrepeat=1", "--refill_buffers"])
            .arg(format!("--uri={uri}"))
            .arg(format!("--bs={block}"))
            .arg(format!("--size={}", self.size_bytes))
            .arg(format!("--runtime={}", self.options.pick(1, 2)))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        // Remarks may come before the document.
        let document = said.find('{').and_then(|at| said.get(at..)).unwrap_or("");
        let report: serde_json::Value = serde_json::from_str(document)
            .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
        let error = report.pointer("/jobs/0/error").and_then(|v| v.as_i64());
        let rate = report
            .pointer("/jobs/0/write/bw_bytes")
            .and_then(|v| v.as_f64());
        match (error, rate) {
            (Some(0), Some(rate)) => Ok(rate / 1e6),
            (error, _) => Err(format!("fio failed: {error:?}").into()),
        }
    }

    fn of_files(&self) -> Result<Table> {
        let mut table = Table::new(
            self.title("Backup of a raw file"),
            CONVERT,
            &[SECONDS, RATE],
        );
        let dir = self.options.dir();
        for round in 0..self.options.rounds {
            let repository = dir.join(format!("files{round}"));
            timed(restorefs(&repository).arg("init"))?;
            let backup = |source: &Path| {
                let mut command = restorefs(&repository);
                command.args(["backup", "web01", &format!("vda={}", source.display())]);
                command
            };
            let image = dir.join("convert.qcow2");
            let convert = |arguments: &[&str]| {
                let mut command = Command::new("qemu-img");
                command.args(["convert", "-f", "raw", "-O", "qcow2"]);
                command.args(arguments).arg(&self.monday).arg(&image);
                command
            };
            let rows = [
                ("restorefs backup, full", backup(&self.monday)),
                ("restorefs backup, 1 % changed", backup(&self.tuesday)),
                (CONVERT, convert(&[])),
                // As durable as a committed point is.
                (
                    "qemu-img convert, then fsync",
                    convert(&["-t", "writeback", "-W", "-m", "16"]),
                ),
            ];
            for (name, mut command) in rows {
                let mut seconds = timed(&mut command)?;
                if name.ends_with("fsync") {
                    seconds += timed(Command::new("sync").arg(&image))?;
                }
                table.add(name, SECONDS, seconds);
                table.add(name, RATE, megabytes(self.data_bytes) / seconds);
                if image.exists() {
                    std::fs::remove_file(&image)?;
                }
            }
            std::fs::remove_dir_all(&repository)?;
        }
        Ok(table)
    }
}

fn serve_by_crate(stream: &UnixStream, file: File, size: u64) {
    let handshake = nbd::server::handshake(stream, |_| {
        Ok(nbd::Export::<()> {
            size,
            ..nbd::Export::<()>::default()
        })
    });
    if handshake.is_ok() {
        // A client that hangs up ends it; the measurement tells what it did not do.
        let _ = nbd::server::transmission(stream, file);
    }
}
