//! Requirements of a test. A missing requirement skips the test, which prints SKIP; with
//! `CI_REQUIRE=1` it fails the test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether a test can continue that needs `what`.
#[track_caller]
pub(crate) fn need(is_there: bool, what: &str) -> bool {
    if !is_there {
        let is_required = std::env::var_os("CI_REQUIRE").is_some_and(|value| value == "1");
        assert!(!is_required, "missing: {what}");
        println!("SKIP: {what}");
    }
    is_there
}

/// Whether a program is installed.
#[track_caller]
pub(crate) fn has(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut dirs = path.split(':');
    need(dirs.any(|dir| Path::new(dir).join(tool).exists()), tool)
}

/// Whether all of these programs are installed.
#[track_caller]
pub(crate) fn has_all(tools: &[&str]) -> bool {
    tools.iter().all(|tool| has(tool))
}

/// Whether the test runs as root.
#[track_caller]
pub(crate) fn is_root() -> bool {
    need(rustix::process::geteuid().is_root(), "root")
}

/// Whether FUSE filesystems can be mounted.
#[track_caller]
pub(crate) fn can_mount() -> bool {
    is_root() && need(Path::new("/dev/fuse").exists(), "/dev/fuse")
}

/// Whether loop devices are available.
#[track_caller]
pub(crate) fn can_loop() -> bool {
    let found = || {
        let mut losetup = Command::new("losetup");
        losetup
            .arg("-f")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        losetup.status().is_ok_and(|status| status.success())
    };
    has("losetup") && need(found(), "loop devices")
}

/// A TCP port that no program uses.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
