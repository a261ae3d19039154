//! HTTP: pages of a long list by `wrk`, alone and beside an ingest; a disk by Range beside NBD; an ingest beside 200 slow readers.
//!
//! `cargo bench --bench http -- [--quick] [--rounds N] [--only list|disk|slow] [--dir DIR]`. The list is a page of 100 of 1,000 restore
//! points, over TCP on loopback, as `wrk` knows no Unix sockets; disks come over Unix sockets, both by HTTP and by NBD. `wrk`, `curl`,
//! `nbdcopy` and the daemon share the machine's processors.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kit::disk::{CLUSTER_BYTES, Dice, make};
use kit::measure::megabytes;
use kit::peer::{Peer, restorefs, timed, uri};
use kit::table::Table;
use kit::world::World;
use kit::{Options, Result};

const LIST: &str = "pages/s";
const P99: &str = "p99 ms";
const IDLE: &str = "nothing else runs";
const BESIDE: &str = "beside an ingest over NBD";
const DISK: &str = "MB/s";
const NBD: &str = "nbdcopy from the NBD export";
const HTTP: &str = "curl, the whole disk";
const INGEST: &str = "ingest MB/s";
const THREADS: &str = "threads of the daemon";
const ALONE: &str = "no readers";
const SLOW: &str = "200 slow readers of archives";
/// Clients that read slowly, and the tokens that they share: two downloads of each are served, eight in all.
const READERS: usize = 200;
const TOKENS: usize = 8;

/// A daemon with HTTP on a port and a socket, and NBD on a socket.
struct Served {
    peer: Peer,
    pid: u32,
    url: String,
    http: PathBuf,
    nbd: PathBuf,
    tokens: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let dir = options.dir();
    // A dense disk: what is sent is what is read.
    let dense = dir.join("dense.raw");
    let dense_bytes: u64 = options.pick(64 << 20, 1 << 30);
    fill(&dense, dense_bytes)?;
    let repository = dir.join("repo");
    let points = options.pick(300, 1_000);
    {
        let world = World::make(&repository)?;
        let small = dir.join("small.raw");
        let data = make(&small, 1 << 20, 1)?;
        world.chain("many", &small, &data, points, 1)?;
        let clusters: Vec<u64> = (0..dense_bytes / CLUSTER_BYTES).collect();
        world.chain("dense", &dense, &clusters, 1, 0)?;
    }
    let served = Served::start(&repository, dir)?;
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if wants("list") {
        list(&options, &served, &repository, &dense, points)?;
    }
    if wants("disk") {
        disk(&options, &served, dense_bytes)?;
    }
    if wants("slow") {
        slow(&options, &served, &repository, &dense, dense_bytes)?;
    }
    drop(served.peer);
    Ok(())
}

/// Random bytes in every cluster.
fn fill(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path)?;
    let mut dice = Dice::new(7);
    let mut piece = vec![0; 1 << 20];
    for at in (0..bytes).step_by(piece.len()) {
        dice.fill(&mut piece);
        file.write_all_at(&piece, at)?;
    }
    Ok(())
}

impl Served {
    fn start(repository: &Path, dir: &Path) -> Result<Self> {
        let access = dir.join("access.toml");
        let mut tokens = Vec::new();
        for n in 0..TOKENS {
            let mut command = restorefs(repository);
            command.args(["--json", "token", "add", &format!("bench{n}")]);
            command.args(["--rights", "read,restore", "--vms", "*", "--access"]);
            let output = command.arg(&access).output()?;
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let token = answer.get("token").and_then(serde_json::Value::as_str);
            tokens.push(token.ok_or("no token")?.to_owned());
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (http, nbd) = (dir.join("http.sock"), dir.join("nbd.sock"));
        let mut command = restorefs(repository);
        command.arg("serve").arg("--access").arg(&access);
        command.arg("--http").arg(address.to_string());
        command.arg("--http-socket").arg(&http);
        command.arg("--nbd").arg(&nbd).stderr(Stdio::null());
        let peer = Peer::start(&mut command, None, || http.exists() && nbd.exists())?;
        let pid = peer.id();
        Ok(Self {
            peer,
            pid,
            url: format!("http://{address}/api/v1/repositories/default/vms"),
            http,
            nbd,
            tokens,
        })
    }

    fn threads(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        Ok(line.ok_or("no threads")?.trim().parse()?)
    }
}

/// An ingest of the dense disk, again and again, until it is stopped.
struct Ingest {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::result::Result<Vec<f64>, String>>,
}

/// Writes the disk into a new session and throws it away; seconds of the copy.
fn ingest(repository: &Path, nbd: &Path, raw: &Path, session: &str) -> Result<f64> {
    let bytes = raw.metadata()?.len();
    let mut begin = restorefs(repository);
    begin.args(["begin", "target", &format!("vda={bytes}")]);
    begin.args(["--point", session]);
    timed(&mut begin)?;
    let mut copy = Command::new("nbdcopy");
    copy.arg(raw)
        .arg(uri(nbd, &format!("target/{session}/vda")));
    let seconds = timed(&mut copy);
    let mut abort = restorefs(repository);
    timed(abort.args(["abort", &format!("target/{session}")]))?;
    seconds
}

impl Ingest {
    fn start(repository: &Path, nbd: &Path, raw: &Path) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, repository) = (Arc::clone(&stop), repository.to_owned());
        let (nbd, raw) = (nbd.to_owned(), raw.to_owned());
        let thread = std::thread::spawn(move || {
            let mut seconds = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let name = format!("again{}", seconds.len());
                let one = ingest(&repository, &nbd, &raw, &name).map_err(|e| e.to_string())?;
                seconds.push(one);
            }
            Ok(seconds)
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.thread.join().map_err(|_| "the ingest panicked")?;
        Ok(seconds?)
    }
}

