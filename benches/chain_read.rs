//! Reading a disk through chains of 1, 31 and 1,000 layers: ours and peers side by side.
//!
//! `cargo bench --bench chain_read -- [--quick] [--rounds N] [--only DEPTH] [--dir DIR]`. As root all lies on an XFS of its own, on a loop
//! device, so that extents can be shared. The layers are in the page cache ("warm") but for the columns that say "cold"; what the kernel
//! keeps of a FUSE file is dropped before each measurement, so that servers are measured.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use imago::SyncFormatAccess;
use imago::qcow2::Qcow2;
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_setup_dev_sync;
use restorefs::chain::Disk;

use kit::measure::{Mounted, Readable, megabytes, random, random_by_4, sequential};
use kit::peer::{Peer, is_mounted, qemu_nbd, restorefs, timed, uri};
use kit::table::Table;
use kit::world::{Daemon, World};
use kit::{Options, Result};

const SEQUENTIAL: &str = "sequential MB/s";
const COLD: &str = "cold sequential MB/s";
const COLD_RANDOM: &str = "cold 4k random, 1 thread, k/s";
const RANDOM: &str = "4k random, 1 thread, k/s";
const RANDOM_4: &str = "4 threads, k/s";
const REFERENCE: &str = "qemu-storage-daemon FUSE";
const PLAIN: &str = "plain file";
const OTHER_BYTES: &str = "reads other bytes";
const OURS: &str = "restorefs mount";
const PASSTHROUGH: &str = "restorefs mount -o passthrough";
/// Size of the filesystem for the benches; the file that holds it is sparse.
const XFS_BYTES: u64 = 32 << 30;
/// How long a flat disk may take.
const FLAT_PATIENCE: Duration = Duration::from_secs(120);

/// A way to read the disk.
enum Way {
    /// Reads at any place from any thread.
    Shared(Box<dyn Readable + Sync>),
    /// Reads at any place from one thread.
    Single(Box<dyn Readable>),
    /// `nbdcopy` of this URI to nowhere.
    Copies(String),
}

struct Row {
    name: &'static str,
    way: Way,
    _peers: Vec<Peer>,
}

/// The disk that is read.
struct Scene<'a> {
    options: &'a Options,
    size_bytes: u64,
    data: &'a [u64],
    raw: &'a Path,
}

/// Stack of the thread that measures: other readers go one or more calls deeper for each layer, and with the usual 8 MiB the process
/// dies of a stack overflow at 1,000 layers.
const STACK_BYTES: usize = 1 << 30;

fn main() -> Result<()> {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let running = thread.spawn(|| run().map_err(|error| error.to_string()))?;
    running.join().map_err(|_| "the bench panicked")??;
    Ok(())
}

fn run() -> Result<()> {
    let options = Options::parse()?;
    let size_bytes = options.pick(512 << 20, 4 << 30);
    let mut depths = options.pick(vec![1, 31], vec![1, 31, 1000]);
    if let Some(only) = &options.only {
        depths = vec![only.parse()?];
    }
    let (base, _xfs) = match Xfs::make(options.dir()) {
        Ok(xfs) => (xfs.0.clone(), Some(xfs)),
        Err(e) => {
            println!("Without an XFS of its own, and so without passthrough: {e}");
            (options.dir().to_owned(), None)
        }
    };
    let raw = base.join("disk.raw");
    let data = kit::disk::make(&raw, size_bytes, 1)?;
    let scene = Scene {
        options: &options,
        size_bytes,
        data: &data,
        raw: &raw,
    };
    let repository = base.join("repo");
    let mut opened = VecDeque::new();
    let world = World::make(&repository)?;
    for depth in &depths {
        let vm = format!("d{depth}");
        // Few layers change much, many layers change little: about as many extents either way.
        let changed = (data.len() / 2 / depth).clamp(16, 512);
        world.chain(&vm, &raw, &data, *depth, changed)?;
        opened.push_back((*depth, vm.clone(), world.open(&vm)?));
    }
    drop(world);
    let daemon = Daemon::start(&repository, options.dir())?;
    let passed = pass_through(&repository, &options.dir().join("passed"));
    for (depth, vm, (disk, layer)) in opened {
        let title = format!(
            "Chain of {depth}: {} MiB, {} MiB of data",
            size_bytes >> 20,
            data.len() / 16
        );
        let mut table = Table::new(
            title,
            REFERENCE,
            &[SEQUENTIAL, COLD, RANDOM, RANDOM_4, COLD_RANDOM],
        );
        let mut rows = scene.rows(&daemon, &vm, disk, &layer, &mut table)?;
        match &passed {
            Ok((_, mountpoint)) => match flat(&mountpoint.join(&vm).join("latest")) {
                Ok(file) => rows.insert(
                    1,
                    Row {
                        name: PASSTHROUGH,
                        // What it keeps is the flat disk's page cache, as the plain file's is its own.
                        way: Way::Shared(Box::new(Mounted::open(&file, false)?)),
                        _peers: vec![],
                    },
                ),
                Err(e) => table.note(format!("{PASSTHROUGH}: {e}")),
            },
            Err(e) => table.note(format!("{PASSTHROUGH}: {e}")),
        }
        let rows = scene.agree(rows, &mut table)?;
        scene.measure(&rows, &mut table)?;
        println!("{}", table.render());
    }
    Ok(())
}

