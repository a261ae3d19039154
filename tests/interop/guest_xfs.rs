//! XFS: our reader against the kernel's.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use restorefs::block::{FileDisk, MemoryDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::fs::{FsInfo, GuestFs};
use restorefs::guest::xfs;
use restorefs::sys::beneath::Access;

use crate::guest_image::{Mount, fill, made, make};
use crate::guest_walk::{Counts, by_many, compare};
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

/// The least that mkfs.xfs makes.
const SIZE_MIB: u64 = 320;

fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

fn open(volume: &Arc<dyn ReadAt>) -> Box<dyn GuestFs> {
    xfs::open(std::slice::from_ref(volume)).unwrap()
}

/// Fills an image through the kernel and `more`, and compares what both then show.
fn check_more(options: &[&str], block_bytes: u64, more: impl FnOnce(&Path)) -> Option<Counts> {
    let temp = tempfile::tempdir().unwrap();
    let image = make(temp.path(), "mkfs.xfs", options, SIZE_MIB)?;
    {
        let mount = Mount::new(&image, "rw")?;
        fill(mount.path(), block_bytes);
        more(mount.path());
    }
    let mount = Mount::new(&image, "ro,norecovery")?;
    let volume = volume(&image);
    let fs = open(&volume);
    assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
    assert!(by_many(&*fs, &volume) > 2000);
    Some(compare(fs, &volume, mount.path()))
}

fn check(options: &[&str], block_bytes: u64) -> Option<Counts> {
    check_more(options, block_bytes, |_| ())
}

#[test]
fn xfs_as_it_is_made_by_default() {
    if let Some(counts) = check(&["-L", "a label"], 4096) {
        assert!(counts.plain > 3500, "{counts:?}");
        assert!(counts.encoded == 0 && counts.inline == 0, "{counts:?}");
    }
}

/// Whether this kernel still knows the format of before 2013; few do.
fn knows_version_4(options: &[&str]) -> bool {
    let temp = tempfile::tempdir().unwrap();
    let image = make(temp.path(), "mkfs.xfs", options, SIZE_MIB);
    image.is_some_and(|image| Mount::if_known(&image, "rw").is_some())
}

#[test]
fn xfs_of_version_4() {
    if knows_version_4(&["-m", "crc=0"]) {
        check(&["-m", "crc=0"], 4096);
        check(&["-m", "crc=0", "-b", "size=1024", "-i", "size=256"], 1024);
    }
}

