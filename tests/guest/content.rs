//! What is in the guest: a part of this machine's own files, and things that are hard to copy.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kernel::{run, text};

/// LIMIT: files that are taken from this machine, and how large they are.
const HOST_FILES: usize = 3000;
const HOST_FILE_BYTES: u64 = 60_000;

pub(crate) fn put(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A root tree: by `mmdebstrap` where `RESTOREFS_GUEST_MMDEBSTRAP=1` asks for it and a mirror answers, else files of this machine.
pub(crate) fn root(to: &Path, files: usize) {
    let wants_debian = std::env::var_os("RESTOREFS_GUEST_MMDEBSTRAP").is_some_and(|v| v == "1");
    if wants_debian && files >= HOST_FILES {
        let made = Command::new("mmdebstrap")
            .args(["--variant=minbase", "--format=directory"])
            // A machine whose clock is wrong gets its tree all the same.
            .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "stable"])
            .arg(to)
            .status();
        if made.is_ok_and(|status| status.success()) {
            return;
        }
        println!("SKIP: mmdebstrap found no mirror; files of this machine are taken");
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).unwrap();
    }
    host_files(to, files);
}

/// Files and symlinks of /etc and /usr, of any package.
fn host_files(to: &Path, count: usize) {
    let listed = Command::new("find")
        .args(["/etc", "/usr", "-xdev", "("])
        .args(["-type", "f", "-size"])
        .arg(format!("-{HOST_FILE_BYTES}c"))
        .args(["-o", "-type", "l", ")", "-print0"])
        .output()
        .unwrap();
    let mut paths: Vec<&[u8]> = listed.stdout.split(|b| *b == 0).collect();
    paths.retain(|path| !path.is_empty());
    paths.sort_unstable();
    let step = (paths.len() / count).max(1);
    let chosen: Vec<&[u8]> = paths.into_iter().step_by(step).take(count).collect();
    let mut rsync = Command::new("rsync")
        .args([
            "-aHAX",
            "--ignore-missing-args",
            "--from0",
            "--files-from=-",
            "/",
            text(to),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    rsync
        .stdin
        .take()
        .unwrap()
        .write_all(&chosen.join(&0))
        .unwrap();
    // 23 and 24: a package is being installed meanwhile, and files came and went.
    let code = rsync.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 23 | 24)), "{code:?}");
}

/// Whatever a copy can get wrong.
pub(crate) fn hard(dir: &Path) {
    std::fs::create_dir_all(dir.join("links/deep")).unwrap();
    let at = |name: &str| dir.join(name);
    put(&at("acl"), "who may read this");
    run("setfacl", &["-m", "u:1234:rw,g:4321:r", text(&at("acl"))]);
    run("setfacl", &["-d", "-m", "u:1234:rwx", text(&at("links"))]);
    put(&at("xattr"), "");
    run(
        "setfattr",
        &["-n", "user.a", "-v", "value", text(&at("xattr"))],
    );
    let long = "v".repeat(700);
    run(
        "setfattr",
        &["-n", "user.long", "-v", &long, text(&at("xattr"))],
    );
    run(
        "setfattr",
        &["-n", "trusted.t", "-v", "1", text(&at("xattr"))],
    );
    put(&at("capable"), "#!/bin/sh\n");
    run("setcap", &["cap_net_raw+ep", text(&at("capable"))]);
    put(&at("setuid"), "#!/bin/sh\n");
    std::os::unix::fs::chown(at("setuid"), Some(1), Some(2)).unwrap();
    std::fs::set_permissions(at("setuid"), PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(at("links/deep"), PermissionsExt::from_mode(0o3777)).unwrap();
    for (name, kind, device) in [("null", "c", ["1", "3"]), ("disk", "b", ["259", "70000"])] {
        run("mknod", &[text(&at(name)), kind, device[0], device[1]]);
    }
    run("mkfifo", &[text(&at("fifo"))]);
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    for n in [0u64, 3, 7] {
        sparse.write_all_at(&[n as u8 + 1; 9000], n << 20).unwrap();
    }
    sparse.set_len(9 << 20).unwrap();
    std::fs::hard_link(at("acl"), at("links/deep/one")).unwrap();
    std::fs::hard_link(at("acl"), at("links/two")).unwrap();
    put(&at(&"n".repeat(255)), "long");
    put(
        &dir.join(OsStr::from_bytes(b"not utf-8 \xff\xfe\nnew line")),
        "odd",
    );
    symlink("x".repeat(900), at("far")).unwrap();
    symlink("round", at("round")).unwrap();
    symlink("/hard/acl", at("absolute")).unwrap();
    for (name, when) in [("old", "1965-01-02 03:04:05.678"), ("new", "2100-01-01")] {
        put(&at(name), name);
        run("touch", &["-d", when, text(&at(name))]);
    }
    let large: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    put(&at("large"), large);
    for n in 0..300 {
        put(&dir.join(format!("many/file-{n}")), format!("{n}"));
    }
}
