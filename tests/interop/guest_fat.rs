//! FAT: our reader against mtools and fsck.fat, as few kernels here have a driver, and against what was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, MemoryDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::fat;
use restorefs::guest::fs::{FileType, GuestFs, GuestIno};
use restorefs::guest::probe::probe;
use restorefs::sys::beneath::Access;

use crate::guest_walk::{Counts, content};
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

fn open(volume: &Arc<dyn ReadAt>) -> Arc<dyn GuestFs> {
    fat::open(std::slice::from_ref(volume)).unwrap().into()
}

/// Runs a tool of mtools on the image, in UTF-8 and in UTC.
fn mtools(image: &Path, tool: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(tool)
        .args(["-i", image.to_str().unwrap()])
        .args(arguments)
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Files by path, as they were written.
type Files = BTreeMap<String, Vec<u8>>;

/// An image with one of everything that mtools can make, and what is in it.
fn make(dir: &Path, options: &[&str], size_kib: u64) -> Option<(PathBuf, Files)> {
    if !has("mkfs.fat") || !has("mcopy") || !has("fsck.fat") {
        return None;
    }
    let image = dir.join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(size_kib << 10)
        .unwrap();
    let mut arguments = vec!["-n", "MY LABEL", "-i", "1234abcd"];
    arguments.extend(options);
    arguments.push(image.to_str().unwrap());
    run("mkfs.fat", &arguments);
    let tree = dir.join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut files = Files::new();
    let deep = ["d"; 20].join("/");
    std::fs::create_dir_all(tree.join(&deep)).unwrap();
    std::fs::create_dir(tree.join("many files")).unwrap();
    std::fs::create_dir(tree.join("NOTHING")).unwrap();
    let mut add = |name: &str, bytes: Vec<u8>| {
        std::fs::write(tree.join(name), &bytes).unwrap();
        files.insert(name.to_owned(), bytes);
    };
    for (name, length) in [
        ("empty", 0),
        ("SHORT.TXT", 5),
        ("lower.txt", 512),
        ("Mixed Case.Text", 513),
        ("ünïcödé ☃ 日本語", 4096),
        ("thirteen char", 100),
        ("100% %u002F", 70_001),
        ("two.dots.in it", 600_000),
    ] {
        add(name, noise(7, length));
    }
    add(&"n".repeat(255), b"long".to_vec());
    add(&format!("{deep}/bottom"), b"deep".to_vec());
    for n in 0..250 {
        add(&format!("many files/entry number {n}"), noise(n, 3));
    }
    let mut arguments = vec!["-s", "-Q", "-m"];
    let entries: Vec<PathBuf> = std::fs::read_dir(&tree)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    arguments.extend(entries.iter().map(|path| path.to_str().unwrap()));
    arguments.push("::");
    mtools(&image, "mcopy", &arguments);
    mtools(&image, "mattrib", &["+r", "::SHORT.TXT"]);
    Some((image, files))
}

/// Pieces of a file, by deleting every other one of many small ones.
fn fragment(image: &Path, dir: &Path, files: &mut Files) {
    let small = dir.join("small");
    std::fs::create_dir(&small).unwrap();
    for n in 0..60 {
        std::fs::write(small.join(format!("piece{n}")), noise(n, 4000)).unwrap();
    }
    mtools(image, "mcopy", &["-s", small.to_str().unwrap(), "::"]);
    for n in (0..60).step_by(2) {
        mtools(image, "mdel", &[&format!("::small/piece{n}")]);
    }
    // FAT32 tells where to look for the next free cluster: at the first again.
    let file = FileDisk::open(image, Access::ReadWrite).unwrap();
    let mut magic = [0; 4];
    file.read_at(512, &mut magic).unwrap();
    if magic == *b"RRaA" {
        file.write_at(512 + 492, &2u32.to_le_bytes()).unwrap();
    }
    for n in (1..60).step_by(2) {
        files.insert(format!("small/piece{n}"), noise(n, 4000));
    }
    let bytes = noise(99, 150_000);
    std::fs::write(dir.join("in pieces"), &bytes).unwrap();
    let from = dir.join("in pieces");
    mtools(image, "mcopy", &[from.to_str().unwrap(), "::"]);
    files.insert("in pieces".to_owned(), bytes);
}

fn our_files(
    fs: &Arc<dyn GuestFs>,
    volume: &Arc<dyn ReadAt>,
    dir: GuestIno,
    prefix: &str,
    counts: &mut Counts,
) -> Files {
    let mut files = Files::new();
    for entry in fs.entries(dir).unwrap().iter() {
        let name = format!("{prefix}{}", String::from_utf8(entry.name.clone()).unwrap());
        match fs.attributes(entry.ino).unwrap().file_type {
            FileType::Directory => {
                files.extend(our_files(
                    fs,
                    volume,
                    entry.ino,
                    &format!("{name}/"),
                    counts,
                ));
            }
            _ => {
                let bytes = content(fs, volume, entry.ino, counts).unwrap();
                assert!(files.insert(name, bytes).is_none());
            }
        }
    }
    files
}

fn resolve(fs: &dyn GuestFs, path: &str) -> GuestIno {
    path.split('/').fold(fs.root(), |dir, name| {
        fs.lookup(dir, name.as_bytes()).unwrap()
    })
}

fn check(options: &[&str], size_kib: u64) {
    let temp = tempfile::tempdir().unwrap();
    let Some((image, mut files)) = make(temp.path(), options, size_kib) else {
        return;
    };
    fragment(&image, temp.path(), &mut files);
    run("fsck.fat", &["-n", image.to_str().unwrap()]);
    let volume = volume(&image);
    let fs = open(&volume);
    assert!(check_guest_fs(&*fs, &volume) > 300);
    let mut counts = Counts::default();
    let ours = our_files(&fs, &volume, fs.root(), "", &mut counts);
    assert_eq!(ours.len(), files.len());
    for (name, bytes) in &files {
        // This one would read as an escape.
        let name = name.replace("%u002F", "%u0025u002F");
        assert!(ours.get(&name) == Some(bytes), "{name}");
        if name.is_ascii() && !name.contains('%') {
            let theirs = mtools(&image, "mtype", &[&format!("::{name}")]);
            assert!(theirs == *bytes, "{name} by mtools");
        }
    }
    assert!(
        counts.encoded == 0 && counts.plain > files.len(),
        "{counts:?}"
    );
    facts(&*fs, &image);
}

/// Attributes, sizes, links and space, against what fsck.fat and mdir say.
fn facts(fs: &dyn GuestFs, image: &Path) {
    let info = fs.info();
    assert_eq!(info.label.as_deref(), Some("MY LABEL"));
    assert_eq!(info.uuid.as_deref(), Some("1234-ABCD"));
    let probed = probe(&*volume(image)).unwrap().unwrap();
    assert_eq!(
        (probed.label, probed.uuid),
        (info.label.clone(), info.uuid.clone())
    );
    // "image: 310 files, 651/2044 clusters"
    let output = run("fsck.fat", &["-n", image.to_str().unwrap()]).stdout;
    let text = String::from_utf8(output).unwrap();
    let (_, rest) = text.trim_end().rsplit_once("files, ").unwrap();
    let used: u64 = rest.split('/').next().unwrap().parse().unwrap();
    assert_eq!(info.used_bytes, used * u64::from(info.block_bytes));
    let attributes = |path: &str| fs.attributes(resolve(fs, path)).unwrap();
    let root = fs.attributes(fs.root()).unwrap();
    // "d", "many files", "NOTHING", "small".
    assert_eq!((root.nlink, root.mode, root.ino), (6, 0o755, GuestIno(1)));
    assert_eq!(attributes("NOTHING").nlink, 2);
    assert_eq!(attributes("d/d").nlink, 3);
    assert_eq!(attributes("SHORT.TXT").mode, 0o555);
    let odd = attributes("two.dots.in it");
    assert_eq!((odd.mode, odd.nlink, odd.size_bytes), (0o755, 1, 600_000));
    let clusters = 600_000u64.div_ceil(u64::from(info.block_bytes));
    assert_eq!(odd.blocks, clusters * u64::from(info.block_bytes) / 512);
    // "SHORT    TXT         5 2026-11-21  15:15"
    let listed = mtools(image, "mdir", &["-a", "::SHORT.TXT"]);
    let listed = String::from_utf8(listed).unwrap();
    let line = listed
        .lines()
        .find(|line| line.starts_with("SHORT"))
        .unwrap();
    let date = line
        .split_whitespace()
        .rev()
        .find(|w| w.contains('-'))
        .unwrap();
    let clock = line
        .split_whitespace()
        .rev()
        .find(|w| w.contains(':'))
        .unwrap();
    let shown = Command::new("date")
        .args(["-u", "-d", &format!("{date} {clock} UTC"), "+%s"])
        .output()
        .unwrap();
    let minute: i64 = String::from_utf8(shown.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let mtime = attributes("SHORT.TXT").mtime.seconds;
    assert!(
        (minute..minute + 60).contains(&mtime),
        "{mtime} is not in {line}"
    );
}

#[test]
fn fat12() {
    check(&["-F", "12", "-s", "8"], 8 << 10);
}

#[test]
fn fat16() {
    check(&["-F", "16", "-s", "4"], 32 << 10);
}

#[test]
fn fat32() {
    check(&["-F", "32", "-s", "2"], 100 << 10);
    check(&["-F", "32", "-s", "8"], 600 << 10);
}

/// As it is made on a disk with such sectors.
#[test]
fn sectors_of_4096_bytes() {
    check(&["-F", "16", "-S", "4096", "-s", "1"], 40 << 10);
}

/// An image that is filled by the tools, in memory, and the offset of an entry in it.
fn damaged(name: &str) -> Option<(MemoryDisk, u64)> {
    let temp = tempfile::tempdir().unwrap();
    let (image, _) = make(temp.path(), &["-F", "16", "-s", "4"], 32 << 10)?;
    let disk = MemoryDisk::from_bytes(&std::fs::read(&image).unwrap());
    let fs = open(&volume(&image));
    Some((disk, resolve(&*fs, name).0 * 32))
}

fn word(disk: &MemoryDisk, at: u64) -> u16 {
    let mut bytes = [0; 2];
    disk.read_at(at, &mut bytes).unwrap();
    u16::from_le_bytes(bytes)
}

/// A chain that comes back to itself, one that is too short, and one that names no cluster.
#[test]
fn chains_that_are_wrong_are_damage() {
    let Some((disk, entry)) = damaged("two.dots.in it") else {
        return;
    };
    let first = u64::from(word(&disk, entry + 26));
    // The first table begins at the fifth sector of four: mkfs.fat reserves as many as a cluster has.
    let table = u64::from(word(&disk, 14)) * 512;
    let third = table + (first + 2) * 2;
    for (value, is_circle) in [
        (u16::try_from(first).unwrap(), true),
        (0xffff, false),
        (0xfff7, false),
        (0, false),
    ] {
        let broken = disk.clone();
        broken.write_at(third, &value.to_le_bytes()).unwrap();
        let volume: Arc<dyn ReadAt> = Arc::new(broken);
        let fs = open(&volume);
        let ino = resolve(&*fs, "two.dots.in it");
        let mut bytes = vec![0; 6144];
        let start = fs.read_encoded(ino, 0, &mut bytes);
        if is_circle {
            assert_eq!(start.unwrap_err().kind(), ErrorKind::Corrupt);
        } else {
            // The part that there is can be had.
            start.unwrap();
            assert!(bytes == noise(7, 6144));
            let error = fs.read_encoded(ino, 6100, &mut bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            assert_eq!(error.context().offset, Some(6144));
        }
        // All else is as it was.
        assert_eq!(
            fs.attributes(resolve(&*fs, "lower.txt"))
                .unwrap()
                .size_bytes,
            512
        );
    }
}

#[test]
fn a_directory_whose_chain_is_a_circle_is_damage() {
    let Some((disk, entry)) = damaged("many files") else {
        return;
    };
    let first = word(&disk, entry + 26);
    let table = u64::from(word(&disk, 14)) * 512;
    disk.write_at(table + u64::from(first) * 2, &first.to_le_bytes())
        .unwrap();
    let volume: Arc<dyn ReadAt> = Arc::new(disk);
    let fs = open(&volume);
    let error = fs.entries(resolve(&*fs, "many files")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

/// The second table and the sector of hints are not needed to read: mtools, which like Linux reads the first table, shows the same.
#[test]
fn a_bad_second_table_and_bad_hints_cost_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let Some((image, files)) = make(temp.path(), &["-F", "32", "-s", "2"], 100 << 10) else {
        return;
    };
    let disk = MemoryDisk::from_bytes(&std::fs::read(&image).unwrap());
    let table_bytes = u64::from(word(&disk, 36)) * 512;
    let second = u64::from(word(&disk, 14)) * 512 + table_bytes;
    let hints = u64::from(word(&disk, 48)) * 512;
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    let write = |at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    };
    write(second, &noise(1, 65_536));
    write(hints, &noise(2, 512));
    let volume = volume(&image);
    let fs = open(&volume);
    let ours = our_files(&fs, &volume, fs.root(), "", &mut Counts::default());
    assert_eq!(ours.len(), files.len());
    for (name, bytes) in files
        .iter()
        .filter(|(name, _)| name.is_ascii() && !name.contains('%'))
    {
        assert!(ours.get(name) == Some(bytes), "{name}");
        let theirs = mtools(&image, "mtype", &[&format!("::{name}")]);
        assert!(theirs == *bytes, "{name} by mtools");
    }
}