/// Version 4 as mkfs.xfs fills it, which needs no kernel.
#[test]
fn xfs_of_version_4_made_by_tools() {
    if !has("mkfs.xfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (image, content) = (temp.path().join("image"), temp.path().join("content"));
    std::fs::write(&content, noise(1, 100_000)).unwrap();
    let long = "t".repeat(900);
    let mut prototype = format!(
        "/none\n0 0\nd--755 0 0\nfile -u-640 70000 80000 {}\nlink l--777 0 0 {long}\n\
         null c--644 0 0 1 3\nmany d--1750 3 4\n",
        content.display()
    );
    for n in 0..1000 {
        prototype.push_str(&format!("entry-number-{n} l--777 0 0 target\n"));
    }
    prototype.push_str("$\n$\n");
    std::fs::write(temp.path().join("prototype"), prototype).unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(SIZE_MIB << 20)
        .unwrap();
    let prototype = temp.path().join("prototype");
    let paths = [prototype.to_str().unwrap(), image.to_str().unwrap()];
    run(
        "mkfs.xfs",
        &[&["-q", "-m", "crc=0", "-p"][..], &paths].concat(),
    );
    let volume = volume(&image);
    let fs = open(&volume);
    assert_eq!(check_guest_fs(&*fs, &volume), 1005);
    let find = |name: &[u8]| fs.lookup(fs.root(), name).unwrap();
    let file = fs.attributes(find(b"file")).unwrap();
    assert_eq!((file.uid, file.gid, file.mode), (70_000, 80_000, 0o4640));
    assert_eq!(file.crtime, None);
    let mut bytes = vec![0; 100_000];
    fs.read_encoded(find(b"file"), 0, &mut bytes).unwrap();
    assert!(bytes == noise(1, 100_000));
    assert_eq!(fs.symlink_target(find(b"link")).unwrap(), long.as_bytes());
    assert_eq!(fs.attributes(find(b"null")).unwrap().rdev, Some((1, 3)));
    assert_eq!(fs.entries(find(b"many")).unwrap().len(), 1000);
}

#[test]
fn xfs_with_small_blocks_and_inodes() {
    check(&["-b", "size=1024", "-i", "size=512"], 1024);
}

#[test]
fn xfs_with_large_inodes_and_directory_blocks() {
    check(&["-i", "size=2048", "-n", "size=65536"], 4096);
}

#[test]
fn xfs_with_all_features_of_its_time_and_with_few() {
    check(
        &[
            "-m",
            "rmapbt=1,reflink=1,inobtcount=1,bigtime=1",
            "-i",
            "nrext64=1",
        ],
        4096,
    );
    check(
        &[
            "-m",
            "rmapbt=0,reflink=0,finobt=0,inobtcount=0,bigtime=0",
            "-i",
            "nrext64=0",
        ],
        4096,
    );
}

/// Two files of the same blocks, and one whose blocks are shared in part.
#[test]
fn shared_extents() {
    check_more(&["-m", "reflink=1"], 4096, |root| {
        for name in ["shared", "shared in part"] {
            let from = root.join("large");
            let to = root.join(name);
            run(
                "cp",
                &[
                    "--reflink=always",
                    from.to_str().unwrap(),
                    to.to_str().unwrap(),
                ],
            );
        }
        let file = std::fs::File::options()
            .write(true)
            .open(root.join("shared in part"))
            .unwrap();
        file.write_all_at(&noise(5, 9000), 1_000_001).unwrap();
    });
}

/// Attributes in leaves, in a tree, and with values in blocks of their own.
#[test]
fn many_attributes() {
    for options in [&["-m", "crc=1"][..], &["-b", "size=1024"]] {
        check_more(options, 4096, |root| {
            let path = root.join("odd");
            for n in 0..300u64 {
                let name = format!("user.attribute number {n} with a long name");
                let length = if n % 50 == 0 { 60_000 } else { 40 };
                let bytes = noise(n, length);
                rustix::fs::setxattr(&path, name, &bytes, rustix::fs::XattrFlags::empty()).unwrap();
            }
        });
    }
}

#[test]
fn facts_of_the_filesystem() {
    let temp = tempfile::tempdir().unwrap();
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let arguments = ["-L", "my label", "-m", &format!("uuid={uuid}")];
    let Some(image) = make(temp.path(), "mkfs.xfs", &arguments, SIZE_MIB) else {
        return;
    };
    let fs = open(&volume(&image));
    let FsInfo {
        label,
        uuid: found,
        block_bytes,
        inodes,
        inodes_free,
        used_bytes,
        total_bytes,
        ..
    } = fs.info().clone();
    assert_eq!(label.as_deref(), Some("my label"));
    assert_eq!(found.as_deref(), Some(uuid));
    assert_eq!((block_bytes, total_bytes), (4096, SIZE_MIB << 20));
    assert!(
        used_bytes > 1 << 20 && used_bytes < 100 << 20,
        "{used_bytes}"
    );
    assert_eq!((inodes, inodes_free.map(|n| n > 0)), (Some(64), Some(true)));
}

/// What changes between the copies of a filesystem that is in use.
fn change(root: &Path) {
    std::fs::remove_file(root.join("tiny")).unwrap();
    std::fs::rename(root.join("block"), root.join("moved")).unwrap();
    std::fs::write(root.join("new"), noise(98, 30_000)).unwrap();
    std::fs::create_dir(root.join("new directory")).unwrap();
    for n in 0..300 {
        std::fs::write(root.join(format!("new directory/{n}")), noise(n, 100)).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(700), root.join("new link")).unwrap();
    run(
        "setfattr",
        &[
            "-n",
            "user.new",
            "-v",
            "y",
            root.join("odd").to_str().unwrap(),
        ],
    );
    std::fs::remove_dir_all(root.join("d")).unwrap();
}

/// Compares an image with a log left in it with what the kernel makes of a copy.
fn compare_dirty(image: &Path, copy: &Path) -> Option<FsInfo> {
    std::fs::copy(image, copy).unwrap();
    let mount = Mount::new(copy, "rw,noatime")?;
    let volume = volume(image);
    let fs = open(&volume);
    let info = fs.info().clone();
    assert!(
        info.notes.join("; ").contains("log was replayed"),
        "{info:?}"
    );
    let facts = rustix::fs::statvfs(mount.path()).unwrap();
    let theirs = info.total_bytes - facts.f_bfree * facts.f_frsize;
    // The kernel calls what it reserves for itself used: up to 8192 blocks, and some for each group.
    assert!(
        (info.used_bytes..info.used_bytes + (24 << 20)).contains(&theirs),
        "{info:?}: the kernel says {theirs} bytes"
    );
    compare(fs, &volume, mount.path());
    Some(info)
}

#[test]
fn a_log_left_by_a_crash_is_replayed_in_memory() {
    if !has("xfs_io") {
        return;
    }
    for options in [&["-i", "size=1024"][..], &["-m", "reflink=1,rmapbt=1"]] {
        let temp = tempfile::tempdir().unwrap();
        let Some(image) = make(temp.path(), "mkfs.xfs", options, SIZE_MIB) else {
            return;
        };
        {
            let Some(mount) = Mount::new(&image, "rw") else {
                return;
            };
            fill(mount.path(), 4096);
            run("sync", &["-f", mount.path().to_str().unwrap()]);
            change(mount.path());
            let at = mount.path().to_str().unwrap();
            run("xfs_io", &["-x", "-c", "shutdown -f", at]);
        }
        compare_dirty(&image, &temp.path().join("theirs"));
    }
}

/// A snapshot of a running guest, then one of a frozen guest.
#[test]
fn copies_of_a_filesystem_in_use() {
    if !has("fsfreeze") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.xfs", &[], SIZE_MIB) else {
        return;
    };
    let (used, frozen) = (temp.path().join("used"), temp.path().join("frozen"));
    {
        let Some(mount) = Mount::new(&image, "rw") else {
            return;
        };
        fill(mount.path(), 4096);
        run("sync", &["-f", mount.path().to_str().unwrap()]);
        change(mount.path());
        std::fs::File::open(mount.path().join("new"))
            .unwrap()
            .sync_all()
            .unwrap();
        std::fs::copy(&image, &used).unwrap();
        let at = mount.path().to_str().unwrap();
        run("fsfreeze", &["--freeze", at]);
        std::fs::copy(&image, &frozen).unwrap();
        run("fsfreeze", &["--unfreeze", at]);
    }
    compare_dirty(&used, &temp.path().join("used again"));
    compare_dirty(&frozen, &temp.path().join("frozen again"));
}