fn list(
    options: &Options,
    served: &Served,
    repository: &Path,
    raw: &Path,
    points: usize,
) -> Result<()> {
    let title = format!("A page of 100 of {points} restore points, wrk -t1 -c16");
    let mut table = Table::new(title, IDLE, &[LIST, P99]);
    for _ in 0..options.rounds {
        for row in [IDLE, BESIDE] {
            let beside = (row == BESIDE).then(|| Ingest::start(repository, &served.nbd, raw));
            let (rate, p99) = wrk(served, options.pick(2, 10))?;
            table.add(row, LIST, rate);
            table.add(row, P99, p99);
            if let Some(beside) = beside {
                beside.end()?;
            }
        }
    }
    println!("{}", table.render());
    Ok(())
}

/// Requests a second, and the 99th percentile of the latency in ms.
fn wrk(served: &Served, seconds: u32) -> Result<(f64, f64)> {
    let token = served.tokens.first().ok_or("no token")?;
    let output = Command::new("wrk")
        .args(["-t1", "-c16", "--latency", &format!("-d{seconds}s"), "-H"])
        .arg(format!("Authorization: Bearer {token}"))
        .arg(format!("{}/many/points?limit=100", served.url))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Non-2xx") || !output.status.success() {
        return Err(format!("wrk: {text}").into());
    }
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim)
            .ok_or(format!("wrk told no {name}: {text}"))
    };
    let p99 = field("99%")?;
    let number = |unit: &str| p99.strip_suffix(unit).and_then(|n| n.parse::<f64>().ok());
    // The longer units come first: all of them end with s.
    let p99 = number("us")
        .map(|us| us / 1_000.0)
        .or_else(|| number("ms"))
        .or_else(|| number("s").map(|s| s * 1_000.0));
    Ok((
        field("Requests/sec:")?.parse()?,
        p99.ok_or("wrk told no latency")?,
    ))
}

fn disk(options: &Options, served: &Served, bytes: u64) -> Result<()> {
    let title = format!("A dense disk of {} MiB over a Unix socket", bytes >> 20);
    let mut table = Table::new(title, NBD, &[DISK]);
    for _ in 0..options.rounds {
        let mut copy = Command::new("nbdcopy");
        copy.arg(uri(&served.nbd, "dense/latest/vda")).arg("null:");
        table.add(NBD, DISK, megabytes(bytes) / timed(&mut copy)?);
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-o", "/dev/null", "-r", "0-", "--unix-socket"]);
        curl.arg(&served.http);
        curl.arg("http://localhost/api/v1/repositories/default/vms/dense/points/latest/disks/vda");
        table.add(HTTP, DISK, megabytes(bytes) / timed(&mut curl)?);
    }
    println!("{}", table.render());
    Ok(())
}

fn slow(
    options: &Options,
    served: &Served,
    repository: &Path,
    raw: &Path,
    bytes: u64,
) -> Result<()> {
    let title = format!("Ingest of {} MiB over NBD", bytes >> 20);
    let mut table = Table::new(title, ALONE, &[INGEST, THREADS]);
    for round in 0..options.rounds {
        for row in [ALONE, SLOW] {
            let readers = match row {
                SLOW => slow_readers(served)?,
                _ => Readers(Vec::new()),
            };
            let name = format!("slow{round}-{}", readers.0.len());
            let seconds = ingest(repository, &served.nbd, raw, &name)?;
            table.add(row, INGEST, megabytes(bytes) / seconds);
            table.add(row, THREADS, served.threads()?);
        }
    }
    println!("{}", table.render());
    Ok(())
}

struct Readers(Vec<Child>);

impl Drop for Readers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Clients that take an archive of a disk at 32 KiB/s: faster than the limit that ends them.
fn slow_readers(served: &Served) -> Result<Readers> {
    let mut readers = Readers(Vec::new());
    for n in 0..READERS {
        let token = served.tokens.get(n % TOKENS).ok_or("no token")?;
        let child = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "--limit-rate", "32k", "-H"])
            .arg(format!("Authorization: Bearer {token}"))
            .arg(format!(
                "{}/dense/points/latest/archive?format=tar&path=/disks",
                served.url
            ))
            .stdin(Stdio::null())
            .spawn()?;
        readers.0.push(child);
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    Ok(readers)
}
