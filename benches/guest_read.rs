//! Reading a guest's files: find, tar, rsync, grep, a large file and many small ones, from our mount and from the kernel's own mount of
//! the raw disk.
//!
//! `cargo bench --bench guest_read -- [--quick] [--rounds N] [--only ext4|xfs|btrfs] [--dir DIR]`. Cold is with caches dropped, the daemon
//! and its readers started anew, and the peer mounted anew; warm is the second run. Ratios are speeds: 1 is as fast as the kernel,
//! 2 is twice as fast. guestmount is in the table where it is installed. Needs root.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]

#[allow(dead_code, reason = "each bench uses a part of it")]
mod kit;

use std::path::{Path, PathBuf};
use std::process::Command;

use kit::peer::{Peer, is_mounted, restorefs, timed};
use kit::table::Table;
use kit::{Options, Result};

/// Where a Debian system has most of its files.
const SOURCES: [&str; 9] = [
    "/etc",
    "/usr/include",
    "/usr/lib/python3",
    "/usr/lib/python3.11",
    "/usr/share/doc",
    "/usr/share/perl",
    "/usr/share/zoneinfo",
    "/usr/share/locale",
    "/usr/share/man",
];
const KERNEL: &str = "kernel, loop mount";
const COLUMNS: [&str; 8] = [
    "find",
    "ls -lR",
    "tar",
    "grep -r",
    "rsync -aHAX",
    "rsync again",
    "large file",
    "small files",
];

/// What guestmount does within minutes.
const GUESTMOUNT: [&str; 3] = ["find", "large file", "small files"];

/// A filesystem with its files.
struct Guest {
    format: &'static str,
    raw: PathBuf,
    repository: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let source = options.dir().join("source");
    let files = fill(&source, &options)?;
    for format in ["ext4", "xfs", "btrfs"] {
        if options.only.as_ref().is_some_and(|only| only != format) {
            continue;
        }
        let guest = Guest::make(&options, format, &source)?;
        let mut cold = table(format!("Guest files, {format}, {files} files, cold"));
        let mut warm = table(format!("Guest files, {format}, {files} files, warm"));
        for round in 0..options.rounds {
            for (name, flags) in [
                ("restorefs", vec![]),
                (
                    "restorefs, readers in threads",
                    vec!["--guest-isolation", "thread"],
                ),
            ] {
                measure(&options, name, &COLUMNS, &mut cold, &mut warm, || {
                    guest.mount_ours(&options, &flags)
                })?;
            }
            measure(&options, KERNEL, &COLUMNS, &mut cold, &mut warm, || {
                guest.mount_kernel(&options)
            })?;
            // Minutes for each: once is enough to see the order of magnitude.
            if round == 0 && format == "ext4" {
                if Command::new("guestmount").arg("--version").output().is_ok() {
                    measure(
                        &options,
                        "guestmount",
                        &GUESTMOUNT,
                        &mut cold,
                        &mut warm,
                        || guest.mount_guestfs(&options),
                    )?;
                } else {
                    cold.note("guestmount is not installed");
                }
            }
        }
        println!("{}\n{}", cold.render(), warm.render());
        std::fs::remove_file(&guest.raw)?;
        std::fs::remove_dir_all(&guest.repository)?;
    }
    Ok(())
}

fn table(title: String) -> Table {
    Table::new(title, KERNEL, &COLUMNS).of_seconds()
}

fn shell(script: &str) -> Result<f64> {
    timed(Command::new("sh").args(["-ec", script]))
}

/// The files of the guest; how many.
fn fill(source: &Path, options: &Options) -> Result<usize> {
    let wanted = options.pick(2000, 20_000);
    let large = options.pick(64, 512);
    let small = options.pick(1000, 10_000);
    let at = source.display();
    let sources: Vec<&str> = SOURCES
        .into_iter()
        .filter(|path| Path::new(path).is_dir())
        .collect();
    shell(&format!(
        "mkdir -p {at}/tree {at}/small
         find {} -xdev -type f -print0 2>/dev/null | head -z -n {wanted} | tar c --null -T - 2>/dev/null | tar x -C {at}/tree
         head -c {large}M /dev/urandom > {at}/large
         seq {small} | while read n; do d={at}/small/$((n % 100)); [ -d $d ] || mkdir $d; echo content of file $n > $d/$n; done",
        sources.join(" ")
    ))?;
    let listed = Command::new("find")
        .arg(source.join("tree"))
        .args(["-type", "f"])
        .output()?;
    Ok(listed.stdout.iter().filter(|b| **b == b'\n').count())
}