/// Places of the records of a log, the newest first, as their sequence numbers say.
fn records(bytes: &[u8]) -> Vec<usize> {
    let sequence = |at: &usize| u64::from_be_bytes(bytes[at + 16..at + 24].try_into().unwrap());
    let mut found: Vec<usize> = (0..bytes.len() / 512)
        .map(|n| n * 512)
        .filter(|at| bytes[*at..*at + 4] == [0xfe, 0xed, 0xba, 0xbe])
        .collect();
    found.sort_by_key(sequence);
    found.reverse();
    found
}

/// The last records were on their way when the snapshot was taken: the kernel leaves them out, and so do we.
#[test]
fn torn_records_at_the_end_of_the_log_are_left_out() {
    if !has("xfs_io") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(temp.path(), "mkfs.xfs", &[], SIZE_MIB, |root| {
        for n in 0..20 {
            std::fs::create_dir(root.join(format!("directory {n}"))).unwrap();
            std::fs::File::open(root).unwrap().sync_all().unwrap();
        }
        run(
            "xfs_io",
            &["-x", "-c", "shutdown -f", root.to_str().unwrap()],
        );
    }) else {
        return;
    };
    let bytes = std::fs::read(&image).unwrap();
    let fs = open(&volume(&image));
    let whole = fs.entries(fs.root()).unwrap().len();
    // The newest one, then the one before it, which makes the newest one worth nothing.
    for nth in [0, 1] {
        let mut torn = bytes.clone();
        torn[records(&bytes)[nth] + 512 + 40] ^= 0x55;
        std::fs::write(&image, &torn).unwrap();
        let info = compare_dirty(&image, &temp.path().join("theirs")).unwrap();
        let note = format!("left out: {}", nth + 1);
        assert!(info.notes.join("; ").contains(&note), "{info:?}");
        let fs = open(&volume(&image));
        assert!(fs.entries(fs.root()).unwrap().len() < whole - nth);
    }
}

