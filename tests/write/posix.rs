//! What a file is expected to do, on a disk of an open session.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::stand::{Stand, ready};

#[test]
fn files_behave_as_files() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    stand.begin("s");
    let path = stand.disk("s");
    // O_EXCL.
    let new = || fs::File::options().write(true).create_new(true).open(&path);
    new().unwrap();
    assert_eq!(new().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    // O_APPEND.
    for part in ["one ", "two ", "three"] {
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(part.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one two three");
    // A write past the end leaves a hole.
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all_at(b"far", 1_000_000).unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 1_000_003);
    let mut hole = vec![9; 70_000];
    file.read_exact_at(&mut hole, 13).unwrap();
    assert!(hole.iter().all(|byte| *byte == 0));
    // Reads end at the end, and not at the end of a sector.
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(999_999)).unwrap();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"\0far");
    // O_TRUNC.
    fs::write(&path, "short").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"short");
    // Times follow writes.
    let before = fs::metadata(&path).unwrap();
    file.write_all_at(b"S", 0).unwrap();
    let after = fs::metadata(&path).unwrap();
    let time = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec());
    assert!(time(&after) > time(&before));
    // A directory's time changes with its names.
    let dir = stand.at("vm/s.partial/disks");
    let before = fs::metadata(&dir).unwrap();
    fs::write(dir.join("vdb.raw"), "x").unwrap();
    assert!(time(&fs::metadata(&dir).unwrap()) > time(&before));
    // A copy between files of the mount.
    fs::copy(&path, dir.join("vdb.raw")).unwrap();
    assert_eq!(fs::read(dir.join("vdb.raw")).unwrap(), b"Short");
    // Locks are the kernel's own.
    file.lock().unwrap();
    let other = fs::File::open(&path).unwrap();
    assert!(other.try_lock().is_err());
    file.unlock().unwrap();
    stand.commit("s", "p").unwrap();
    assert_eq!(stand.point("p"), b"Short");
}

/// `status` is as long as stat says, whenever it is read.
#[test]
fn documents_have_their_exact_size() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let disk = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    for n in 0..20 {
        disk.write_all_at(&bytes[..70_000 * n / 19], 0).unwrap();
        let mut file = fs::File::open(stand.at("vm/s.partial/status")).unwrap();
        let size = file.metadata().unwrap().len();
        disk.write_all_at(b"between", 0).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, size);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["state"], "open");
    }
}

