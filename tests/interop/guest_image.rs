//! Images of guest filesystems, made by mkfs and filled through the kernel's own mount.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::need::{has, need};
use crate::kit::noise::noise;
use crate::tool::run;

/// A kernel mount of an image, undone when dropped.
pub(crate) struct Mount {
    pub(crate) dir: tempfile::TempDir,
}

impl Mount {
    fn attempt(image: &Path, options: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-o", &format!("loop,{options}")])
            .args([image, dir.path()])
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(Self { dir });
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Mounts `image` with `options`; `None`, with SKIP, where we may not mount.
    pub(crate) fn new(image: &Path, options: &str) -> Option<Self> {
        // The kernel's btrfs keeps devices by their names, and loop devices of other tests come and go: a mount that fails by that chance
        // succeeds a moment later.
        let mut why = String::new();
        for _ in 0..5 {
            match Self::attempt(image, options) {
                Ok(mount) => return Some(mount),
                Err(said) => why = said,
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        need(false, &format!("mount: {why}"));
        None
    }

    /// As [`Mount::new`], for formats that a kernel may have been built without: never a failure.
    pub(crate) fn if_known(image: &Path, options: &str) -> Option<Self> {
        let mounted = Self::attempt(image, options);
        if let Err(why) = &mounted {
            println!("SKIP: this kernel does not mount it: {why}");
        }
        mounted.ok()
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Children that other tests have just begun hold what was open when they were, until they are programs of their own.
        for _ in 0..100 {
            let status = Command::new("umount").arg(self.dir.path()).output();
            if status.is_ok_and(|output| output.status.success()) || std::thread::panicking() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("umount");
    }
}

/// An empty filesystem of `size_mib` in `dir`, made by `mkfs` with `options`.
pub(crate) fn make(dir: &Path, mkfs: &str, options: &[&str], size_mib: u64) -> Option<PathBuf> {
    if !has(mkfs) || !has("setfattr") || !has("setfacl") {
        return None;
    }
    let path = dir.join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size_mib << 20).unwrap();
    let force = if mkfs.starts_with("mkfs.ext") {
        "-F"
    } else {
        "-f"
    };
    let mut arguments = vec!["-q", force];
    arguments.extend(options);
    arguments.push(path.to_str().unwrap());
    run(mkfs, &arguments);
    Some(path)
}

/// The same, mounted once, for `write` to write into.
pub(crate) fn made(
    dir: &Path,
    mkfs: &str,
    options: &[&str],
    size_mib: u64,
    write: impl FnOnce(&Path),
) -> Option<PathBuf> {
    let image = make(dir, mkfs, options, size_mib)?;
    let mount = Mount::new(&image, "rw")?;
    write(mount.path());
    drop(mount);
    Some(image)
}

fn shell(at: &Path, script: &str) {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(at)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Fills a mounted filesystem with one of everything.
pub(crate) fn fill(root: &Path, block_bytes: u64) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    for (name, length) in [
        ("empty", 0),
        ("tiny", 20),
        ("sixty", 60),
        ("inline", 130),
        ("block", 4096),
        ("odd", 70_001),
        ("large", 5_000_000),
    ] {
        write(name, &noise(7, length));
    }
    std::fs::create_dir(root.join("many")).unwrap();
    for n in 0..2000 {
        write(&format!("many/entry number {n}"), &noise(n, 3));
    }
    let deep = root.join(["d"; 60].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), b"deep").unwrap();
    write("ünïcödé ☃", b"x");
    write(&"n".repeat(255), b"x");
    let no_text = std::ffi::OsStr::from_bytes(b"latin1 \xe9\xff \n\t name");
    std::fs::write(root.join(no_text), b"x").unwrap();
    std::fs::hard_link(root.join("odd"), root.join("many/odd again")).unwrap();
    for length in [1, 59, 60, 61, 100, 160, 908] {
        symlink("t".repeat(length), root.join(format!("link{length}"))).unwrap();
    }
    fill_sparse(root, block_bytes);
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for (name, mode) in [("tiny", 0o4755), ("block", 0o2640), ("many", 0o1777)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(root.join(name), permissions).unwrap();
    }
    shell(
        root,
        "mkfifo fifo; mknod null c 1 3; mknod big b 259 70000
         chown 70000:80000 odd; chown -h 5:6 link60
         setfattr -n user.short -v value tiny
         setfattr -n user.empty tiny
         setfattr -n user.binary -v 0x000102ff0a tiny
         setfattr -n user.long -v $(head -c 700 /dev/zero | tr '\\0' x) block
         setfattr -n trusted.t -v secret odd
         setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 tiny
         setfacl -m u:1000:r,g:2000:rw block
         setfacl -d -m u:1000:rwx many
         touch -d '1905-05-05 05:05:05.123456789' sixty
         touch -d '2037-12-31 23:59:59.999999999' inline
         touch -d '2100-02-28 23:59:59.5' large
         touch -h -d '2001-01-01 00:00:00.000000001' link61
         touch -d '1970-01-01 00:00:00' empty",
    );
}

fn fill_sparse(root: &Path, block_bytes: u64) {
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(1, 5000), 1 << 20).unwrap();
    sparse.write_all_at(&noise(2, 10), 20 << 20).unwrap();
    sparse.set_len((64 << 20) + 17).unwrap();
    // Every other block, so that the tree has inner nodes; in reverse, so that neighbours on the disk are none in the file.
    let extents = std::fs::File::create(root.join("extents")).unwrap();
    for n in (0..1500).rev() {
        let bytes = noise(n, usize::try_from(block_bytes).unwrap());
        extents.write_all_at(&bytes, n * 2 * block_bytes).unwrap();
    }
    // Unwritten extents where the format has them.
    let unwritten = std::fs::File::create(root.join("unwritten")).unwrap();
    let allocated = Command::new("fallocate")
        .args(["-l", "1M", root.join("unwritten").to_str().unwrap()])
        .output();
    if !allocated.is_ok_and(|output| output.status.success()) {
        unwritten.set_len(1 << 20).unwrap();
    }
    unwritten.write_all_at(&noise(3, 100), 300_000).unwrap();
}
