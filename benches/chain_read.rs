//! Reading a disk through chains of 1, 31 and 1,000 layers: ours and peers side by side.
//!
//! `cargo bench --bench chain_read -- [--quick] [--rounds N] [--dir DIR]`. The layers are in the page cache ("warm") but for the
//! column that says "cold"; what the kernel keeps of a FUSE file is dropped before each measurement, so that servers are measured.
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
use kit::peer::{Peer, is_mounted, qemu_nbd, timed, uri};
use kit::table::Table;
use kit::world::{Daemon, World};
use kit::{Options, Result};

const SEQUENTIAL: &str = "sequential MB/s";
const COLD: &str = "cold sequential MB/s";
const RANDOM: &str = "4k random, 1 thread, k/s";
const RANDOM_4: &str = "4 threads, k/s";
const REFERENCE: &str = "qemu-storage-daemon FUSE";
const PLAIN: &str = "plain file";
const OTHER_BYTES: &str = "reads other bytes";
const OURS: &str = "restorefs mount";

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
    let depths: &[usize] = options.pick(&[1, 31], &[1, 31, 1000]);
    let raw = options.dir().join("disk.raw");
    let data = kit::disk::make(&raw, size_bytes, 1)?;
    let scene = Scene {
        options: &options,
        size_bytes,
        data: &data,
        raw: &raw,
    };
    let repository = options.dir().join("repo");
    let mut opened = VecDeque::new();
    let world = World::make(&repository)?;
    for depth in depths {
        let vm = format!("d{depth}");
        // Few layers change much, many layers change little: about as many extents either way.
        let changed = (data.len() / 2 / depth).clamp(16, 512);
        world.chain(&vm, &raw, &data, *depth, changed)?;
        opened.push_back((*depth, vm.clone(), world.open(&vm)?));
    }
    drop(world);
    let daemon = Daemon::start(&repository, options.dir())?;
    for (depth, vm, (disk, layer)) in opened {
        let title = format!(
            "Chain of {depth}: {} MiB, {} MiB of data",
            size_bytes >> 20,
            data.len() / 16
        );
        let mut table = Table::new(title, REFERENCE, &[SEQUENTIAL, COLD, RANDOM, RANDOM_4]);
        let rows = scene.rows(&daemon, &vm, disk, &layer, &mut table)?;
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