/// What the POSIX file system test suite (pjdfstest) asks of plain files, for those that can be made here. The comments name its files.
#[test]
fn system_calls_answer_as_the_suite_expects() {
    use rustix::fs::{
        AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
        Uid,
    };
    use rustix::io::Errno;

    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    stand.begin("s");
    for (dir, suffix) in [("disks", ".raw"), ("attached", ".txt")] {
        let at = |name: &str| {
            stand
                .at("vm/s.partial")
                .join(dir)
                .join(format!("{name}{suffix}"))
        };
        let open = |path: &std::path::Path, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from(0o644))
        };
        let create = OFlags::CREATE | OFlags::RDWR;
        let stat = |path: &std::path::Path| fs::symlink_metadata(path).unwrap();
        // open/00: a new file is regular, of no bytes, of one link; owner and group are those of the mount.
        let file = open(&at("new"), create).unwrap();
        let new = stat(&at("new"));
        assert!(new.is_file() && new.len() == 0 && new.nlink() == 1);
        // open/01, 03, 04, 13, 22: ENOTDIR, ENAMETOOLONG, ENOENT, EISDIR, EEXIST.
        assert_eq!(
            open(&at("new").join("x"), create).unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(
            open(&at(&"x".repeat(256)), create).unwrap_err(),
            Errno::NAMETOOLONG
        );
        assert_eq!(open(&at("none"), OFlags::RDWR).unwrap_err(), Errno::NOENT);
        let top = stand.at("vm/s.partial");
        assert_eq!(
            open(&top.join(dir), OFlags::RDWR).unwrap_err(),
            Errno::ISDIR
        );
        let exclusive = open(&at("new"), create | OFlags::EXCL);
        assert_eq!(exclusive.unwrap_err(), Errno::EXIST);
        // ftruncate/00, 12, 13; truncate/03: grows with zeroes, shrinks, EINVAL for what is negative or not open for writing.
        rustix::fs::ftruncate(&file, 1000).unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), vec![0; 1000]);
        rustix::io::pwrite(&file, b"0123456789", 0).unwrap();
        rustix::fs::ftruncate(&file, 5).unwrap();
        rustix::fs::ftruncate(&file, 8).unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"01234\0\0\0");
        assert_eq!(
            rustix::fs::ftruncate(&file, u64::MAX).unwrap_err(),
            Errno::INVAL
        );
        let read_only = open(&at("new"), OFlags::RDONLY).unwrap();
        assert_eq!(
            rustix::fs::ftruncate(&read_only, 0).unwrap_err(),
            Errno::INVAL
        );
        assert_eq!(
            rustix::io::pwrite(&read_only, b"x", 0).unwrap_err(),
            Errno::BADF
        );
        // chmod/00, chown/00: they show, and setuid does not stay.
        rustix::fs::chmod(at("new"), Mode::from(0o4705)).unwrap();
        assert_eq!(stat(&at("new")).mode() & 0o7777, 0o705);
        let owner = (Uid::from_raw(65_534), Gid::from_raw(65_533));
        rustix::fs::chown(at("new"), Some(owner.0), Some(owner.1)).unwrap();
        assert_eq!(
            (stat(&at("new")).uid(), stat(&at("new")).gid()),
            (65_534, 65_533)
        );
        rustix::fs::chown(at("new"), Some(Uid::ROOT), None).unwrap();
        assert_eq!(
            (stat(&at("new")).uid(), stat(&at("new")).gid()),
            (0, 65_533)
        );
        // utimensat/00, 02, 03, 09: to the nanosecond, UTIME_OMIT, UTIME_NOW, and seconds beyond 32 bits.
        let set = |access: (i64, i64), modification: (i64, i64)| {
            let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
            let times = Timestamps {
                last_access: spec(access),
                last_modification: spec(modification),
            };
            rustix::fs::utimensat(CWD, at("new"), &times, AtFlags::empty()).unwrap();
            let now = stat(&at("new"));
            (
                (now.atime(), now.atime_nsec()),
                (now.mtime(), now.mtime_nsec()),
            )
        };
        let (early, late) = ((86_400, 123_456_789), (5_000_000_000, 999_999_999));
        assert_eq!(set(early, late), (early, late));
        assert_eq!(set((0, UTIME_OMIT), early), (early, early));
        let now = set((0, UTIME_NOW), (0, UTIME_OMIT));
        assert!(now.0.0 > 1_700_000_000 && now.1 == early);
        // unlink/00, 01, 04, 08; rmdir/01, 02, 12: ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL.
        let unlink = |path: &std::path::Path| rustix::fs::unlink(path);
        assert_eq!(unlink(&at("none")).unwrap_err(), Errno::NOENT);
        assert_eq!(unlink(&at("new").join("x")).unwrap_err(), Errno::NOTDIR);
        assert_eq!(unlink(&top.join(dir)).unwrap_err(), Errno::ISDIR);
        assert_eq!(rustix::fs::rmdir(at("new")).unwrap_err(), Errno::NOTDIR);
        assert_eq!(
            rustix::fs::rmdir(top.join(dir)).unwrap_err(),
            Errno::NOTEMPTY
        );
        assert_eq!(
            rustix::fs::rmdir(top.join(dir).join(".")).unwrap_err(),
            Errno::INVAL
        );
        // rename/00, 09, 23: to itself nothing happens; a file replaces a file, RENAME_NOREPLACE does not, and not a directory.
        rustix::fs::rename(at("new"), at("new")).unwrap();
        let beside = stand
            .at("vm/s.partial")
            .join(dir)
            .join(format!(".new{suffix}.Xy12"));
        fs::write(&beside, "better").unwrap();
        let flags = RenameFlags::NOREPLACE;
        let kept = rustix::fs::renameat_with(CWD, &beside, CWD, at("new"), flags);
        assert_eq!(kept.unwrap_err(), Errno::EXIST);
        let other = if dir == "disks" { "attached" } else { "disks" };
        let over = rustix::fs::rename(&beside, top.join(other));
        assert_eq!(over.unwrap_err(), Errno::ISDIR);
        rustix::fs::rename(&beside, at("new")).unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"better");
        assert!(!beside.exists());
        // posix_fallocate/00: grows, keeps what is there.
        let file = open(&at("new"), OFlags::RDWR).unwrap();
        let none = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, none, 3, 10).unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"better\0\0\0\0\0\0\0");
        assert_eq!(
            rustix::fs::fallocate(&file, none, 0, 0).unwrap_err(),
            Errno::INVAL
        );
        unlink(&at("new")).unwrap();
        assert_eq!(
            fs::metadata(at("new")).unwrap_err().kind(),
            std::io::ErrorKind::NotFound
        );
    }
}

/// Who may not is refused by the kernel, from the owner and the mode that are shown.
#[test]
fn others_may_not_write() {
    if !ready(&["setpriv"]) {
        return;
    }
    let (stand, _) = Stand::with_point("allow_other,uid=4321,gid=4321,umask=027");
    let as_user = |user: &str, script: &str| {
        let output = std::process::Command::new("setpriv")
            .args([
                "--reuid",
                user,
                "--regid",
                user,
                "--clear-groups",
                "sh",
                "-c",
                script,
            ])
            .current_dir("/")
            .env("MNT", stand.at(""))
            .output()
            .unwrap();
        output.status.success()
    };
    // The way to the mount belongs to root.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(stand.place.dir.path(), open).unwrap();
    let script = "mkdir $MNT/vm/u.partial && echo x | dd of=$MNT/vm/u.partial/disks/vda.raw conv=notrunc && mv $MNT/vm/u.partial $MNT/vm/u";
    assert!(!as_user("1234", script));
    assert!(!stand.at("vm/u.partial").exists());
    assert!(as_user("4321", script));
    assert!(stand.point("u").starts_with(b"x\n"));
    assert!(!as_user("1234", "cat $MNT/vm/u/disks/vda.raw"));
}