impl Scene<'_> {
    fn rows(
        &self,
        daemon: &Daemon,
        vm: &str,
        disk: Disk,
        layer: &Path,
        table: &mut Table,
    ) -> Result<Vec<Row>> {
        let dir = self.options.dir();
        let at = |name: &str| -> PathBuf { dir.join(format!("{vm}.{name}")) };
        let mounted = daemon.mountpoint.join(vm).join("latest/disks/vda.raw");
        let reads = |readable: Box<dyn Readable + Sync>| Way::Shared(readable);
        let mut rows = Vec::new();
        let mut add = |name, way, peers| {
            rows.push(Row {
                name,
                way,
                _peers: peers,
            });
        };
        add(
            PLAIN,
            reads(Box::new(Mounted::open(self.raw, false)?)),
            vec![],
        );
        add(
            OURS,
            reads(Box::new(Mounted::open(&mounted, true)?)),
            vec![],
        );
        let target = at("qsd");
        match storage_daemon(layer, &target) {
            Ok(peer) => {
                let way = reads(Box::new(Mounted::open(&target, true)?));
                add(REFERENCE, way, vec![peer]);
            }
            Err(e) => table.note(format!("{REFERENCE}: {e}")),
        }
        let (socket, target) = (at("nbdfuse.sock"), at("nbdfuse"));
        match nbdfuse(layer, &socket, &target) {
            Ok(peers) => {
                let way = reads(Box::new(Mounted::open(&target, true)?));
                add("nbdfuse over qemu-nbd", way, peers);
            }
            Err(e) => table.note(format!("nbdfuse: {e}")),
        }
        add("restorefs chain::Disk", reads(Box::new(disk)), vec![]);
        match imago(layer) {
            Ok(image) => add("imago 0.2.6", Way::Single(image), vec![]),
            Err(e) => table.note(format!("imago 0.2.6: {e}")),
        }
        match qcow2_rs(layer) {
            Ok(image) => add("qcow2-rs 0.1.6", Way::Single(image), vec![]),
            Err(e) => table.note(format!("qcow2-rs 0.1.6: {e}")),
        }
        let export = uri(&daemon.socket, &format!("{vm}/latest/vda"));
        add("restorefs NBD, nbdcopy", Way::Copies(export), vec![]);
        let socket = at("qemu-nbd.sock");
        match qemu_nbd(&socket, "qcow2", true, layer) {
            Ok(peer) => {
                let way = Way::Copies(uri(&socket, ""));
                add("qemu-nbd, nbdcopy", way, vec![peer]);
            }
            Err(e) => table.note(format!("qemu-nbd: {e}")),
        }
        Ok(rows)
    }

    /// Drops rows that do not read what our mount reads, and says so; that QEMU reads other bytes is an error.
    fn agree(&self, rows: Vec<Row>, table: &mut Table) -> Result<Vec<Row>> {
        let mut dice = kit::disk::Dice::new(7);
        let mut places = Vec::new();
        for _ in 0..64 {
            let pick = usize::try_from(dice.below(self.data.len() as u64))?;
            places.push(self.data[pick] * kit::disk::CLUSTER_BYTES);
        }
        let read = |row: &Row| -> Option<Result<Vec<u8>>> {
            let source: &dyn Readable = match &row.way {
                Way::Shared(source) => source.as_ref(),
                Way::Single(source) => source.as_ref(),
                Way::Copies(_) => return None,
            };
            let mut all = vec![0; places.len() * 4096];
            let read = catch_unwind(AssertUnwindSafe(|| {
                for (at, part) in places.iter().zip(all.chunks_mut(4096)) {
                    source.read(*at, part)?;
                }
                Ok(())
            }));
            Some(match read {
                Ok(read) => read.map(|()| all),
                Err(_) => Err("it panicked".into()),
            })
        };
        let ours = rows.iter().find(|row| row.name == OURS);
        let truth = ours.and_then(read).ok_or("no mount")??;
        let mut kept = Vec::new();
        for row in rows {
            let why = match read(&row) {
                None => None,
                // It stands for the base layer only.
                Some(Ok(_)) if row.name == PLAIN => None,
                Some(Ok(bytes)) if bytes == truth => None,
                Some(Ok(_)) => Some(OTHER_BYTES.to_owned()),
                Some(Err(e)) => Some(e.to_string()),
            };
            match why {
                None => kept.push(row),
                Some(why) if row.name == REFERENCE && why == OTHER_BYTES => return Err(why.into()),
                Some(why) => table.note(format!("{}: {why}", row.name)),
            }
        }
        Ok(kept)
    }

    fn measure(&self, rows: &[Row], table: &mut Table) -> Result<()> {
        let time = Duration::from_millis(self.options.pick(200, 1000));
        for _ in 0..self.options.rounds {
            for row in rows {
                table.add(row.name, SEQUENTIAL, self.sequential(row)?);
                match &row.way {
                    Way::Shared(source) => {
                        let one = random(source.as_ref(), self.data, time)?;
                        table.add(row.name, RANDOM, one);
                        let four = random_by_4(source.as_ref(), self.data, time)?;
                        table.add(row.name, RANDOM_4, four);
                    }
                    Way::Single(source) => {
                        let one = random(source.as_ref(), self.data, time)?;
                        table.add(row.name, RANDOM, one);
                    }
                    Way::Copies(_) => {}
                }
            }
        }
        for row in rows {
            if let Err(e) = drop_caches() {
                table.note(format!("cold: {e}"));
                break;
            }
            table.add(row.name, COLD, self.sequential(row)?);
        }
        for _ in 0..self.options.rounds {
            for row in rows {
                let source: &dyn Readable = match &row.way {
                    Way::Shared(source) => source.as_ref(),
                    Way::Single(source) => source.as_ref(),
                    Way::Copies(_) => continue,
                };
                if drop_caches().is_err() {
                    return Ok(());
                }
                table.add(row.name, COLD_RANDOM, random(source, self.data, time)?);
            }
        }
        Ok(())
    }

    fn sequential(&self, row: &Row) -> Result<f64> {
        match &row.way {
            Way::Shared(source) => sequential(source.as_ref(), self.size_bytes),
            Way::Single(source) => sequential(source.as_ref(), self.size_bytes),
            Way::Copies(uri) => {
                // All is read, holes too, as by the others.
                let mut copy = Command::new("nbdcopy");
                copy.args(["--no-extents", uri, "null:"]);
                Ok(megabytes(self.size_bytes) / timed(&mut copy)?)
            }
        }
    }
}