/// Files on a realtime device are named as what they are; all else is shown. Few kernels mount such a filesystem, so it is
/// made by the tools alone.
#[test]
fn files_on_a_realtime_device() {
    let temp = tempfile::tempdir().unwrap();
    if !has("mkfs.xfs") || !has("xfs_db") {
        return;
    }
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (data, realtime) = (path("data"), path("realtime"));
    for name in [&data, &realtime] {
        std::fs::File::create(name)
            .unwrap()
            .set_len(SIZE_MIB << 20)
            .unwrap();
    }
    std::fs::write(path("content"), noise(1, 10_000)).unwrap();
    let file = format!("---644 0 0 {}", path("content"));
    let prototype = format!("/none\n0 0\nd--755 0 0\nplain {file}\nrealtime {file}\n$\n");
    std::fs::write(path("prototype"), prototype).unwrap();
    let device = format!("rtdev={realtime}");
    let options = ["-q", "-f", "-m", "reflink=0,rmapbt=0", "-r", &device, "-p"];
    run(
        "mkfs.xfs",
        &[&options[..], &[&path("prototype"), &data]].concat(),
    );
    let fs = open(&volume(Path::new(&data)));
    let ino = fs.lookup(fs.root(), b"realtime").unwrap();
    let inode = format!("inode {}", ino.0);
    run(
        "xfs_db",
        &["-x", "-c", &inode, "-c", "write core.realtime 1", &data],
    );
    let fs = open(&volume(Path::new(&data)));
    let plain = fs.lookup(fs.root(), b"plain").unwrap();
    let mut bytes = vec![0; 10_000];
    fs.read_encoded(plain, 0, &mut bytes).unwrap();
    assert!(bytes == noise(1, 10_000));
    assert_eq!(fs.attributes(ino).unwrap().size_bytes, 10_000);
    let error = fs.runs(ino).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("realtime device"), "{error}");
}

/// A feature that is not read is named.
#[test]
fn unknown_features_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.xfs", &["-m", "crc=0"], SIZE_MIB) else {
        return;
    };
    let disk = MemoryDisk::from_bytes(&std::fs::read(&image).unwrap()[..1 << 20]);
    // sb_features2 (linux/fs/xfs/libxfs/xfs_format.h), an unknown bit.
    let mut features = [0; 4];
    disk.read_at(200, &mut features).unwrap();
    features[0] |= 0x40;
    disk.write_at(200, &features).unwrap();
    let error = xfs::open(&[Arc::new(disk)]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("features2"), "{error}");
}

/// Trees that are none, with checksums that are right: a tree of extents that names a leaf twice, and a chain of leaves of
/// attributes that comes back to its start.
#[test]
fn circles_are_damage() {
    if !has("xfs_db") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(temp.path(), "mkfs.xfs", &[], SIZE_MIB, |root| {
        fill(root, 4096);
        for n in 0..300u64 {
            let name = format!("user.attribute number {n} with a long name");
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(root.join("odd"), name, &noise(n, 40), flags).unwrap();
        }
    }) else {
        return;
    };
    let volume = volume(&image);
    let sound = open(&volume);
    let find = |name: &[u8]| sound.lookup(sound.root(), name).unwrap();
    let (extents, attributes) = (find(b"extents"), find(b"odd"));
    assert!(sound.runs(extents).unwrap().runs().len() > 1500);
    assert_eq!(sound.xattrs(attributes).unwrap().len(), 301);
    let image = image.to_str().unwrap();
    let database = |arguments: &[&str]| {
        let mut all = vec!["-x"];
        arguments.iter().for_each(|a| all.extend(["-c", a]));
        all.push(image);
        String::from_utf8(run("xfs_db", &all).stdout).unwrap()
    };
    let (file, owner) = (
        format!("inode {}", extents.0),
        format!("inode {}", attributes.0),
    );
    let printed = database(&[&file, "print u3.bmbt.ptrs[1]"]);
    let (_, first) = printed.trim().rsplit_once([' ', ':']).unwrap();
    database(&[&file, &format!("write u3.bmbt.ptrs[2] {first}")]);
    database(&[&owner, "ablock 1", "write hdr.info.hdr.forw 1"]);
    let fs = open(&volume);
    let error = fs.runs(extents).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("circle"), "{error}");
    let error = fs.xattrs(attributes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    // All else is as it was.
    assert_eq!(
        fs.entries(fs.root()).unwrap(),
        sound.entries(sound.root()).unwrap()
    );
}
