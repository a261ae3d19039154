//! Ownership: some crates, and `unsafe`, belong to one place each.

use crate::source::{Source, Violation, words};

/// Crate, where it may be named, and why.
const OWNERS: [(&str, &[&str], &str); 30] = [
    ("axum", &["src/http/"], "one door speaks HTTP"),
    ("hyper", &["src/http/"], "one door speaks HTTP"),
    ("hyper_util", &["src/http/"], "one door speaks HTTP"),
    ("ureq", &["src/http/client/"], "one client speaks HTTP"),
    (
        "maud",
        &["src/http/page/"],
        "pages are rendered in one place",
    ),
    (
        "prometheus",
        &["src/metrics/"],
        "metrics are counted and written in one place",
    ),
    (
        "PoisonError",
        &["src/types/sync.rs"],
        "locks are those of types::sync, which are not poisoned",
    ),
    (
        "forget_points",
        &["src/repo/", "src/ingest/", "src/service/"],
        "doors ask the service",
    ),
    (
        "LocalStore",
        &["src/store/", "src/repo/"],
        "repositories are opened in one place",
    ),
    ("fuser", &["src/fuse/"], "the tree knows no FUSE"),
    ("redb", &["src/repo/"], "the catalog is one module's secret"),
    (
        "tokio",
        &[
            "src/nbd/server/",
            "src/http/",
            "src/control/",
            "src/daemon/",
        ],
        "what FUSE threads touch is synchronous",
    ),
    (
        "rustls",
        &[
            "src/tls/",
            "src/nbd/client/",
            "src/nbd/server/",
            "src/http/client/",
        ],
        "TLS is spoken by NBD, and by the client of HTTP",
    ),
    (
        "webpki",
        &["src/tls/"],
        "certificates are looked into in one place",
    ),
    (
        "tokio_rustls",
        &["src/nbd/server/", "src/http/"],
        "only the servers speak TLS on tokio",
    ),
    (
        "sd_notify",
        &["src/daemon/", "src/sys/"],
        "the service manager is told by the daemon",
    ),
    (
        "strsim",
        &["src/types/likeness.rs"],
        "one measure of likeness for all mistyped words",
    ),
    (
        "toml",
        &["src/daemon/", "src/access/", "src/repo/register/"],
        "what people write for the daemon, and names of repositories",
    ),
    (
        "clap",
        &["src/cli/", "src/main.rs"],
        "flags are the command line's",
    ),
    (
        "indicatif",
        &["src/cli/"],
        "progress bars are the command line's",
    ),
    (
        "fs_ext4",
        &["src/guest/ext/"],
        "young crate, behind our own trait",
    ),
    (
        "fs_xfs",
        &["src/guest/xfs/"],
        "young crate, behind our own trait",
    ),
    (
        "fs_btrfs",
        &["src/guest/btrfs/"],
        "young crate, behind our own trait",
    ),
    (
        "landlock",
        &["src/sys/"],
        "what a process may do is set in one place",
    ),
    (
        "seccompiler",
        &["src/sys/"],
        "what a process may do is set in one place",
    ),
    (
        "postcard",
        &["src/guest/worker/"],
        "only readers in other processes are spoken to in it",
    ),
    (
        "tar",
        &["src/export/archive/"],
        "archives are written in one place",
    ),
    (
        "zip",
        &["src/export/archive/"],
        "archives are written in one place",
    ),
    (
        "fs_core",
        &["src/guest/"],
        "young crate, behind our own trait",
    ),
    (
        "libc",
        &["src/sys/", "src/error/", "src/fuse/"],
        "system calls go through sys; errno constants live in error and fuse",
    ),
];

/// Checks which crates a file names.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (n, line) in source.code.iter().enumerate() {
        if !source.is_below(&["src/sys/"]) && words(line, "unsafe").next().is_some() {
            violations.push(source.violation(n, "unsafe", "unsafe code belongs in src/sys"));
        }
        if !source.path.starts_with("src/") || source.is_test(n) {
            continue;
        }
        for (name, owners, why) in OWNERS {
            if source.is_below(owners) {
                continue;
            }
            let named = words(line, name).any(|at| {
                let before = line[..at].trim_end();
                let after = line[at + name.len()..].trim_start();
                let is_path = after.starts_with("::") && !before.ends_with("::");
                let is_use = before.ends_with("use") || before.ends_with("use ::");
                is_path || is_use
            });
            if named {
                let say = format!("`{name}` belongs in {}: {why}", owners.join(", "));
                violations.push(source.violation(n, "owner", say));
            }
        }
    }
    violations
}

#[test]
fn planted() {
    use crate::plant;
    plant(
        check,
        "src/tree/mod.rs",
        "use fuser::Filesystem;",
        &["owner"],
    );
    plant(
        check,
        "src/chain/mod.rs",
        "let x = redb::Database::open(p);",
        &["owner"],
    );
    plant(check, "src/ingest/mod.rs", "tokio::spawn(x)", &["owner"]);
    plant(check, "src/repo/mod.rs", "use clap;", &["owner"]);
    plant(check, "src/store/local.rs", "libc::EINVAL", &["owner"]);
    plant(
        check,
        "src/guest/fs.rs",
        "use fs_ext4::Filesystem;",
        &["owner"],
    );
    plant(check, "src/block/file.rs", "unsafe { x() }", &["unsafe"]);
    plant(
        check,
        "src/block/file.rs",
        "#[cfg(test)]\nunsafe {}",
        &["unsafe"],
    );
    plant(
        check,
        "src/fuse/mod.rs",
        "use fuser::Filesystem; libc::EIO",
        &[],
    );
    plant(check, "src/sys/x.rs", "unsafe { libc::ioctl() }", &[]);
    plant(
        check,
        "src/block/file.rs",
        "// use fuser::x\nlet fuser = 1; \"libc::x\"",
        &[],
    );
    plant(
        check,
        "src/block/file.rs",
        "#[cfg(test)]\nmod tests { use libc::EIO; }",
        &[],
    );
}