/// A mounted XFS.
struct Xfs(PathBuf);

impl Xfs {
    fn make(dir: &Path) -> Result<Self> {
        let (image, at) = (dir.join("xfs.img"), dir.join("xfs"));
        std::fs::File::create(&image)?.set_len(XFS_BYTES)?;
        timed(
            Command::new("mkfs.xfs")
                .args(["-q", "-m", "reflink=1"])
                .arg(&image),
        )?;
        std::fs::create_dir(&at)?;
        timed(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&at),
        )?;
        Ok(Self(at))
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if let Err(e) = timed(Command::new("umount").arg(&self.0)) {
            println!("{} is left: {e}", self.0.display());
        }
    }
}

/// A mount whose disks are read by passthrough, and where it is.
fn pass_through(repository: &Path, mountpoint: &Path) -> Result<(Peer, PathBuf)> {
    std::fs::create_dir(mountpoint)?;
    let mut command = restorefs(repository);
    command.args(["mount", "--foreground", "-o", "passthrough"]);
    let peer = Peer::start(command.arg(mountpoint), Some(mountpoint), || {
        is_mounted(mountpoint)
    })?;
    Ok((peer, mountpoint.to_owned()))
}

/// Reads a disk once, so that its flat disk is made, and waits for it; the disk's file.
fn flat(point: &Path) -> Result<PathBuf> {
    let file = point.join("disks/vda.raw");
    Mounted::open(&file, true)?.read(0, &mut [0; 4096])?;
    let begin = std::time::Instant::now();
    loop {
        let info = std::fs::read_to_string(point.join("info.json"))?;
        if info.contains("\"read_path\": \"passthrough\"") {
            println!(
                "The flat disk was made in {:.2} s.",
                begin.elapsed().as_secs_f64()
            );
            return Ok(file);
        }
        if let Some(reason) = info.lines().find(|line| line.contains("read_path_reason")) {
            return Err(reason.trim().into());
        }
        if begin.elapsed() > FLAT_PATIENCE {
            return Err("no flat disk was made in time".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Drops the page cache of the whole machine; root only.
fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(Into::into)
}

fn storage_daemon(layer: &Path, target: &Path) -> Result<Peer> {
    std::fs::write(target, "")?;
    let mut command = Command::new("qemu-storage-daemon");
    command.args([
        "--blockdev",
        &format!(
            "driver=qcow2,node-name=d,read-only=on,file.driver=file,file.filename={}",
            layer.display()
        ),
    ]);
    command.args([
        "--export",
        &format!(
            "type=fuse,id=e,node-name=d,writable=off,mountpoint={}",
            target.display()
        ),
    ]);
    Peer::start(&mut command, Some(target), || is_mounted(target))
}

fn nbdfuse(layer: &Path, socket: &Path, target: &Path) -> Result<Vec<Peer>> {
    let server = qemu_nbd(socket, "qcow2", true, layer)?;
    std::fs::write(target, "")?;
    let mut command = Command::new("nbdfuse");
    command.arg("-r").arg(target).arg(uri(socket, ""));
    // The mount goes first, then its server.
    let mount = Peer::start(&mut command, Some(target), || is_mounted(target))?;
    Ok(vec![mount, server])
}

/// imago's image through its synchronous wrapper, from one thread as all of its users are.
struct Imago(SyncFormatAccess<imago::file::File>);

impl Readable for Imago {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Ok(self.0.read(buf, offset)?)
    }
}

fn imago(layer: &Path) -> Result<Box<dyn Readable>> {
    let mut image = Qcow2::<imago::file::File>::open_path_sync(layer, false)?;
    image.open_implicit_dependencies_sync()?;
    Ok(Box::new(Imago(SyncFormatAccess::new(image)?)))
}

/// qcow2-rs over synchronous system calls; its futures never wait.
struct Qcow2Rs {
    device: Qcow2Dev<Qcow2IoSync>,
    runtime: tokio::runtime::Runtime,
}

impl Readable for Qcow2Rs {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut aligned = Qcow2IoBuf::<u8>::new(buf.len());
        let read = self.device.read_at(&mut aligned, offset);
        let count = self.runtime.block_on(read).map_err(|e| e.to_string())?;
        if count != buf.len() {
            return Err(format!("{count} bytes instead of {}", buf.len()).into());
        }
        buf.copy_from_slice(&aligned);
        Ok(())
    }
}

fn qcow2_rs(layer: &Path) -> Result<Box<dyn Readable>> {
    let before = std::env::current_dir()?;
    // It looks for relative backing names in the working directory.
    std::env::set_current_dir(layer.parent().ok_or("a layer without a directory")?)?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let parameters = Qcow2DevParams::new(9, None, None, true, false);
        qcow2_setup_dev_sync(layer, &parameters).map_err(|e| e.to_string())
    }));
    std::env::set_current_dir(before)?;
    let device = opened.map_err(|_| "it panicked when it opened the chain")??;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let prepared = runtime.block_on(device.qcow2_prep_io());
    prepared.map_err(|e| e.to_string())?;
    Ok(Box::new(Qcow2Rs { device, runtime }))
}
