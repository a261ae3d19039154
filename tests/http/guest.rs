//! The guest of the tests: an ext4 filesystem with names that could do harm, made by mke2fs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::kit::noise::noise;
use crate::kit::place::Place;

/// Names below `/files/names` with what they have.
pub(crate) const NAMES: [&[u8]; 8] = [
    b"x.svg",
    b"x.html",
    b"a\"\r\nSet-Cookie:b",
    "\u{202e}gpj.exe".as_bytes(),
    b"\xff\xfe.bin",
    b"a+b",
    b"a b&c=d#e?f",
    b"%41",
];

/// The content of the file of that name.
pub(crate) fn content(name: &[u8]) -> Vec<u8> {
    let begin: &[u8] = match name {
        b"x.svg" => b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"x.html" => b"<script>alert(1)</script>",
        _ => b"content of ",
    };
    [begin, name].concat()
}

/// Bytes of `/files/srv/large`.
pub(crate) fn large() -> Vec<u8> {
    noise(11, 3 << 20)
}

/// Makes the disk as the file `name` of a place.
pub(crate) fn make(place: &Place, name: &str) {
    let staging = place.path("staging");
    write(
        &staging.join("etc/fstab"),
        b"LABEL=root / ext4 defaults 0 1\n",
    );
    write(&staging.join("etc/hostname"), b"web01\n");
    for name in NAMES {
        let path = staging.join("names").join(OsStr::from_bytes(name));
        write(&path, &content(name));
    }
    write(&staging.join("srv/large"), &large());
    write(&staging.join("srv/a/one"), b"1");
    write(&staging.join("srv/a/b/two"), &noise(3, 70_000));
    write(&staging.join("srv/empty"), b"");
    std::fs::hard_link(staging.join("srv/a/one"), staging.join("srv/a/same")).unwrap();
    symlink("../../etc/hostname", staging.join("srv/a/link")).unwrap();
    symlink("loop", staging.join("srv/loop")).unwrap();
    symlink("/srv/a", staging.join("way")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(staging.join("srv/a/one"), mode).unwrap();
    format(place, &staging, name, 64);
    std::fs::remove_dir_all(staging).unwrap();
}

/// Makes a disk of `mib` MiB with the files of a directory.
pub(crate) fn format(place: &Place, staging: &Path, name: &str, mib: u64) {
    let disk = place.path(name);
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(mib << 20).unwrap();
    let tool = ["/usr/sbin/mke2fs", "/sbin/mke2fs"];
    let tool = tool.iter().find(|path| Path::new(path).exists()).unwrap();
    let output = Command::new(tool)
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-d"])
        .arg(staging)
        .arg(&disk)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mke2fs: {said}");
}

/// Writes a file with the directories above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Bytes of a name as a query has them.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}