impl Guest {
    fn make(options: &Options, format: &'static str, source: &Path) -> Result<Self> {
        let raw = options.dir().join(format!("{format}.raw"));
        let repository = options.dir().join(format!("repo-{format}"));
        let (image, at, mnt) = (raw.display(), source.display(), options.dir().join("mkfs"));
        let (size, mnt) = (options.pick(600, 2048), mnt.display());
        shell(&format!(
            "truncate -s {size}M {image}; mkfs.{format} -q {image}; mkdir -p {mnt}; mount -o loop {image} {mnt}
             cp -a {at}/. {mnt}/; umount {mnt}"
        ))?;
        timed(restorefs(&repository).arg("init"))?;
        timed(
            restorefs(&repository)
                .args(["backup", "web01"])
                .arg(format!("vda={}", raw.display())),
        )?;
        Ok(Self {
            format,
            raw,
            repository,
        })
    }

    fn mount_ours(&self, options: &Options, flags: &[&str]) -> Result<(PathBuf, Mounted)> {
        let at = options.dir().join("mnt");
        std::fs::create_dir_all(&at)?;
        let mut command = restorefs(&self.repository);
        command.args(flags).args(["mount", "--foreground"]).arg(&at);
        // It says that it was unmounted by somebody else.
        command.stderr(std::process::Stdio::null());
        let peer = Peer::start(&mut command, Some(&at), || is_mounted(&at))?;
        Ok((at.join("web01/latest/files"), Mounted::Ours { _peer: peer }))
    }

    fn mount_kernel(&self, options: &Options) -> Result<(PathBuf, Mounted)> {
        let at = options.dir().join("kernel");
        std::fs::create_dir_all(&at)?;
        let recovery = if self.format == "xfs" {
            "ro,norecovery"
        } else {
            "ro"
        };
        timed(
            Command::new("mount")
                .args(["-o", &format!("loop,{recovery}")])
                .args([&self.raw, &at]),
        )?;
        Ok((at.clone(), Mounted::Kernel(at)))
    }

    fn mount_guestfs(&self, options: &Options) -> Result<(PathBuf, Mounted)> {
        let at = options.dir().join("guestfs");
        std::fs::create_dir_all(&at)?;
        let mut command = Command::new("guestmount");
        // Without the hardware's help, which is not to be had everywhere.
        command
            .env("LIBGUESTFS_BACKEND", "direct")
            .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
            .args(["--ro", "--format=raw", "-a"]);
        timed(command.arg(&self.raw).args(["-m", "/dev/sda"]).arg(&at))?;
        Ok((at.clone(), Mounted::Kernel(at)))
    }
}

/// A mount that is undone when it is dropped.
enum Mounted {
    Ours { _peer: Peer },
    Kernel(PathBuf),
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Self::Kernel(at) = self {
            let _ = Command::new("umount").arg(at).status();
        }
    }
}

/// All columns of a row, cold and warm.
fn measure(
    options: &Options,
    row: &str,
    columns: &[&str],
    cold: &mut Table,
    warm: &mut Table,
    mount: impl Fn() -> Result<(PathBuf, Mounted)>,
) -> Result<()> {
    let copy = options.dir().join("copy");
    let (mut at, mut mounted) = (PathBuf::new(), None);
    for &column in columns {
        let is_again = column == "rsync again";
        for is_warm in [false, true] {
            if !is_warm {
                drop(mounted.take());
                timed(Command::new("sync").arg("-f").arg(options.dir()))?;
                std::fs::write("/proc/sys/vm/drop_caches", "3")?;
                let (path, guard) = mount()?;
                (at, mounted) = (path, Some(guard));
            }
            if column.starts_with("rsync") && !is_again && copy.exists() {
                std::fs::remove_dir_all(&copy)?;
            }
            let seconds = shell(&script(column, &at, &copy))?;
            let table = if is_warm { &mut *warm } else { &mut *cold };
            table.add(row, column, seconds);
        }
    }
    drop(mounted);
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    Ok(())
}

fn script(column: &str, at: &Path, copy: &Path) -> String {
    let (at, copy) = (at.display(), copy.display());
    match column {
        "find" => format!("find {at}/tree -type f -newer /proc/1 >/dev/null"),
        "ls -lR" => format!("ls -lR {at}/tree >/dev/null"),
        // GNU tar reads nothing when it writes to /dev/null.
        "tar" => format!("tar c -C {at} tree | cat >/dev/null"),
        "grep -r" => format!("grep -r nothing-has-this-word {at}/tree >/dev/null || [ $? = 1 ]"),
        "large file" => format!("cat {at}/large >/dev/null"),
        "small files" => format!("find {at}/small -type f -print0 | xargs -0 cat >/dev/null"),
        _ => format!("rsync -aHAX {at}/tree/ {copy}/"),
    }
}
