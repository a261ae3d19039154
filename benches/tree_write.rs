//! Writing a disk into the mounted tree with the tools that people use, beside a plain file and QEMU's own FUSE export of a QCOW2 file.
//!
//! `cargo bench --bench tree_write -- [--quick] [--rounds N] [--dir DIR]`. The source lies in the page cache. Each time is that of the
//! tool and of an fsync of what it wrote; "mv" is the commit that follows.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kit::disk::{CLUSTER_BYTES, changes, make};
use kit::peer::{Peer, restorefs, timed};
use kit::table::Table;
use kit::world::Daemon;
use kit::{Options, Result};

const COLUMNS: [&str; 6] = [
    "cp",
    "dd bs=1M",
    "dd bs=4k, 100 MB",
    "rsync --inplace",
    "qemu-img convert -n",
    "mv",
];
const PLAIN: &str = "plain file";
const NEW: &str = "restorefs, new disk";
const CHANGED: &str = "restorefs, 1 % changed";
const QEMU: &str = "qemu-storage-daemon, FUSE over qcow2";

/// A tool that writes `source` over all of `target`.
fn tool(column: &str, source: &Path, target: &Path) -> Command {
    let (input, output) = (
        format!("if={}", source.display()),
        format!("of={}", target.display()),
    );
    let program = column.split(' ').next().unwrap_or(column);
    let mut command = Command::new(program);
    match column {
        "dd bs=1M" => command
            .args([&input, &output])
            .args(["bs=1M", "conv=notrunc"]),
        "dd bs=4k, 100 MB" => {
            command
                .args([&input, &output])
                .args(["bs=4k", "conv=notrunc", "count=25600"])
        }
        "rsync --inplace" => command.arg("--inplace").arg(source).arg(target),
        "qemu-img convert -n" => command
            .args(["convert", "-n", "-f", "raw", "-O", "raw"])
            .arg(source)
            .arg(target),
        _ => command.arg("--sparse=never").arg(source).arg(target),
    };
    command
}

/// Seconds of the tool and of an fsync.
fn measure(column: &str, source: &Path, target: &Path) -> Result<f64> {
    let seconds = timed(&mut tool(column, source, target))?;
    let begin = Instant::now();
    File::options().write(true).open(target)?.sync_all()?;
    Ok(seconds + begin.elapsed().as_secs_f64())
}

/// Where one measurement writes, and what goes away after it.
struct Target {
    path: PathBuf,
    peer: Option<Peer>,
    files: Vec<PathBuf>,
    session: Option<PathBuf>,
}

impl Target {
    fn end(self, point: &Path) -> Result<Option<f64>> {
        drop(self.peer);
        let mut commit = None;
        if let Some(session) = self.session {
            let begin = Instant::now();
            std::fs::rename(session, point)?;
            commit = Some(begin.elapsed().as_secs_f64());
        }
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        Ok(commit)
    }
}

fn session(daemon: &Daemon, vm: &str, size_bytes: u64) -> Result<Target> {
    let vm = daemon.mountpoint.join(vm);
    if !vm.exists() {
        std::fs::create_dir(&vm)?;
    }
    let session = vm.join("s.partial");
    std::fs::create_dir(&session)?;
    let path = session.join("disks/vda.raw");
    // QEMU writes into what is there.
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?
        .set_len(size_bytes)?;
    Ok(Target {
        path,
        peer: None,
        files: Vec::new(),
        session: Some(session),
    })
}

fn plain(dir: &Path, size_bytes: u64) -> Result<Target> {
    let path = dir.join("plain.raw");
    File::create(&path)?.set_len(size_bytes)?;
    Ok(Target {
        files: vec![path.clone()],
        path,
        peer: None,
        session: None,
    })
}

fn qemu(dir: &Path, size_bytes: u64) -> Result<Target> {
    let (image, path) = (dir.join("peer.qcow2"), dir.join("peer.raw"));
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(&image);
    timed(create.arg(size_bytes.to_string()))?;
    File::create(&path)?;
    let mut command = Command::new("qemu-storage-daemon");
    let file = format!("driver=file,filename={},node-name=file", image.display());
    let mount = format!(
        "type=fuse,id=e,node-name=disk,mountpoint={},writable=on,growable=on",
        path.display()
    );
    command
        .args(["--blockdev", &file])
        .args(["--blockdev", "driver=qcow2,file=file,node-name=disk"])
        .args(["--export", &mount]);
    let peer = Peer::start(&mut command, Some(&path), || {
        std::fs::metadata(&path).is_ok_and(|m| m.len() == size_bytes)
    })?;
    Ok(Target {
        files: vec![path.clone(), image],
        path,
        peer: Some(peer),
        session: None,
    })
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let dir = options.dir();
    let size_bytes = options.pick(256 << 20, 2 << 30);
    let (monday, tuesday) = (dir.join("monday.raw"), dir.join("tuesday.raw"));
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
    let repository = dir.join("repository");
    timed(restorefs(&repository).arg("init"))?;
    let first = format!("vda={}", monday.display());
    timed(restorefs(&repository).args(["backup", "old", &first, "--point", "first"]))?;
    let daemon = Daemon::start(&repository, dir)?;
    let mebibytes = (size_bytes >> 20, data.len() >> 4);
    let title = format!(
        "Writing {} MiB, {} MiB of data, as a file, and fsync: seconds",
        mebibytes.0, mebibytes.1
    );
    let mut table = Table::new(title, PLAIN, &COLUMNS).of_seconds();
    let mut turn = 0;
    for _ in 0..options.rounds {
        for column in COLUMNS.into_iter().filter(|column| *column != "mv") {
            for row in [PLAIN, NEW, CHANGED, QEMU] {
                turn += 1;
                let vm = if row == NEW {
                    format!("new{turn}")
                } else {
                    "old".to_owned()
                };
                let target = match row {
                    PLAIN => plain(dir, size_bytes),
                    QEMU => qemu(dir, size_bytes),
                    _ => session(&daemon, &vm, size_bytes),
                };
                let target = match target {
                    Ok(target) => target,
                    Err(e) => {
                        table.note(format!("{row}: {e}"));
                        continue;
                    }
                };
                let source = if row == CHANGED { &tuesday } else { &monday };
                table.add(row, column, measure(column, source, &target.path)?);
                let point = daemon.mountpoint.join(&vm).join(format!("p{turn}"));
                if let Some(seconds) = target.end(&point)?
                    && column != "dd bs=4k, 100 MB"
                {
                    table.add(row, "mv", seconds);
                }
                // The next one is compared with Monday again.
                if row == CHANGED {
                    let back = session(&daemon, &vm, size_bytes)?;
                    timed(&mut tool("cp", &monday, &back.path))?;
                    back.end(&point.with_extension("back"))?;
                }
            }
        }
    }
    println!("{}", table.render());
    Ok(())
}
