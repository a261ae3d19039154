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
use kit::peer::{restorefs, timed, uri};
use kit::server::{Server, places};
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
        let size_bytes = self.size_bytes;
        let full = |turn: usize| {
            Server::session(
                &repository,
                &daemon,
                &format!("new{turn}"),
                Some(size_bytes),
            )
        };
        let incremental = |_| Server::session(&repository, &daemon, "old", None);
        let qemu = |_| Server::qemu(dir, size_bytes, None);
        let file = |_| Server::nbdkit_file(dir, size_bytes);
        let memory = |_| Server::nbdkit(dir, "memory", size_bytes);
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

    /// The crate's server, a thread for each connection, in this process.
    fn nbd_crate(&self) -> Result<Server> {
        let (path, socket) = places(self.options.dir(), "crate.raw")?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(self.size_bytes)?;
        let listener = UnixListener::bind(&socket)?;
        let size = self.size_bytes;
        // It ends with this process; each client is a thread that ends with its connection.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(file) = file.try_clone() else { return };
                std::thread::spawn(move || serve_by_crate(&stream, file, size));
            }
        });
        Ok(Server::in_process(uri(&socket, "x"), vec![path, socket]))
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
