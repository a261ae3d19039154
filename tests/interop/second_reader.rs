//! A repository that the program wrote, read by `reader.py`, which knows `src/FORMATS.md` and nothing of our code.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use restorefs::block::WriteAt;
use restorefs::nbd::client::Client;
use serde_json::Value;

use crate::kit::need::has;
use crate::tool::run;

pub(crate) const CLUSTER: usize = 65_536;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(name)
}

pub(crate) fn reader(args: &[&str]) -> Output {
    Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script("reader.py"))
        .args(args)
        .output()
        .unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the source of a disk.
type Write<'a> = &'a dyn Fn(&Path);

/// A directory with a repository in `repo`, and the source of each disk of each point in `<vm>.<point>.<disk>`.
pub(crate) struct World {
    dir: tempfile::TempDir,
    sources: Vec<[String; 3]>,
}

impl World {
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            sources: Vec::new(),
        };
        world.ok(&["init"]);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("RESTOREFS_REPO", self.path("repo"))
            .env("RESTOREFS_RUNTIME_DIR", self.dir.path());
        command
    }

    pub(crate) fn ok(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }

    /// Backs up disks as one point.
    fn backup(&mut self, vm: &str, point: &str, disks: &[(&str, Write<'_>)], more: &[&str]) {
        let mut args = vec!["backup".to_owned(), vm.to_owned()];
        for (disk, write) in disks {
            let source = format!("{vm}.{point}.{disk}");
            write(&self.path(&source));
            args.push(format!("{disk}=raw:{source}"));
            self.sources.push([vm, point, disk].map(str::to_owned));
        }
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend_from_slice(&["--point", point]);
        args.extend_from_slice(more);
        self.ok(&args);
    }

    pub(crate) fn serve(&self) -> Daemon {
        let socket = self.path("nbd.sock");
        let mut child = self
            .command(&["serve", "--json", "--nbd", text(&socket)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The status is printed when it is ready.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Daemon { child, socket }
    }

    /// The point's sidecar.
    pub(crate) fn point(&self, vm: &str, point: &str) -> PathBuf {
        self.path(&format!("repo/vms/{vm}/points/{point}/point.json"))
    }

    /// The layer of a disk of a point.
    pub(crate) fn layer(&self, vm: &str, point: &str, disk: &str) -> PathBuf {
        let fields = json(&self.point(vm, point));
        let disks = fields["disks"].as_array().unwrap();
        let found = disks.iter().find(|entry| entry["name"] == disk).unwrap();
        let slot = found["layer"].as_str().unwrap();
        self.path(&format!("repo/vms/{vm}/layers/{slot}.qcow2"))
    }
}

/// Bytes for a disk: by turns noise, text, zeroes and text; `seed` changes what is not zero.
fn mixed(bytes: usize, seed: u64) -> Vec<u8> {
    let mut disk = Vec::with_capacity(bytes + CLUSTER);
    for cluster in 0.. {
        if disk.len() >= bytes {
            break;
        }
        let mut state = (seed * 1_000 + cluster) | 1;
        let line = format!("line of cluster {cluster} in version {seed}\n");
        match cluster % 4 {
            0 => disk.extend((0..CLUSTER).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })),
            2 => disk.extend([0; CLUSTER]),
            _ => disk.extend(line.bytes().cycle().take(CLUSTER)),
        }
    }
    disk.truncate(bytes);
    disk
}

/// A disk of two regions, nearly all hole, with `content` around the border of the regions and at its end.
fn large(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    let border = 8_192 * CLUSTER as u64;
    file.set_len(border + 1_000_001).unwrap();
    let start = border - 3 * CLUSTER as u64;
    file.write_all_at(content, start).unwrap();
    file.write_all_at(b"the end", border + 999_994).unwrap();
}

/// Chains of several points: grown and odd disks, zero clusters, both compressions, attached files, two VMs.
pub(crate) fn world() -> World {
    let mut world = World::new();
    fs::write(world.path("domain.xml"), "<domain/>\n").unwrap();
    fs::write(world.path("note.txt"), mixed(70_000, 9)).unwrap();
    fs::write(world.path("nothing"), "").unwrap();
    let put = |bytes: Vec<u8>| move |path: &Path| fs::write(path, &bytes).unwrap();
    let odd = 5 * CLUSTER + 4_321;
    world.backup(
        "web01",
        "one",
        &[
            ("vda", &put(mixed(12 * CLUSTER, 1))),
            ("vdb", &put(mixed(odd, 2))),
        ],
        &["--attach", "domain.xml", "--attach", "nothing"],
    );
    // Grown, within a cluster and by whole ones.
    let mut grown = mixed(14 * CLUSTER + 77, 3);
    grown[..4 * CLUSTER].copy_from_slice(&mixed(4 * CLUSTER, 1));
    let more = mixed(odd + 1_000, 2);
    world.backup(
        "web01",
        "two",
        &[("vda", &put(grown.clone())), ("vdb", &put(more.clone()))],
        &[
            "--compress",
            "zlib",
            "--attach",
            "domain.xml",
            "--attach",
            "note.txt",
        ],
    );
    // What was there is zero; a disk comes, and one is as it was.
    let mut changed = mixed(14 * CLUSTER + 77, 4);
    changed[4 * CLUSTER..8 * CLUSTER].fill(0);
    world.backup(
        "web01",
        "three",
        &[
            ("vda", &put(changed.clone())),
            ("vdb", &put(more.clone())),
            ("vdc", &put(vec![0; 3 * CLUSTER])),
        ],
        &["--compress", "zstd"],
    );
    changed[..CLUSTER].fill(0x5a);
    world.backup(
        "web01",
        "four",
        &[
            ("vda", &put(changed)),
            ("vdb", &put(more)),
            ("vdc", &put(vec![1; 1])),
        ],
        &["--full", "vdc"],
    );
    let content = mixed(6 * CLUSTER, 5);
    world.backup(
        "db01",
        "one",
        &[("sda", &|path: &Path| large(path, &content))],
        &[],
    );
    let content = mixed(5 * CLUSTER + 100, 6);
    world.backup(
        "db01",
        "two",
        &[("sda", &|path: &Path| large(path, &content))],
        &["--compress", "zlib"],
    );
    world
}

pub(crate) fn can_read() -> bool {
    has("python3") && has("zstd")
}

#[test]
fn the_hash_is_that_of_its_authors() {
    if has("python3") {
        run("python3", &[script("blake3.py")]);
    }
}

#[test]
fn all_is_read_as_it_was_written() {
    if !can_read() || !has("qemu-img") || !has("cmp") {
        return;
    }
    let world = world();
    // A session is open meanwhile, and written: data over zeroes, zeroes over data, text, a second time.
    let daemon = world.serve();
    let mut nightly = fs::read(world.path("web01.four.vda")).unwrap();
    nightly.resize(nightly.len().next_multiple_of(512) + 2 * CLUSTER, 0);
    let size = format!("vda={}", nightly.len());
    world.ok(&[
        "begin",
        "web01",
        &size,
        "--session",
        "nightly",
        "--compress",
        "zstd",
    ]);
    let uri = format!(
        "nbd+unix:///web01/nightly/vda?socket={}",
        daemon.socket.display()
    );
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    let noise = mixed(CLUSTER, 7);
    let grown = nightly.len() - CLUSTER - 512;
    for (at, bytes) in [
        (4 * CLUSTER + 1_000, &[0x77; 100_000][..]),
        (8 * CLUSTER, &noise),
        (0, &[0; CLUSTER]),
        (grown, b"grown"),
        (8 * CLUSTER + 5, b"again"),
        (9 * CLUSTER, &noise),
    ] {
        client.write_at(at as u64, bytes).unwrap();
        client.flush().unwrap();
        nightly[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let source = world.path("web01.nightly.partial.vda");
    fs::write(source, nightly).unwrap();
    let repo = world.path("repo");
    let output = reader(&["verify", text(&repo)]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        found,
        "note: read 2 VMs, 6 points, 1 sessions, 12 layers\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0));
    for [vm, point, disk] in &world.sources {
        let source = world.path(&format!("{vm}.{point}.{disk}"));
        let out = world.path("out.raw");
        let output = reader(&["extract", text(&repo), vm, point, disk, text(&out)]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        run("cmp", &[text(&source), text(&out)]);
        let layer = world.layer(vm, point, disk);
        let flat = world.path("flat.raw");
        run(
            "qemu-img",
            &["convert", "-O", "raw", text(&layer), text(&flat)],
        );
        let source_bytes = fs::metadata(&source).unwrap().len();
        assert_eq!(
            fs::metadata(&flat).unwrap().len(),
            source_bytes.next_multiple_of(512)
        );
        let count = source_bytes.to_string();
        run("cmp", &["-n", &count, text(&out), text(&flat)]);
    }
    let out = world.path("out.raw");
    let args = ["web01", "nightly.partial", "vda", text(&out)];
    let output = reader(&[&["extract", text(&repo)], &args[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let source = world.path("web01.nightly.partial.vda");
    run("cmp", &[text(&source), text(&out)]);
    drop(client);
}
