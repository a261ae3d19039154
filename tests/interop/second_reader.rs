//! A repository that the program wrote, read by `reader.py`, which knows `src/FORMATS.md` and nothing of our code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use restorefs::block::WriteAt;
use restorefs::nbd::client::Client;
use serde_json::Value;

use crate::tool::{has, run};

const CLUSTER: usize = 65_536;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(name)
}

fn reader(args: &[&str]) -> Output {
    Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script("reader.py"))
        .args(args)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The daemon, killed when dropped.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with a repository in `repo`, and the source of each disk of each point in `<vm>.<point>.<disk>`.
struct World {
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

    fn path(&self, name: &str) -> PathBuf {
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

    fn ok(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }

    /// Backs up disks as one point.
    fn backup(&mut self, vm: &str, point: &str, disks: &[(&str, &dyn Fn(&Path))], more: &[&str]) {
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

    fn serve(&self) -> Daemon {
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
    fn point(&self, vm: &str, point: &str) -> PathBuf {
        self.path(&format!("repo/vms/{vm}/points/{point}/point.json"))
    }

    /// The layer of a disk of a point.
    fn layer(&self, vm: &str, point: &str, disk: &str) -> PathBuf {
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
fn world() -> World {
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

fn can_read() -> bool {
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

/// Copies the repository, lets `change` do something in it, and has it verified; which files have faults.
fn faults(world: &World, change: impl FnOnce(&Path)) -> (Option<i32>, BTreeSet<String>, String) {
    let copy = world.path("copy");
    let _ = fs::remove_dir_all(&copy);
    run("cp", &["-a", text(&world.path("repo")), text(&copy)]);
    change(&copy);
    let output = reader(&["verify", text(&copy)]);
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = found
        .lines()
        .filter(|line| !line.starts_with("note: "))
        .map(|line| line.split_once(": ").unwrap().0.to_owned())
        .collect();
    let said = found + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), files, said)
}

/// Replaces a file, which nobody may write.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn offset(entry: u64) -> usize {
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

/// Where things lie in a layer that maps something in its first region.
struct Places {
    l1: usize,
    l2: usize,
    refcounts: usize,
    refcount_block: usize,
    data: usize,
    compressed: Option<usize>,
    backing: usize,
}

fn places(layer: &[u8]) -> Places {
    let l1 = offset(number(layer, 40));
    let l2 = offset(number(layer, l1));
    let refcounts = offset(number(layer, 48));
    let entries: Vec<u64> = (0..8_192).map(|n| number(layer, l2 + 8 * n)).collect();
    let data = entries.iter().find(|entry| **entry >> 63 == 1).unwrap();
    let compressed = entries.iter().find(|entry| **entry >> 62 == 1);
    Places {
        l1,
        l2,
        refcounts,
        refcount_block: offset(number(layer, refcounts)),
        data: offset(*data),
        compressed: compressed.map(|entry| usize::try_from(entry & ((1 << 54) - 1)).unwrap()),
        backing: offset(0) + usize::try_from(number(layer, 8)).unwrap(),
    }
}

/// The sums beside a layer.
fn sums(layer: &Path) -> PathBuf {
    let bytes = fs::read(layer).unwrap();
    let at = bytes.windows(4).position(|four| four == b"RFS1").unwrap();
    let id = uuid::Uuid::from_slice(&bytes[at + 8..at + 24]).unwrap();
    layer.with_extension(format!("{id}.sums"))
}

#[test]
fn each_flipped_byte_is_found_and_its_file_named() {
    if !can_read() {
        return;
    }
    let world = world();
    let daemon = world.serve();
    world.ok(&["begin", "web01", "--session", "nightly"]);
    let repo = world.path("repo");
    let in_repo = |path: &Path| path.strip_prefix(&repo).unwrap().to_owned();
    let vm = |name: &str| PathBuf::from("vms/web01").join(name);
    let one = in_repo(&world.layer("web01", "one", "vda"));
    let two = in_repo(&world.layer("web01", "two", "vda"));
    let three = in_repo(&world.layer("web01", "three", "vda"));
    let bytes = |path: &Path| fs::read(repo.join(path)).unwrap();
    let at = places(&bytes(&two));
    let state = fs::read_dir(repo.join(vm("state")))
        .unwrap()
        .next()
        .unwrap();
    let sums = in_repo(&sums(&world.layer("web01", "two", "vdb")));
    let sums_end = bytes(&sums).len() - 1;
    let flips = [
        ("restorefs.json".into(), 20),
        (vm("vm.json"), 30),
        (vm("index.json"), 500),
        (vm("points/four/point.json"), 300),
        (vm("points/.nightly.partial/session.json"), 300),
        (in_repo(&state.unwrap().path()), 100),
        // The name of the hash, its digits, the end.
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 75),
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 40),
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 1),
        (vm("points/two/attached/note.txt"), 69_999),
        (sums.clone(), 3),
        (sums.clone(), 20),
        (sums.clone(), 110),
        (sums, sums_end),
        // Magic, size, layer id, a name of a feature, backing name, the rest of the cluster.
        (two.clone(), 0),
        (two.clone(), 29),
        (two.clone(), 140),
        (two.clone(), 170),
        (two.clone(), at.backing + 2),
        (two.clone(), 60_000),
        (two.clone(), at.l1 + 7),
        (two.clone(), at.l2 + 6),
        (two.clone(), at.refcounts + 5),
        (two.clone(), at.refcount_block + 1),
        (two.clone(), at.data + 40_000),
        (two, at.compressed.unwrap() + 30),
        (
            three.clone(),
            places(&bytes(&three)).compressed.unwrap() + 30,
        ),
        (one.clone(), places(&bytes(&one)).data),
    ];
    // One flip of each file at a time.
    let mut rounds: Vec<BTreeMap<PathBuf, usize>> = Vec::new();
    for (file, at) in flips {
        let round = rounds.iter().position(|round| !round.contains_key(&file));
        let round = round.unwrap_or_else(|| {
            rounds.push(BTreeMap::new());
            rounds.len() - 1
        });
        rounds[round].insert(file, at);
    }
    for round in rounds {
        let (code, files, said) = faults(&world, |copy| {
            for (file, at) in &round {
                let mut bytes = fs::read(copy.join(file)).unwrap();
                bytes[*at] ^= 1;
                replace(&copy.join(file), &bytes);
            }
        });
        assert_eq!(code, Some(3), "{round:?}: {said}");
        let right: BTreeSet<String> = round.keys().map(|file| text(file).to_owned()).collect();
        assert_eq!(files, right, "{round:?}: {said}");
    }
    drop(daemon);
}

/// Changes a sidecar and takes its hash away, as a person with an editor does.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut fields = json(path);
    fields.as_object_mut().unwrap().remove("blake3");
    change(&mut fields);
    replace(path, &serde_json::to_vec_pretty(&fields).unwrap());
}

/// Changes a byte of a metadata cluster of a layer, and makes the hashes in its sums right again.
fn reseal(layer: &Path, at: usize, to: u8) {
    let mut bytes = fs::read(layer).unwrap();
    assert_ne!(bytes[at], to);
    bytes[at] = to;
    let path = sums(layer);
    replace(layer, &bytes);
    let mut sums = fs::read(&path).unwrap();
    let count = |at: usize| usize::from(sums[at]);
    let (regions, touched, metadata) = (count(80), count(88), count(96));
    for n in 0..metadata {
        let entry = 104 + 32 * regions + 16 * touched + 40 * n;
        if usize::from(sums[entry]) == at / CLUSTER {
            let whole = &bytes[at / CLUSTER * CLUSTER..][..CLUSTER];
            sums[entry + 8..entry + 40].copy_from_slice(blake3::hash(whole).as_bytes());
        }
    }
    let hash = *blake3::hash(&sums[40..]).as_bytes();
    sums[8..40].copy_from_slice(&hash);
    replace(&path, &sums);
}

#[test]
fn what_contradicts_itself_under_right_hashes_is_found() {
    if !can_read() {
        return;
    }
    let world = world();
    let index = "vms/web01/index.json";
    let point = "vms/web01/points/two/point.json";
    let layer = world.layer("web01", "two", "vda");
    let layer = layer.strip_prefix(world.path("repo")).unwrap();
    let at = places(&fs::read(world.layer("web01", "two", "vda")).unwrap());
    let check = |file: &str, what: &str, change: &dyn Fn(&Path)| {
        let (code, files, said) = faults(&world, |copy| change(&copy.join(file)));
        assert_eq!(code, Some(3), "{what}: {said}");
        assert!(files.contains(file), "{what}: {said}");
        assert!(said.contains(what), "{what}: {said}");
    };
    check(index, "gives a seq twice", &|path| {
        edit(path, |fields| fields["points"][1]["seq"] = 1.into());
    });
    check(index, "`serial_high` is too low", &|path| {
        edit(path, |fields| fields["serial_high"] = 1.into());
    });
    let serial = &json(&world.path("repo/vms/db01/vm.json"))["serial"];
    let what = format!("serial {serial} is that of db01 and of web01");
    check("vms/web01/vm.json", &what, &|path| {
        for name in ["vm.json", "index.json"] {
            let path = path.with_file_name(name);
            edit(&path, |fields| fields["serial"] = serial.clone());
        }
    });
    check(point, "has another `content_root`", &|path| {
        edit(path, |fields| {
            fields["disks"][0]["content_root"] = "00".repeat(32).into()
        });
    });
    check(point, "does not match `point_blake3`", &|path| {
        edit(path, |fields| fields["writer"] = "somebody".into());
    });
    check(point, "`data_bytes` is not", &|path| {
        edit(path, |fields| fields["disks"][1]["data_bytes"] = 0.into());
    });
    check(text(layer), "has refcount 3", &|path| {
        reseal(path, at.refcount_block + 1, 3);
    });
    check(text(layer), "has a path as backing name", &|path| {
        reseal(path, at.backing + 1, b'/');
    });
    check(text(layer), "has another virtual size", &|path| {
        reseal(path, 30, 0xfe);
    });
    let (code, _, said) = faults(&world, |copy| {
        edit(&copy.join("vms/web01/vm.json"), |fields| {
            fields["schema"] = 2.into()
        });
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("vm.json: schema 2"), "{said}");
}
